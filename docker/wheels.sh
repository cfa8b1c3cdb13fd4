#!/bin/sh
# Fetch all wheels of an image, each checked by its sha256, to build the image without a network:
#
#   docker/wheels.sh cpu wheels                                            with a network
#   docker build -f docker/service.Dockerfile --build-context wheels=wheels --network none .        without one
#
# For another machine type or Python version: MACHINE=aarch64 IMAGE_PYTHON=3.12 docker/wheels.sh cpu wheels
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
MACHINE=${MACHINE:-x86_64}
IMAGE_PYTHON=${IMAGE_PYTHON:-3.13}

case ${1-} in
    cpu | gpu | openvino | training) ;;
    tensorrt) echo "TensorRT's wheel is not on PyPI: the tensorrt image needs a network" >&2 && exit 1 ;;
    *) echo "usage: docker/wheels.sh cpu|gpu|openvino|training FOLDER" >&2 && exit 1 ;;
esac
image=$1
folder=${2:?folder is missing: give the output folder}
mkdir -p "$folder"

# glibc 2.36 is that of Debian 12. pip does not derive older manylinux tags from newer ones, so all are listed.
platforms="--platform=manylinux2014_$MACHINE"
for minor in $(seq 17 36); do platforms="$platforms --platform=manylinux_2_${minor}_$MACHINE"; done

for constraints in "$image" build; do
    "$PYTHON" docker/for_target.py "docker/constraints-$constraints.txt" "$IMAGE_PYTHON" "$MACHINE" >"$folder/$constraints.txt"
    # shellcheck disable=SC2086
    "$PYTHON" -m pip download --disable-pip-version-check --quiet --no-deps --require-hashes --only-binary :all: \
        --implementation cp --python-version "$IMAGE_PYTHON" $platforms --dest "$folder" --requirement "$folder/$constraints.txt"
done
echo "$folder: $(find "$folder" -name '*.whl' | wc -l) wheels for $image, Python $IMAGE_PYTHON on $MACHINE"
