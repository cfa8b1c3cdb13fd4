"""PromQL as tests read it: the queries of the rules and the dashboard, which series and labels each names, and what a
query asks without its limits. The parser is promql-parser's, not Prometheus' own.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser as promql
import yaml

FOLDER = Path("k8s/observability")
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))
GUIDE = Path("docs/observability.md").read_text(encoding="utf-8")
#: What a scrape adds to every series.
TARGET = {"job", "instance"}
#: What Grafana puts in place of its variables, for a scrape every half second.
VARIABLES = {"$__rate_interval": "1m", "$job": ".*", "$instance": ".*"}
_COMPARISONS = {">", "<", ">=", "<=", "==", "!="}


@dataclass(frozen=True)
class Query:
    """One query, and the name of its rule, panel or example."""

    of: str
    expr: str

    def __str__(self) -> str:
        return self.of


def rules(file: str) -> list[dict[str, Any]]:
    """Every rule of a file, in order."""
    groups = yaml.safe_load((FOLDER / file).read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    """The alerts by name."""
    return {rule["alert"]: rule for rule in rules("alerts.yaml")}


def recorded() -> dict[str, str]:
    """Recorded series: name → expression."""
    return {rule["record"]: rule["expr"] for rule in rules("recording.yaml")}


def panels() -> list[dict[str, Any]]:
    """The dashboard's panels that have queries."""
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def dashboard_queries() -> list[Query]:
    """The queries of all panels, as Grafana would send them."""
    return [Query(f"{panel['title']} {target['refId']}", _sent(target["expr"])) for panel, target in _targets()]


def variable_queries() -> list[tuple[str, str]]:
    """The queries of the dashboard's variables: selector and label."""
    asked = [each["query"]["query"] for each in DASHBOARD["templating"]["list"] if each["type"] == "query"]
    found = [re.fullmatch(r"label_values\((.*), (\w+)\)", each) for each in asked]
    return [(_sent(each[1]), each[2]) for each in found if each]


def guide_queries() -> list[Query]:
    """The example queries in docs/observability.md."""
    blocks = re.findall(r"```promql\n(.*?)```", GUIDE, re.DOTALL)
    return [Query(f"by hand {at}", line) for at, line in enumerate("".join(blocks).splitlines())]


def rule_queries() -> list[Query]:
    """The queries of all rules."""
    return [
        *(Query(name, expr) for name, expr in recorded().items()),
        *(Query(name, rule["expr"]) for name, rule in alerts().items()),
    ]


def without_limits(expr: str) -> str:
    """The query without its comparisons to numbers: it has a result even if the alert does not fire."""

    def lifted(found: Any) -> Any:
        if isinstance(found, promql.BinaryExpr) and isinstance(found.rhs, promql.NumberLiteral):
            return found.lhs if str(found.op) in _COMPARISONS else None
        return None

    return str(promql.transform(promql.parse(expr), post_visit=lifted))


def alternatives(expr: str) -> list[str]:
    """The sides of an `or`, or the query itself without one."""
    found = promql.parse(expr)
    while isinstance(found, promql.ParenExpr):
        found = found.expr
    if isinstance(found, promql.BinaryExpr) and str(found.op) == "or":
        return alternatives(str(found.lhs)) + alternatives(str(found.rhs))
    return [str(found)]


def selectors(expr: str) -> list[Any]:
    """Every selector of series in the query."""
    found: list[Any] = []

    def visit(node: Any) -> None:
        if isinstance(node, promql.MatrixSelector):
            found.append(node.vector_selector)
        elif isinstance(node, promql.VectorSelector):
            found.append(node)

    promql.walk(promql.parse(expr), visit)
    return found


def grouped(expr: str) -> set[str]:
    """Every label that the query groups or matches by."""
    found: set[str] = set()

    def visit(node: Any) -> None:
        if isinstance(node, promql.AggregateExpr) and node.modifier:
            found.update(node.modifier.labels)
        if isinstance(node, promql.BinaryExpr) and node.modifier:
            found.update(node.modifier.matching.labels if node.modifier.matching else ())
            found.update(node.modifier.group_labels or ())

    promql.walk(promql.parse(expr), visit)
    return found


def legends() -> Iterator[tuple[str, set[str]]]:
    """Each query of the dashboard with the labels that its legend shows."""
    for _, target in _targets():
        yield _sent(target["expr"]), set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))


def _targets() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for panel in panels():
        for target in panel["targets"]:
            yield panel, target


def _sent(expr: str) -> str:
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    assert "$" not in expr, expr
    return expr
