"""Write prometheusrules.yaml: the plain rule files, wrapped as PrometheusRule objects.

`make rules`. Kustomize can generate a ConfigMap from a file, but no other kind.
"""

import sys
from pathlib import Path

import yaml

FOLDER = Path(__file__).parent
OUT = FOLDER / "prometheusrules.yaml"
HEAD = "# Written by `make rules` from the files named below; change those.\n"


def wrapped(rules: Path) -> str:
    """One PrometheusRule; its `spec` is the file's own text, comments and all."""
    groups = "".join(f"  {line}\n" if line else "\n" for line in rules.read_text(encoding="utf-8").splitlines())
    return (
        f"---\n# {rules.name}\napiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n"
        f"  name: marrowlens-{rules.stem}\n  labels: {{app.kubernetes.io/name: marrowlens}}\nspec:\n{groups}"
    )


def document() -> str:
    """Both rule files. A file that is not `groups:` and nothing else is refused."""
    files = [FOLDER / name for name in ("recording.yaml", "alerts.yaml")]
    for rules in files:
        if set(yaml.safe_load(rules.read_text(encoding="utf-8"))) != {"groups"}:
            sys.exit(f"{rules}: a rule file holds `groups` and nothing else")
    return HEAD + "".join(wrapped(rules) for rules in files)


if __name__ == "__main__":
    OUT.write_text(document(), encoding="utf-8")
