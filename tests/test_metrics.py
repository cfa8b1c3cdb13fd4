"""The metrics as a scraper reads them."""

import re
import shutil
import subprocess

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.metrics import Metrics


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
    metrics.watch(queued=lambda: 3, in_flight=lambda: 7, ready=lambda: True)
    metrics.model(name="micro", version="0.0.1", sha256="0" * 64, provider="cpu")
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
    labels = (("name", "micro"), ("provider", "cpu"), ("sha256", "0" * 64), ("version", "0.0.1"))
    assert read["marrowlens_model_info", labels] == 1


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
