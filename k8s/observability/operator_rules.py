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
    """A PrometheusRule with the text of a rule file as its `spec`, comments included."""
    groups = "".join(f"  {line}\n" if line else "\n" for line in rules.read_text(encoding="utf-8").splitlines())
    return (
        f"---\n# {rules.name}\napiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n"
        f"  name: marrowlens-{rules.stem}\n  labels: {{app.kubernetes.io/name: marrowlens}}\nspec:\n{groups}"
    )


def document() -> str:
    """Both rule files as one document. Exits with an error if a file has keys besides `groups`."""
    files = [FOLDER / name for name in ("recording.yaml", "alerts.yaml")]
    for rules in files:
        if set(yaml.safe_load(rules.read_text(encoding="utf-8"))) != {"groups"}:
            sys.exit(f"{rules}: expected only the key `groups`")
    return HEAD + "".join(wrapped(rules) for rules in files)


if __name__ == "__main__":
    OUT.write_text(document(), encoding="utf-8")
