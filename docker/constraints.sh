#!/bin/sh
# Write the constraints files of the images and `make serve`: one version per package, with the sha256 of each of its
# files on PyPI. One file per image, for all machines and Python versions that pyproject.toml allows.
#
#   docker/constraints.sh                     add new dependencies of pyproject.toml; keep present versions
#   docker/constraints.sh --upgrade           upgrade all packages (`make constraints`)
#   docker/constraints.sh --upgrade-package pillow
#
# There is no file for tensorrt: its package on PyPI is a placeholder that fetches the wheel from NVIDIA. That image
# installs the packages of gpu by hash, and TensorRT without one (docker/install.sh).
#
# UV: path of uv (MIT or Apache-2.0). It uses PyPI only, and no configuration of this machine.
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
# Parquet tables, for `make serve` only; packages shared with cpu have the same version.
compile parquet pyproject.toml --extra parquet --constraint docker/constraints-cpu.txt "$@"
compile training pyproject.toml --extra training "$@"
compile build docker/build.in "$@"
