"""The rules and the dashboard as files: they name what the code counts, each alert is tested and explained, and nothing
lies over anything else. Whether they are answered, tests/service/telemetry/test_observability.py asks a real
Prometheus.
"""

import json
import re
import shutil
import subprocess
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from queries import (
    DASHBOARD,
    FOLDER,
    GUIDE,
    TARGET,
    Query,
    alerts,
    dashboard_queries,
    grouped,
    guide_queries,
    legends,
    panels,
    recorded,
    rule_queries,
    selectors,
    variable_queries,
)

from service.cli.metrics import sections, values_of
from service.telemetry.metrics import SECONDS

DECLARED = {metric.name: metric for _, _, declared in sections() for metric in declared}
SEVERITIES = {"critical", "warning", "info"}
QUERIES = [
    *dashboard_queries(),
    *rule_queries(),
    *guide_queries(),
    *(Query(f"${label}", of) for of, label in variable_queries()),
]
#: Routes of the machinery around the service, which no objective counts.
MACHINERY = {
    "/health/live",
    "/health/ready",
    "/metrics",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/{name}/ready",
    "/v2/models/{name}/versions/{version}/ready",
}


def labels_of(series: str) -> set[str]:
    """The labels of a series by its name, beside those of its target.

    Raises:
        KeyError: nothing counts it.
    """
    if series in ("up", "ALERTS") or series in recorded():
        return set()
    base = re.sub(r"_(bucket|sum|count)$", "", series)
    if base != series and DECLARED[base].type == "histogram":
        return {*DECLARED[base].labels, *({"le"} if series.endswith("_bucket") else ())}
    return set(DECLARED[series].labels)


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_every_query_names_series_and_labels_that_there_are(query: Query) -> None:
    known = set(TARGET)
    for selector in selectors(query.expr):
        of = labels_of(selector.name)
        known |= of
        assert {matcher.name for matcher in selector.matchers.matchers} <= of | TARGET
    assert grouped(query.expr) <= known


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_every_value_that_a_query_picks_is_one_that_is_counted(query: Query) -> None:
    for selector in selectors(query.expr):
        metric = DECLARED.get(selector.name)
        for matcher in selector.matchers.matchers:
            values = values_of(metric, matcher.name) if metric and matcher.name not in TARGET else ""
            if isinstance(values, tuple):
                assert set(matcher.value.split("|")) <= set(values), f"{selector}: {values}"
            if matcher.name == "le":
                assert float(matcher.value) in SECONDS


@pytest.mark.parametrize(("expr", "shown"), list(legends()))
def test_every_legend_shows_labels_that_its_query_keeps(expr: str, shown: set[str]) -> None:
    kept = grouped(expr) or {label for found in selectors(expr) for label in labels_of(found.name)} | TARGET
    assert shown <= kept | TARGET


def test_a_query_of_nothing_is_found() -> None:
    with pytest.raises(KeyError):
        labels_of("marrowlens_lis_dead_lettrs")


@pytest.mark.parametrize("name", alerts())
def test_an_alert_says_what_it_is_and_what_to_do(name: str) -> None:
    alert = alerts()[name]
    assert alert["labels"]["severity"] in SEVERITIES and alert["for"]
    said = alert["annotations"]
    assert set(said) == {"summary", "description", "runbook_url"}
    shown = set(re.findall(r"\$labels\.(\w+)", said["description"]))
    assert shown <= grouped(alert["expr"]) | TARGET | {"kind"}
    assert "$value" in said["description"] or "== " in alert["expr"], "which value"
    assert said["runbook_url"] == f"docs/observability.md#{name.lower()}"
    section = GUIDE.split(f"\n### {name}\n")[1].split("\n#")[0]
    assert len(section.split()) > 25, "the meaning, likely causes, what to do"
    assert alert["labels"]["severity"] in section.split("\n")[1]


