"""KEDA's autoscaler is the only one, and its queries say what they should: Prometheus itself works them out."""

import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from manifests import needs_kubectl, of_kind, rendered

pytestmark = needs_kubectl
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not here")
each_scaled = pytest.mark.parametrize("overlay", ["keda", "hospital"])


def scaled(overlay: str) -> dict[str, Any]:
    (found,) = of_kind(overlay, "ScaledObject")
    return found


def triggers(overlay: str) -> dict[str, dict[str, Any]]:
    return {trigger["name"]: trigger for trigger in scaled(overlay)["spec"]["triggers"]}


@each_scaled
def test_there_is_one_autoscaler(overlay: str) -> None:
    assert of_kind(overlay, "HorizontalPodAutoscaler") == []
    (deployment,) = of_kind(overlay, "Deployment")
    assert scaled(overlay)["spec"]["scaleTargetRef"] == {"name": deployment["metadata"]["name"]}
    assert "replicas" not in deployment["spec"]


@each_scaled
def test_it_scales_on_queued_pictures_and_on_the_percentile(overlay: str) -> None:
    found = triggers(overlay)
    assert set(found) == {"queued-pictures", "p95-seconds"}
    assert "marrowlens_queue_pictures" in found["queued-pictures"]["metadata"]["query"]
    assert "histogram_quantile(0.95" in found["p95-seconds"]["metadata"]["query"]
    # Where Prometheus does not answer KEDA falls back; with mixed types some versions swing to and fro.
    assert {trigger["metricType"] for trigger in found.values()} == {"AverageValue"}


@each_scaled
def test_the_bounds_are_in_order(overlay: str) -> None:
    spec = scaled(overlay)["spec"]
    assert spec["minReplicaCount"] <= spec["fallback"]["replicas"] <= spec["maxReplicaCount"]


@each_scaled
def test_queries_are_of_the_overlays_namespace(overlay: str) -> None:
    (namespace,) = of_kind(overlay, "Namespace")
    for trigger in triggers(overlay).values():
        query = trigger["metadata"]["query"]
        assert query.count("marrowlens_") == query.count(f'{{namespace="{namespace["metadata"]["name"]}"')


def answers(query: str, series: dict[str, str], folder: Path) -> list[float]:
    """What Prometheus makes of a query after ten minutes of these series, a sample every 15 s."""
    wrong = -12345.0
    case = {
        "evaluation_interval": "15s",
        "tests": [
            {
                "interval": "15s",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": [
                    {"expr": query, "eval_time": "10m", "exp_samples": [{"labels": "{}", "value": wrong}]}
                ],
            }
        ],
    }
    path = folder / "case.yaml"
    path.write_text(yaml.safe_dump(case), encoding="utf-8")
    done = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True, check=False)
    (got,) = [line for line in (done.stdout + done.stderr).splitlines() if line.strip().startswith("got:")]
    found = got.split("got:")[1].strip()
    return [] if found == "nil" else [float(sample.rsplit(" ", 1)[1].replace("E", "e")) for sample in found.split(", ")]


def replicas(count: int, p95_s: float | None) -> dict[str, str]:
    """So many pods that have answered all requests a little faster than p95_s, or none."""
    found = {}
    for pod in range(count):
        labels = f'namespace="marrowlens",pod="marrowlens-{pod}"'
        found[f"marrowlens_ready{{{labels}}}"] = "1x40"
        found[f"marrowlens_queue_pictures{{{labels}}}"] = f"{10 * (pod + 1)}x40"
        for bound in ("0.5", "1.0", "2.0", "+Inf"):
            counted = p95_s is not None and float(bound.replace("+Inf", "inf")) >= p95_s
            series = f'marrowlens_request_duration_seconds_bucket{{{labels},route="/classify",le="{bound}"}}'
            found[series] = "0+15x40" if counted else "0x40"
    # Another marrowlens in the cluster, slow and crowded.
    found['marrowlens_ready{namespace="other",pod="a"}'] = "1x40"
    found['marrowlens_queue_pictures{namespace="other",pod="a"}'] = "999x40"
    return found


@needs_promtool
def test_what_waits_is_counted_over_all_replicas(tmp_path: Path) -> None:
    query = triggers("keda")["queued-pictures"]["metadata"]["query"]
    assert answers(query, replicas(3, None), tmp_path) == [60]
    # A scrape that fails has no series: KEDA is told that this is an error, not an empty queue.
    assert answers(query, {}, tmp_path) == []


@needs_promtool
@pytest.mark.parametrize("count", [2, 5])
def test_the_percentile_asks_for_replicas_in_proportion(count: int, tmp_path: Path) -> None:
    query = triggers("keda")["p95-seconds"]["metadata"]["query"]
    (got,) = answers(query, replicas(count, 2.0), tmp_path)
    # All between 1 and 2 s, so the percentile is 1.95; KEDA divides by the threshold: so many replicas are wanted.
    assert got == pytest.approx(count * 1.95)
    wanted = math.ceil(got / float(triggers("keda")["p95-seconds"]["metadata"]["threshold"]))
    assert wanted == math.ceil(count * 1.95) > count


@needs_promtool
def test_who_is_fast_enough_is_left_alone(tmp_path: Path) -> None:
    query = triggers("keda")["p95-seconds"]["metadata"]["query"]
    (got,) = answers(query, replicas(4, 0.5), tmp_path)
    assert got == pytest.approx(4 * 0.475)


@needs_promtool
def test_nobody_asks_and_nothing_is_wanted(tmp_path: Path) -> None:
    query = triggers("keda")["p95-seconds"]["metadata"]["query"]
    assert answers(query, replicas(3, None), tmp_path) == [0]
    assert answers(query, {}, tmp_path) == [0]


def test_the_cpus_autoscaler_stands_where_keda_does_not() -> None:
    (autoscaler,) = of_kind("cpu", "HorizontalPodAutoscaler")
    assert autoscaler["spec"]["minReplicas"] == scaled("keda")["spec"]["minReplicaCount"]
    assert {d["kind"] for d in rendered("cpu")} >= {"Deployment", "HorizontalPodAutoscaler"}
