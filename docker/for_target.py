"""The lines of a constraints file that hold on an image's Python and machine, not on those of who asks.

    python docker/for_target.py docker/constraints-cpu.txt 3.13 x86_64

pip reads `python_version < '3.13'` as its own Python's, whatever --python-version it was given. Knows Linux alone.
"""

import re
import sys
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement


def holding(text: str, python: str, machine: str) -> list[str]:
    """Requirements with their hashes and without their markers.

    Args:
        text: as `uv pip compile --universal --generate-hashes` writes it.
        python: "3.13".
        machine: as `uname -m` says it, "x86_64" or "aarch64".
    """
    target = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "os_name": "posix",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": machine,
    }
    lines = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        said, *hashes = re.split(r"\s+--hash=", line.strip())
        requirement = Requirement(said)
        if requirement.marker is None or requirement.marker.evaluate(target):
            found.append(
                " ".join([f"{requirement.name}{requirement.specifier}", *(f"--hash={each}" for each in hashes)])
            )
    return found


if __name__ == "__main__":
    file, python, machine = sys.argv[1:]
    sys.stdout.write("\n".join(holding(Path(file).read_text(), python, machine)) + "\n")
