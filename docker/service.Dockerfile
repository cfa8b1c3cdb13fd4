# The service with its bundled model: without torch and compiler, not root, read-only file system.
#
#   docker build -f docker/service.Dockerfile -t marrowlens:0.1.0 .
#   docker build -f docker/service.Dockerfile -t marrowlens:0.1.0-gpu --build-arg RUNTIME=gpu .
#   docker run --read-only --tmpfs /tmp -p 127.0.0.1:8000:8000 -e MARROWLENS_ALLOW_ANONYMOUS=true marrowlens:0.1.0
#
# A container listens on an address that other machines can reach. So it needs API keys (docs/access.md), or
# MARROWLENS_ALLOW_ANONYMOUS=true as above, where the port is published to this machine only.
#
# The base image is given by tag. To pin it, look up its digest and pass it:
#   docker buildx imagetools inspect python:3.13-slim-bookworm --format '{{.Manifest.Digest}}'
#   docker build … --build-arg PYTHON_IMAGE=python:3.13-slim-bookworm@sha256:…
# To build without a network, from wheels fetched by docker/wheels.sh: --build-context wheels=FOLDER --network none
# More in docs/supply.md: digests, wheels, constraints, SBOM, another base image at run time.
ARG PYTHON_IMAGE=python:3.13-slim-bookworm
# The run-time base may differ, such as one without a shell, if it has the same Python at the same path.
ARG RUN_IMAGE=${PYTHON_IMAGE}

FROM scratch AS wheels

FROM ${PYTHON_IMAGE} AS build
# cpu, openvino, gpu or tensorrt. gpu: onnxruntime-gpu with CUDA and cuDNN from wheels; the host needs the driver only.
# tensorrt: gpu plus TensorRT's wheel; set MARROWLENS_ENGINE_CACHE to a volume.
ARG RUNTIME=cpu
WORKDIR /src
# Dependencies change less often than code, so their layer copies only the files that list them.
COPY pyproject.toml ./
COPY docker/install.sh docker/trim.py docker/constraints-*.txt docker/
RUN --mount=type=bind,from=wheels,target=/wheels \
    --mount=type=cache,target=/root/.cache/pip \
    sh docker/install.sh dependencies "$RUNTIME"
COPY README.md LICENSE ./
COPY model/ model/
COPY training/ training/
COPY service/ service/
# pip compiles the bytecode at build time; at run time the file system is read-only.
RUN sh docker/install.sh project

FROM ${RUN_IMAGE}
LABEL org.opencontainers.image.title="marrowlens" \
      org.opencontainers.image.description="Classifies bone-marrow cells over HTTP. Research use only." \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/marrowlens /opt/marrowlens
# The NVIDIA names give the container the host's driver; without a GPU they have no effect. The MALLOC names make glibc
# return blocks of 1 MiB and more to the system: after large uploads the service holds 240 MB instead of 300 MB.
ENV PATH=/opt/marrowlens/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    MALLOC_MMAP_THRESHOLD_=1048576 \
    MALLOC_TRIM_THRESHOLD_=1048576 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    MARROWLENS_HOST=0.0.0.0 \
    MARROWLENS_PORT=8000
WORKDIR /tmp
# A number, not a name: Kubernetes can then verify that it is not root.
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import os, ssl, urllib.request; urllib.request.urlopen(('https' if os.environ.get('MARROWLENS_TLS_CERT') else 'http') + '://127.0.0.1:' + os.environ['MARROWLENS_PORT'] + '/health/live', timeout=2, context=ssl._create_unverified_context())"]
ENTRYPOINT ["marrowlens"]
CMD ["serve"]
