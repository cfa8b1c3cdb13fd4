#!/bin/sh
# What the Dockerfiles do to make an image's Python environment; the tests do the same in one of their own.
#
#   docker/install.sh dependencies cpu     what constraints-cpu.txt names, each file by its sha256
#   docker/install.sh project              marrowlens itself, built and installed without a look at an index
#
# PYTHON       the image's Python                                          python3
# ENVIRONMENT  what is made: no pip and no setuptools come in              /opt/marrowlens
# TOOLS        pip and what builds the wheel; stays behind                 /opt/build
# WHEELS       a folder that docker/wheels.sh filled: then there is no network; empty or missing: from the index
set -eu
docker=$(cd "$(dirname "$0")" && pwd)
PYTHON=${PYTHON:-python3}
ENVIRONMENT=${ENVIRONMENT:-/opt/marrowlens}
TOOLS=${TOOLS:-/opt/build}
WHEELS=${WHEELS:-/wheels}

offline=
if [ -n "$(find "$WHEELS" -name '*.whl' 2>/dev/null | head -n 1)" ]; then offline=yes; fi

# pip WORDS: the tools' pip, offline where there are wheels.
pip() { "$TOOLS/bin/python" -m pip --disable-pip-version-check "$@"; }
from_wheels() { if [ -n "$offline" ]; then echo --no-index "--find-links=$WHEELS"; fi; }
by_hash() { # ENVIRONMENT'S PYTHON, CONSTRAINTS
    # shellcheck disable=SC2046
    pip --python "$1" install $(from_wheels) --require-hashes --only-binary :all: --requirement "$docker/constraints-$2.txt"
}

dependencies() {
    case $1 in
        cpu | gpu | tensorrt | openvino | training) ;;
        *) echo "There is no image for $1; choose one of: cpu gpu tensorrt openvino training" >&2 && exit 1 ;;
    esac
    "$PYTHON" -m venv "$TOOLS"
    "$PYTHON" -m venv --without-pip "$ENVIRONMENT"
    by_hash "$TOOLS/bin/python" build
    case $1 in
        cpu | gpu | openvino | training) by_hash "$ENVIRONMENT/bin/python" "$1" ;;
        tensorrt)
            by_hash "$ENVIRONMENT/bin/python" gpu
            # NVIDIA's placeholder on PyPI fetches the wheel from NVIDIA: no hash of ours, and no build without network.
            "$TOOLS/bin/python" -c "import tomllib; extras = tomllib.load(open('pyproject.toml', 'rb'))['project'][
                'optional-dependencies']; print(*extras['tensorrt'], sep='\n')" >"$TOOLS/tensorrt.txt"
            pip --python "$ENVIRONMENT/bin/python" install --requirement "$TOOLS/tensorrt.txt"
            ;;
    esac
    # Training calls for more of its packages than anybody could list.
    if [ "$1" != training ]; then "$PYTHON" "$docker/trim.py" "$ENVIRONMENT"; fi
}

project() {
    pip wheel --quiet --no-deps --no-index --no-build-isolation --wheel-dir "$TOOLS/dist" .
    pip --python "$ENVIRONMENT/bin/python" install --no-deps --no-index "$TOOLS"/dist/marrowlens-*.whl
}

"$@"
