"""Delete from the service's environment what no request needs: package tests, type stubs, model-building tools.

    python docker/trim.py /opt/marrowlens

Tests start the service from the trimmed environment (tests/deploy/test_image_install.py).
"""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

#: Folder names, in any package.
TESTS = ("tests",)
#: File suffixes that only type checkers and compilers read.
SOURCES = (".pyi", ".pxd", ".pyx", ".h", ".a")
#: Paths in site-packages.
TOOLS = (
    "onnxruntime/quantization",  # builds models
    "onnxruntime/tools",
    "onnxruntime/transformers",
    "sqlalchemy/testing",  # tests of dialects
    "alembic/testing",
)
#: The C library of onnxruntime. The CPU wheel does not load it; other providers may.
IN_C = "onnxruntime/capi/libonnxruntime.so.*"


def superfluous(packages: Path) -> Iterator[Path]:
    """Files and folders to delete from a site-packages folder."""
    yield from (packages / name for name in TOOLS if (packages / name).exists())
    yield from (found for found in packages.rglob("*") if found.is_dir() and found.name in TESTS)
    yield from (found for found in packages.rglob("*") if found.suffix in SOURCES and found.is_file())
    if not list(packages.glob("onnxruntime/capi/libonnxruntime_providers_[!s]*")):
        yield from packages.glob(IN_C)


def trim(environment: Path) -> int:
    """Delete them; returns the bytes freed."""
    (packages,) = environment.glob("lib/python3.*/site-packages")
    before = size(environment)
    for found in list(superfluous(packages)):
        if found.is_dir():
            shutil.rmtree(found)
        else:
            found.unlink(missing_ok=True)  # may lie in a deleted folder
    return before - size(environment)


def size(environment: Path) -> int:
    """Bytes of all files, not following symbolic links."""
    return sum(found.lstat().st_size for found in environment.rglob("*") if found.is_file() and not found.is_symlink())


if __name__ == "__main__":
    environment = Path(sys.argv[1])
    taken = trim(environment)
    sys.stdout.write(f"{size(environment) / 1e6:.0f} MB, {taken / 1e6:.0f} MB deleted\n")
