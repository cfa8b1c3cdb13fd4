"""Takes out of the service's environment what no request needs: tests of packages, type stubs, tools that make models.

    python docker/trim.py /opt/marrowlens

Knows names of folders and files. That nothing that is used goes is shown by the tests, which start what is left.
"""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

#: Folders of that name in any package.
TESTS = ("tests",)
#: What a type checker or a compiler reads, and no interpreter.
SOURCES = (".pyi", ".pxd", ".pyx", ".h", ".a")
#: By the path in site-packages.
TOOLS = (
    "onnxruntime/quantization",  # makes models
    "onnxruntime/tools",
    "onnxruntime/transformers",
    "sqlalchemy/testing",  # tests dialects
    "alembic/testing",
)
#: onnxruntime once more, for callers in C. The CPU's wheel has all of it in its Python module; others may load it.
IN_C = "onnxruntime/capi/libonnxruntime.so.*"


def superfluous(packages: Path) -> Iterator[Path]:
    """Files and folders to take out of a site-packages."""
    yield from (packages / name for name in TOOLS if (packages / name).exists())
    yield from (found for found in packages.rglob("*") if found.is_dir() and found.name in TESTS)
    yield from (found for found in packages.rglob("*") if found.suffix in SOURCES and found.is_file())
    if not list(packages.glob("onnxruntime/capi/libonnxruntime_providers_[!s]*")):
        yield from packages.glob(IN_C)


def trim(environment: Path) -> int:
    """Take it out; how many bytes that was."""
    (packages,) = environment.glob("lib/python3.*/site-packages")
    before = size(environment)
    for found in list(superfluous(packages)):
        if found.is_dir():
            shutil.rmtree(found)
        else:
            found.unlink(missing_ok=True)  # it lay in a folder that is gone
    return before - size(environment)


def size(environment: Path) -> int:
    """Bytes of an environment's files; what links lead to is not of it."""
    return sum(found.lstat().st_size for found in environment.rglob("*") if found.is_file() and not found.is_symlink())


if __name__ == "__main__":
    environment = Path(sys.argv[1])
    taken = trim(environment)
    sys.stdout.write(f"{size(environment) / 1e6:.0f} MB, without {taken / 1e6:.0f} MB that nothing needs\n")
