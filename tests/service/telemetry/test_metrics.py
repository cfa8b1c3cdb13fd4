"""Metrics as scraped."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import get_args

import forks
import pytest
from prometheus_client.parser import text_string_to_metric_families
from serving import client

from model.drift.distance import DriftMeasurement
from service.api.problems import PROBLEM_TYPES
from service.cli.metrics import page, sections, values_of
from service.config.lis import LisSettings
from service.inference.classifier import _OUTCOMES
from service.lis.metrics import LisMetrics
from service.lis.storage.outbox import Depth
from service.telemetry.item_timing import FlushReason
from service.telemetry.metric_registry import MetricSpec
from service.telemetry.metrics import Metrics

DECLARED: dict[str, MetricSpec] = {metric.name: metric for _, _, declared in sections() for metric in declared}


@pytest.fixture
def metrics() -> Metrics:
    """Metrics with each series used at least once."""
    metrics = Metrics()
    metrics.request("/classify", 200, 0.012)
    metrics.request("/classify", 429, 0.001)
    metrics.refused("queue_full")
    metrics.picture("answered")
    metrics.picture("undecodable")
    metrics.decoded(0.0015)
    metrics.decided("review")
    metrics.batch_done(queue_wait_s=[0.001, 0.004, 0.3], run_s=0.04, reason="idle", failed=False)
    metrics.batch_done(queue_wait_s=[0.1], run_s=0.02, reason="full", failed=True)
    metrics.padded(2)
    metrics.model_change("done")
    metrics.in_flight_limit(256)
    metrics.watch(queued=lambda: 3, in_flight=lambda: 7, ready=lambda: True)
    metrics.model(
        name="micro", version="0.0.1", sha256="0" * 64, manifest_sha256="1" * 64, provider="cpu", precision="fp32"
    )
    metrics.background.running("drift", True)
    metrics.drift.show(DriftMeasurement(500, {"colour": 1.5}, {"colour": 0.6}))
    laboratory = LisMetrics(metrics.registry)
    laboratory.count_action("sign")
    laboratory.count_order_message("taken")
    laboratory.connections.open(1)
    laboratory.connections.ended("refused")
    laboratory.count_attempt("hl7", "delivered")
    laboratory.set_outbox(["hl7", "fhir"], [Depth("hl7", 2, 1, 1, None)], [12.0])
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
    assert read["marrowlens_in_flight_limit_pictures", ()] == 256
    assert read["marrowlens_ready", ()] == 1
    assert read["marrowlens_drift_distance", (("kind", "colour"),)] == 1.5
    assert read["marrowlens_drift_threshold", (("kind", "colour"),)] == 0.6
    assert read["marrowlens_drift_window_pictures", ()] == 500
    hashes = ("manifest_sha256", "1" * 64), ("sha256", "0" * 64)
    labels = (hashes[0], ("name", "micro"), ("precision", "fp32"), ("provider", "cpu"), hashes[1], ("version", "0.0.1"))
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
    # In Debian's package prometheus. Without it, the test above checks the same rules.
    promtool = shutil.which("promtool")
    if promtool is not None:
        body, _ = metrics.exposition()
        judged = subprocess.run([promtool, "check", "metrics"], input=body, capture_output=True, check=False)
        assert (judged.returncode, judged.stdout, judged.stderr) == (0, b"", b"")


def exposed(text: str) -> dict[str, str]:
    """Name → type of the scraped metrics."""
    families = text_string_to_metric_families(text)
    return {family.name + "_total" * (family.type == "counter"): family.type for family in families}


def test_the_page_is_fresh() -> None:
    assert Path("docs/metrics.md").read_text(encoding="utf-8") == page(), "stale: marrowlens metrics"


def test_the_command_writes_the_page_and_finds_it_stale(tmp_path: Path) -> None:
    def metrics(*options: str) -> "subprocess.CompletedProcess[str]":
        return forks.run(["metrics", "--out", str(tmp_path / "metrics.md"), *options], os.environ)

    assert metrics("--check").returncode == 1
    assert metrics().returncode == metrics("--check").returncode == 0
    with (tmp_path / "metrics.md").open("a") as file:
        file.write("more\n")
    stale = metrics("--check")
    assert (stale.returncode, "run `marrowlens metrics`" in stale.stderr) == (1, True)


def test_what_is_declared_is_what_a_running_service_exposes(artefact: Path, tmp_path: Path) -> None:
    with client(artefact, lis=LisSettings(database=f"sqlite:///{tmp_path / 'lab.db'}")) as http:
        found = exposed(http.get("/metrics").text)
    assert {name: metric.type for name, metric in DECLARED.items()} == found


def test_the_declared_labels_are_those_of_the_series(metrics: Metrics) -> None:
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(metrics.exposition()[0].decode()):
        name = family.name + "_total" * (family.type == "counter")
        labels[name] = {label for sample in family.samples for label in sample.labels if label != "le"}
    assert {name: set(metric.labels) for name, metric in DECLARED.items()} == labels


def test_every_metric_is_explained_and_every_unit_is_the_name_s(metrics: Metrics) -> None:
    helps = {family.documentation for family in text_string_to_metric_families(metrics.exposition()[0].decode())}
    for metric in DECLARED.values():
        assert metric.help.endswith(".") and len(metric.help.split()) >= 4, metric.name
        assert metric.help in helps or metric.name.startswith("process_")
        base = re.search(r"_(seconds|bytes)(_total)?$", metric.name)
        assert metric.unit.startswith(base[1]) if base else metric.unit, metric.name


def test_every_value_that_is_counted_is_declared() -> None:
    def values(name: str, label: str) -> set[str]:
        return set(values_of(DECLARED[name], label))

    routes = "".join(path.read_text() for path in Path("service/lis/api").glob("*routes.py"))
    receivers = Path("service/lis/exchange/channels.py").read_text()
    assert values("marrowlens_refusals_total", "reason") == {kind.name for _, kind in PROBLEM_TYPES}
    assert values("marrowlens_pictures_total", "outcome") == {name for _, name in _OUTCOMES} | {"answered", "failed"}
    assert values("marrowlens_batches_total", "reason") == set(get_args(FlushReason))
    assert values("marrowlens_lis_specimens_total", "action") == set(re.findall(r'lab\.execute\(\s*"(\w+)"', routes))
    for name in ("delivery_attempts_total", "outbox_messages", "outbox_oldest_age_seconds", "dead_letters"):
        assert values(f"marrowlens_lis_{name}", "channel") == set(re.findall(r'_receiver\(lis, "(\w+)"', receivers))


def test_what_is_alerted_on_stands_at_nought_from_the_start(artefact: Path) -> None:
    with client(artefact) as http:
        text = http.get("/metrics").text
    for series in ('model_changes_total{outcome="refused"}', 'pictures_total{outcome="failed"}'):
        assert f"marrowlens_{series} 0.0" in text
    assert 'marrowlens_refusals_total{reason="unauthorised"} 0.0' in text
