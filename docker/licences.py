"""List the licence of each package in an SBOM as CSV, and fail if docker/licences.toml does not allow one.

    python docker/licences.py build/sbom/cpu.cdx.json build/sbom/cpu-licences.csv

Reads CycloneDX JSON. Licences are taken from package metadata; licence texts are not read.
"""

import csv
import json
import re
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

POLICY = Path(__file__).with_name("licences.toml")
_OPERATORS = {"AND", "OR", "WITH"}


def licences(component: Mapping[str, Any], policy: Mapping[str, Any]) -> list[str]:
    """SPDX identifiers or other licence names of a package; empty if it declares none."""
    said = []
    for each in component.get("licenses", []):
        inner = each.get("license", {})
        said.append(each.get("expression") or inner.get("id") or inner.get("name") or "")
    if not any(said):
        said = [policy["read"].get(component["name"], "")]
    return sorted({name for words in said if words for name in _identifiers(policy["words"].get(words, words))})


def _identifiers(expression: str) -> list[str]:
    """All identifiers in an expression; each must be allowed, even in an OR."""
    if "::" in expression:
        return [expression]
    return [name for name in re.findall(r"[^\s()]+", expression) if name not in _OPERATORS]


def refused(component: Mapping[str, Any], policy: Mapping[str, Any]) -> str:
    """Why the package is not allowed; empty if it is."""
    found = licences(component, policy)
    unknown = [name for name in found if name not in policy["allowed"]]
    if not found:
        return f"{component['name']} {component['version']} declares no licence"
    return f"{component['name']} {component['version']} is under {', '.join(unknown)}" if unknown else ""


def main(sbom: Path, table: Path) -> int:
    policy = tomllib.loads(POLICY.read_text())
    components = json.loads(sbom.read_text())["components"]
    with table.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("package", "version", "licences"))
        rows.writerows((each["name"], each["version"], " ".join(licences(each, policy))) for each in components)
    complaints = [complaint for each in components if (complaint := refused(each, policy))]
    for complaint in complaints:
        sys.stderr.write(f"{complaint}: not in docker/licences.toml; read and add the licence, or drop the package\n")
    sys.stdout.write(f"{table}: {len(components)} packages, {len(complaints)} refused\n")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main(*(Path(name) for name in sys.argv[1:])))
