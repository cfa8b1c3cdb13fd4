# Training, evaluation and export. torch's wheels include CUDA; the host needs the driver only.
#
#   docker build -f docker/training.Dockerfile -t marrowlens-training:0.1.0 .
#   docker run --gpus all -v "$PWD/cells:/cells:ro" -v "$PWD/runs:/runs" --user "$(id -u):$(id -g)" \
#       marrowlens-training:0.1.0 fit /runs/CONFIG.toml --data /cells --out /runs/NAME
#
# Pinned digests and builds without a network: as in service.Dockerfile (docs/supply.md).
ARG PYTHON_IMAGE=python:3.13-slim-bookworm

FROM scratch AS wheels

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
COPY pyproject.toml ./
COPY docker/install.sh docker/trim.py docker/constraints-*.txt docker/
RUN --mount=type=bind,from=wheels,target=/wheels \
    --mount=type=cache,target=/root/.cache/pip \
    sh docker/install.sh dependencies training
COPY README.md LICENSE ./
COPY service/ service/
COPY model/ model/
COPY training/ training/
RUN sh docker/install.sh project

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="marrowlens-training" \
      org.opencontainers.image.description="Trains, evaluates and exports marrowlens models. Research use only." \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/marrowlens /opt/marrowlens
# The MALLOC names make glibc keep the large tensors that each training step frees, for the next step.
ENV PATH=/opt/marrowlens/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    MALLOC_MMAP_MAX_=0 \
    MALLOC_TOP_PAD_=268435456 \
    MALLOC_TRIM_THRESHOLD_=2147483647 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /runs
USER 10001:10001
ENTRYPOINT ["marrowlens-train"]
CMD ["--help"]
