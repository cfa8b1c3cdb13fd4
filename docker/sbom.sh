#!/bin/sh
# Write the CycloneDX SBOM and the licence table of an image's Python environment; fail on an unknown licence.
#
#   docker/sbom.sh cpu                            install as the image does, into build/image-cpu (make sbom)
#   docker/sbom.sh cpu /opt/marrowlens            use an existing environment, such as inside an image
#
# OUT          output folder                                   build/sbom
# CYCLONEDX    cyclonedx-py
#
# For the Debian packages of the base image see docs/supply.md.
set -eu
cd "$(dirname "$0")/.."
OUT=${OUT:-build/sbom}
CYCLONEDX=${CYCLONEDX:-cyclonedx-py}
image=${1:?image is missing: give cpu, gpu, tensorrt, openvino or training}
environment=${2-}
if [ -z "$environment" ]; then
    environment=$PWD/build/image-$image
    rm -rf "$environment" "$environment-tools"
    export ENVIRONMENT="$environment" TOOLS="$environment-tools"
    docker/install.sh dependencies "$image"
    docker/install.sh project
fi
mkdir -p "$OUT"
"$CYCLONEDX" environment --pyproject pyproject.toml --output-reproducible --validate --spec-version 1.6 \
    --output-format JSON --output-file "$OUT/$image.cdx.json" "$environment/bin/python"
echo "$OUT/$image.cdx.json"
"${PYTHON:-python3}" docker/licences.py "$OUT/$image.cdx.json" "$OUT/$image-licences.csv"
