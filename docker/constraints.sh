#!/bin/sh
# Writes the constraints that the images and `make serve` install from: every distribution at one version, with the sha256 of each of
# its files on PyPI. One file an image, for every machine and every Python that pyproject.toml allows.
#
#   docker/constraints.sh                     what pyproject.toml has grown; versions that are there stay
#   docker/constraints.sh --upgrade           everything as new as it can be (`make constraints` does this)
#   docker/constraints.sh --upgrade-package pillow
#
# There is none for tensorrt: what PyPI has of it is a placeholder that fetches the wheel from NVIDIA when it is built.
# That image installs gpu's by their hashes, and TensorRT alone without (docker/install.sh).
#
# UV names uv (MIT or Apache-2.0), which reads PyPI alone: no other index, no file of the machine's own settings.
set -eu
cd "$(dirname "$0")/.."
UV=${UV:-uv}
export UV_NO_CONFIG=1 UV_CUSTOM_COMPILE_COMMAND="make constraints"

# compile FILE SOURCE [OPTIONS]
compile() {
    file=docker/constraints-$1.txt
    source=$2
    shift 2
    echo "$file"
    "$UV" pip compile --quiet --universal --python-version 3.11 --generate-hashes --default-index https://pypi.org/simple \
        --no-emit-index-url --no-emit-find-links --output-file "$file" "$source" "$@" >/dev/null
}

for runtime in cpu gpu openvino; do
    compile "$runtime" pyproject.toml --extra service --extra postgres --extra otel --extra "$runtime" "$@"
done
# Tables as Parquet, for `make serve` alone; what it shares with cpu stands at the same version.
compile parquet pyproject.toml --extra parquet --constraint docker/constraints-cpu.txt "$@"
compile training pyproject.toml --extra training "$@"
compile build docker/build.in "$@"