def test_no_section_speaks_of_an_alert_that_is_gone() -> None:
    assert re.findall(r"^### (Marrowlens\w+)$", GUIDE, re.MULTILINE) == list(alerts())


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    fires: Counter[str] = Counter()
    quiet: Counter[str] = Counter()
    for path in sorted((FOLDER / "tests").glob("*.yaml")):
        for case in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]:
            names = {check["alertname"] for check in case["alert_rule_test"]}
            assert len(names) == 1, case["name"]
            fires_here = any(check["exp_alerts"] for check in case["alert_rule_test"])
            (fires if fires_here else quiet).update(names)
    assert set(fires) == set(quiet) == set(alerts())


def test_promtool_judges_by_the_rules_that_are_here(tmp_path: Path) -> None:
    # All cases are judged by `make lint`, which takes a minute. Here: that a rule that is changed is noticed.
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not here: apt-get install prometheus")
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    command = [promtool, "test", "rules", tmp_path / "tests/access.yaml"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    rules = tmp_path / "alerts.yaml"
    rules.write_text(rules.read_text().replace("[15m])) > 10", "[15m])) > 100"))
    broken = subprocess.run(command, capture_output=True, check=False, text=True)
    assert broken.returncode == 1 and "MarrowlensCallersRefused" in broken.stdout + broken.stderr


def test_the_guide_s_configuration_is_one(tmp_path: Path) -> None:
    [configuration] = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
    assert set(yaml.safe_load(configuration)) == {"rule_files", "scrape_configs"}
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not here: apt-get install prometheus")
    shutil.copytree(FOLDER, tmp_path / "marrowlens")
    (tmp_path / "marrowlens/key").write_text("a key")
    (tmp_path / "prometheus.yml").write_text(configuration)
    command = [promtool, "check", "config", tmp_path / "prometheus.yml"]
    judged = subprocess.run(command, capture_output=True, check=False, text=True)
    assert judged.returncode == 0 and "2 rule files found" in judged.stdout, judged.stdout + judged.stderr


def test_objectives_count_every_route_but_those_of_the_machinery() -> None:
    [left_out] = {
        matcher.value
        for query in rule_queries()
        for selector in selectors(query.expr)
        for matcher in selector.matchers.matchers
        if matcher.op == promql.MatchOp.NotRe and matcher.name == "route"
    }
    paths = json.loads(Path("openapi.json").read_text())["paths"]
    assert {path for path in paths if re.fullmatch(left_out, path)} == MACHINERY
    assert re.fullmatch(left_out, "other") and re.fullmatch(left_out, "/docs")


def round_trip(document: dict[str, Any]) -> Any:
    """The dashboard as Grafana's own types keep it: a key that they do not know is lost."""
    plugins.register_default_plugins()
    return json.loads(JSONEncoder().encode(Dashboard.from_json(document)))


def lost(document: Any, kept: Any, path: str = "") -> list[str]:
    """Every part of a document that is not kept as it was."""
    if isinstance(document, dict) and isinstance(kept, dict):
        return [found for key, value in document.items() for found in lost(value, kept.get(key), f"{path}.{key}")]
    if isinstance(document, list) and isinstance(kept, list) and len(document) == len(kept):
        pairs = zip(document, kept, strict=True)
        return [found for at, (value, other) in enumerate(pairs) for found in lost(value, other, f"{path}[{at}]")]
    return [] if document == kept else [path]


def test_the_dashboard_is_one_that_grafana_s_types_know() -> None:
    assert lost(DASHBOARD, round_trip(DASHBOARD)) == []
    assert DASHBOARD["schemaVersion"] >= 39 and DASHBOARD["uid"] and "id" not in DASHBOARD
    misspelt = json.loads(json.dumps(DASHBOARD).replace("fillOpacity", "fillOpacty"))
    assert lost(misspelt, round_trip(misspelt))


def test_no_panel_lies_over_another() -> None:
    every = DASHBOARD["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    assert len({panel["title"] for panel in every}) == len(every)
    places = [panel["gridPos"] for panel in every]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below, (one, other)


def test_every_panel_asks_the_chosen_prometheus_and_says_what_it_shows() -> None:
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    for panel in panels():
        assert panel["datasource"] == chosen and panel["description"].endswith("."), panel["title"]
        assert all(target["datasource"] == chosen for target in panel["targets"])
    mentioned = set(re.findall(r"Marrowlens\w+", json.dumps(DASHBOARD)))
    assert mentioned <= set(alerts())
