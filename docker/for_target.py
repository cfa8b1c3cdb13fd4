"""Filter a constraints file for the Python version and machine of an image, instead of those running this script.

    python docker/for_target.py docker/constraints-cpu.txt 3.13 x86_64

pip evaluates markers for its own Python, even with --python-version. Linux only.
"""

import re
import sys
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement


def matching_requirements(text: str, python: str, machine: str) -> list[str]:
    """The requirements that apply to the target, with their hashes and without their environment markers.

    Args:
        text: output of `uv pip compile --universal --generate-hashes`.
        python: version, such as "3.13".
        machine: output of `uname -m`, "x86_64" or "aarch64".
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
    sys.stdout.write("\n".join(matching_requirements(Path(file).read_text(), python, machine)) + "\n")
