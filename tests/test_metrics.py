"""The metrics as a scraper reads them."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import get_args

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from serving import client

from model.drift_distance import Reading
from service.classify import _OUTCOMES
from service.forming import FlushReason
from service.lis.metrics import LisMetrics
from service.lis.outbox import Depth
from service.lis_settings import LisSettings
from service.metrics import Metrics
from service.problems import TABLE

PAGE = Path("docs/metrics.md").read_text(encoding="utf-8")


@pytest.fixture
def metrics() -> Metrics:
    """Every metric touched at least once."""
    metrics = Metrics()
    metrics.request("/classify", 200, 0.012)
    metrics.request("/classify", 429, 0.001)
    metrics.refused("queue_full")
    metrics.picture("answered")
    metrics.picture("undecodable")
    metrics.decoded(0.0015)
    metrics.batch_done(queue_wait_s=[0.001, 0.004, 0.3], run_s=0.04, reason="idle", failed=False)
    metrics.batch_done(queue_wait_s=[0.1], run_s=0.02, reason="full", failed=True)
    metrics.padded(2)
    metrics.model_change("done")
    metrics.watch(queued=lambda: 3, in_flight=lambda: 7, ready=lambda: True)
    metrics.model(name="micro", version="0.0.1", sha256="0" * 64, manifest_sha256="1" * 64, provider="cpu")
    metrics.drift.watch(lambda: Reading(500, {"colour": 1.5}, {"colour": 0.6}))
    laboratory = LisMetrics(metrics.registry)
    laboratory.done("sign")
    laboratory.order("taken")
    laboratory.tried("hl7", "delivered")
    laboratory.depths(["hl7", "fhir"], [Depth("hl7", 3, 1, None)], [12.0])
    return metrics


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = metrics.exposition()[0].decode()
    families = text_string_to_metric_families(text)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_what_happened_is_what_is_read(metrics: Metrics) -> None:
    read = samples(metrics)
    assert read["marrowlens_requests_total", (("route", "/classify"), ("status", "429"))] == 1
    assert read["marrowlens_request_duration_seconds_sum", (("route", "/classify"),)] == pytest.approx(0.013)
    assert read["marrowlens_refusals_total", (("reason", "queue_full"),)] == 1
    assert read["marrowlens_pictures_total", (("outcome", "undecodable"),)] == 1
    assert read["marrowlens_decode_duration_seconds_count", ()] == 1
    assert read["marrowlens_queue_wait_seconds_count", ()] == 4
    assert read["marrowlens_inference_duration_seconds_sum", ()] == pytest.approx(0.06)
    assert read["marrowlens_batch_pictures_bucket", (("le", "2.0"),)] == 1
    assert read["marrowlens_batch_pictures_bucket", (("le", "4.0"),)] == 2
    assert read["marrowlens_batches_total", (("outcome", "failed"), ("reason", "full"))] == 1
    assert read["marrowlens_queue_pictures", ()] == 3
    assert read["marrowlens_in_flight_pictures", ()] == 7
    assert read["marrowlens_ready", ()] == 1
    assert read["marrowlens_drift_distance", (("kind", "colour"),)] == 1.5
    assert read["marrowlens_drift_threshold", (("kind", "colour"),)] == 0.6
    assert read["marrowlens_drift_window_pictures", ()] == 500
    hashes = ("manifest_sha256", "1" * 64), ("sha256", "0" * 64)
    labels = (hashes[0], ("name", "micro"), ("provider", "cpu"), hashes[1], ("version", "0.0.1"))
    assert read["marrowlens_model_info", labels] == 1
    assert read["marrowlens_lis_outbox_messages", (("channel", "hl7"),)] == 3
    assert read["marrowlens_lis_outbox_oldest_age_seconds", (("channel", "hl7"),)] == 12
    assert read["marrowlens_lis_dead_letters", (("channel", "fhir"),)] == 0


def test_gauges_are_asked_at_every_scrape() -> None:
    metrics, depth = Metrics(), [0]
    metrics.watch(queued=lambda: depth[0], in_flight=lambda: 0, ready=lambda: depth[0] < 5)
    assert (samples(metrics)["marrowlens_queue_pictures", ()], samples(metrics)["marrowlens_ready", ()]) == (0, 1)
    depth[0] = 5
    assert (samples(metrics)["marrowlens_queue_pictures", ()], samples(metrics)["marrowlens_ready", ()]) == (5, 0)


def test_two_services_in_one_process_do_not_share_metrics(metrics: Metrics) -> None:
    other = Metrics()
    other.picture("answered")
    other.picture("answered")
    assert samples(metrics)["marrowlens_pictures_total", (("outcome", "answered"),)] == 1
    assert samples(other)["marrowlens_pictures_total", (("outcome", "answered"),)] == 2


def test_names_and_units_are_prometheus_own(metrics: Metrics) -> None:
    body, content_type = metrics.exposition()
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    families = list(text_string_to_metric_families(body.decode()))
    assert not [sample.name for family in families for sample in family.samples if sample.name.endswith("_created")]
    for family in families:
        assert family.documentation, family.name
        assert re.fullmatch(r"(marrowlens|process)_[a-z][a-z_]*", family.name)
        assert not re.search(r"_(ms|milliseconds|kb|mb|count|total)$", family.name)
        if family.type == "histogram" and "duration" in family.name:
            assert family.name.endswith("_seconds")


def test_promtool_finds_nothing_to_say(metrics: Metrics) -> None:
    # Debian's package prometheus has it. Where it is not installed, the test above holds what it would say.
    promtool = shutil.which("promtool")
    if promtool is not None:
        body, _ = metrics.exposition()
        judged = subprocess.run([promtool, "check", "metrics"], input=body, capture_output=True, check=False)
        assert (judged.returncode, judged.stdout, judged.stderr) == (0, b"", b"")


def rows(heading: str) -> list[list[str]]:
    """The cells of the one table below a heading of the page, without its head."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def exposed(text: str) -> dict[str, str]:
    """Name → type, as a scraper has them."""
    families = text_string_to_metric_families(text)
    return {family.name + "_total" * (family.type == "counter"): family.type for family in families}


