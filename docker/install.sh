#!/bin/sh
# Build an image's Python environment. Used by the Dockerfiles and by the tests.
#
#   docker/install.sh dependencies cpu     install constraints-cpu.txt, each file checked by its sha256
#   docker/install.sh project              build and install marrowlens itself, without a package index
#
# PYTHON       the image's Python                                          python3
# ENVIRONMENT  target environment, without pip and setuptools              /opt/marrowlens
# TOOLS        environment of pip and the build backend, not in the image  /opt/build
# WHEELS       folder of docker/wheels.sh, to install without a network    /wheels; without files: the package index
set -eu
docker=$(cd "$(dirname "$0")" && pwd)
PYTHON=${PYTHON:-python3}
ENVIRONMENT=${ENVIRONMENT:-/opt/marrowlens}
TOOLS=${TOOLS:-/opt/build}
WHEELS=${WHEELS:-/wheels}

offline=
if [ -n "$(find "$WHEELS" -name '*.whl' 2>/dev/null | head -n 1)" ]; then offline=yes; fi

# pip WORDS: run pip of the TOOLS environment.
pip() { "$TOOLS/bin/python" -m pip --disable-pip-version-check "$@"; }
from_wheels() { if [ -n "$offline" ]; then echo --no-index "--find-links=$WHEELS"; fi; }
by_hash() { # ENVIRONMENT'S PYTHON, CONSTRAINTS
    # shellcheck disable=SC2046
    pip --python "$1" install $(from_wheels) --require-hashes --only-binary :all: --requirement "$docker/constraints-$2.txt"
}

dependencies() {
    case $1 in
        cpu | gpu | tensorrt | openvino | training) ;;
        *) echo "unknown image: $1; choose one of: cpu gpu tensorrt openvino training" >&2 && exit 1 ;;
    esac
    "$PYTHON" -m venv "$TOOLS"
    "$PYTHON" -m venv --without-pip "$ENVIRONMENT"
    by_hash "$TOOLS/bin/python" build
    case $1 in
        cpu | gpu | openvino | training) by_hash "$ENVIRONMENT/bin/python" "$1" ;;
        tensorrt)
            by_hash "$ENVIRONMENT/bin/python" gpu
            # NVIDIA's placeholder on PyPI fetches the wheel from NVIDIA: without a hash, and only with a network.
            "$TOOLS/bin/python" -c "import tomllib; extras = tomllib.load(open('pyproject.toml', 'rb'))['project'][
                'optional-dependencies']; print(*extras['tensorrt'], sep='\n')" >"$TOOLS/tensorrt.txt"
            pip --python "$ENVIRONMENT/bin/python" install --requirement "$TOOLS/tensorrt.txt"
            ;;
    esac
    # Training uses too many parts of its packages to list what may be deleted.
    if [ "$1" != training ]; then "$PYTHON" "$docker/trim.py" "$ENVIRONMENT"; fi
}

project() {
    pip wheel --quiet --no-deps --no-index --no-build-isolation --wheel-dir "$TOOLS/dist" .
    pip --python "$ENVIRONMENT/bin/python" install --no-deps --no-index "$TOOLS"/dist/marrowlens-*.whl
}

"$@"
