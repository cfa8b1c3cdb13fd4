#!/bin/sh
# What an image's Python environment holds, as CycloneDX, and under which licences; an unknown one fails.
#
#   docker/sbom.sh cpu                            installs what the image installs, into build/image-cpu (make sbom)
#   docker/sbom.sh cpu /opt/marrowlens            of an environment that is there, such as an image's own
#
# OUT          the folder that it is written to                build/sbom
# CYCLONEDX    cyclonedx-py
#
# The base image's own packages are Debian's: docs/supply.md says what lists those.
set -eu
cd "$(dirname "$0")/.."
OUT=${OUT:-build/sbom}
CYCLONEDX=${CYCLONEDX:-cyclonedx-py}
image=${1:?say which image: cpu, gpu, tensorrt, openvino or training}
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