def test_the_page_has_every_name_and_type_that_a_running_service_exposes(artefact: Path, tmp_path: Path) -> None:
    with client(artefact, lis=LisSettings(database=f"sqlite:///{tmp_path / 'lab.db'}")) as http:
        found = exposed(http.get("/metrics").text)
    assert {code(name)[0]: kind for name, kind, *_ in rows("What there is")} == found


def test_the_page_has_every_label(metrics: Metrics) -> None:
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(metrics.exposition()[0].decode()):
        name = family.name + "_total" * (family.type == "counter")
        labels[name] = {label for sample in family.samples for label in sample.labels if label != "le"}
    assert {code(name)[0]: set(code(cell)) for name, _, cell, *_ in rows("What there is")} == labels


def test_the_page_has_every_value_that_the_laboratory_gives_to_a_label() -> None:
    said = {(code(name)[0], code(label)[0]): code(cell) for name, label, cell in rows("Values of the labels")}
    routes = Path("service/lis/routes.py").read_text() + Path("service/lis/cell_routes.py").read_text()
    assert set(said["marrowlens_lis_specimens_total", "action"]) == set(re.findall(r'here\.do\(\s*"(\w+)"', routes))


def test_the_page_has_every_value_of_a_label() -> None:
    said = {(code(name)[0], code(label)[0]): code(cell) for name, label, cell in rows("Values of the labels")}
    assert set(said["marrowlens_refusals_total", "reason"]) == {kind.name for _, kind in TABLE} | {"not-found"}
    assert set(said["marrowlens_pictures_total", "outcome"]) == {name for _, name in _OUTCOMES} | {"answered", "failed"}
    assert set(said["marrowlens_batches_total", "reason"]) == set(get_args(FlushReason))


def test_what_is_alerted_on_stands_at_nought_from_the_start(artefact: Path) -> None:
    with client(artefact) as http:
        text = http.get("/metrics").text
    for series in ('model_changes_total{outcome="refused"}', 'pictures_total{outcome="failed"}'):
        assert f"marrowlens_{series} 0.0" in text
    assert 'marrowlens_refusals_total{reason="unauthorised"} 0.0' in text


FIRST_EVENTS = {
    "MarrowlensPicturesFail": ('marrowlens_pictures_total{outcome="failed"}', "0 0 0 1 1"),
    "MarrowlensFails": ('marrowlens_requests_total{route="/classify",status="500"}', "_ _ _ 1 1"),
    "MarrowlensModelRefused": ('marrowlens_model_changes_total{outcome="refused"}', "0 0 0 1 1"),
    "MarrowlensUnauthorised": ('marrowlens_refusals_total{reason="unauthorised"}', "0 0 0 1 1"),
}


@pytest.mark.parametrize("alert", FIRST_EVENTS)
def test_the_first_of_its_kind_is_alerted_on(alert: str, tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        return  # as above: no skip, for that would be one where real cells are and nothing may be skipped
    (rules,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "rules.yaml").write_text(rules)
    summary = {rule["alert"]: rule["annotations"] for rule in yaml.safe_load(rules)["groups"][0]["rules"]}[alert]
    series, values = FIRST_EVENTS[alert]
    fires = [{"exp_annotations": summary}]
    asked = [("2m", []), ("4m", fires)]
    expected = [{"eval_time": at, "alertname": alert, "exp_alerts": alerts} for at, alerts in asked]
    series_of = [{"series": series, "values": values}, {"series": "marrowlens_ready", "values": "1x5"}]
    test = {"interval": "1m", "input_series": series_of, "alert_rule_test": expected}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "tests": [test]}))
    judged = subprocess.run(
        [promtool, "test", "rules", tmp_path / "test.yaml"], capture_output=True, check=False, text=True
    )
    assert judged.returncode == 0, judged.stdout + judged.stderr


def test_queries_and_rules_name_what_there_is(metrics: Metrics) -> None:
    known = {name for name, _ in samples(metrics)}
    asked = "\n".join(re.findall(r"```(?:promql|yaml)\n(.*?)```", PAGE, re.DOTALL))
    assert asked.count("marrowlens_") > 20
    assert set(re.findall(r"\bmarrowlens_[a-z_]+", asked)) <= known


def test_the_rules_are_rules(tmp_path: Path) -> None:
    (rules,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    queries = [line for block in re.findall(r"```promql\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
    document = yaml.safe_load(rules)
    alerts = [rule["alert"] for group in document["groups"] for rule in group["rules"]]
    assert len(alerts) == len(set(alerts)) == rules.count("- alert:")
    # A recording rule for each query: promtool has no other way to be asked whether a query can be read.
    recorded = [{"record": f"page:query{at}", "expr": query} for at, query in enumerate(queries)]
    document["groups"].append({"name": "queries", "rules": recorded})
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(document))
    promtool = shutil.which("promtool")
    if promtool is not None:
        judged = subprocess.run(
            [promtool, "check", "rules", tmp_path / "rules.yaml"], capture_output=True, check=False, text=True
        )
        assert judged.returncode == 0, judged.stdout + judged.stderr
