"""Every overlay, rendered: valid for three versions, restricted, spread, behind policies, and drained in time."""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from manifests import PAGE, ROOT, containers, each_overlay, needs_kubectl, of_kind, rendered, selects, serves, settings

from k8s import schemas
from k8s.rendering import OVERLAYS, POLICY, pods, text

pytestmark = needs_kubectl


def test_there_are_those_that_were_promised_and_the_page_speaks_of_each() -> None:
    assert {"cpu", "gpu", "keda", "kserve", "postgres", "observability", "hospital"} <= set(OVERLAYS)
    for folder in OVERLAYS.values():
        assert str(folder.relative_to(ROOT)) in PAGE


@each_overlay
@pytest.mark.parametrize("version", schemas.VERSIONS)
def test_it_is_valid(overlay: str, version: str) -> None:
    assert schemas.faults(rendered(overlay), version) == []


@pytest.mark.parametrize(
    ("overlay", "kind", "right", "wrong"),
    [
        ("cpu", "Deployment", "readOnlyRootFilesystem", "readOnlyRootFileSystem"),
        ("postgres", "Job", "backoffLimit", "backOffLimit"),
        ("keda", "ScaledObject", "metricType", "metricsType"),
        ("observability", "ServiceMonitor", "scrapeTimeout", "timeout"),
        ("observability", "PrometheusRule", "expr", "expression"),
        ("kserve", "InferenceService", "protocolVersion", "protocol"),
        ("kserve", "InferenceService", "scaleTarget", "target"),
        ("kserve", "InferenceService", "enableServiceLinks", "serviceLinks"),
        ("kserve", "ServingRuntime", "supportedModelFormats", "modelFormats"),
        ("kserve", "ServingRuntime", "autoSelect", "automatic"),
        ("kserve", "ServingRuntime", "startupProbe", "startProbe"),
    ],
)
def test_what_is_invalid_is_found(overlay: str, kind: str, right: str, wrong: str) -> None:
    if kind in ("InferenceService", "ServingRuntime") and schemas.kserve_models() is None:
        pytest.skip("KServe's models are not here: `make test` installs them")
    text = json.dumps(of_kind(overlay, kind))
    assert right in text
    others = [document for document in rendered(overlay) if document["kind"] != kind]
    found = schemas.faults(others + json.loads(text.replace(right, wrong)), schemas.VERSIONS[-1])
    assert found


@each_overlay
def test_every_pod_is_restricted(overlay: str) -> None:
    """As the `restricted` Pod Security Standard asks, a read-only root file system and no token besides."""
    found = list(pods(rendered(overlay)))
    assert found
    for _, pod in found:
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == spec["securityContext"]["runAsGroup"] == 10001
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert spec["automountServiceAccountToken"] is False
        allowed = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "secret"}
        assert all(set(volume) - {"name"} <= allowed for volume in spec["volumes"])
    for _, _, container in containers(overlay):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["readOnlyRootFilesystem"] is True
        assert not {"privileged", "procMount", "runAsUser"} & set(context)
        assert all("hostPort" not in port for port in container.get("ports", []))


@each_overlay
def test_the_cluster_holds_pods_to_it(overlay: str) -> None:
    (namespace,) = of_kind(overlay, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    inside = {d["metadata"]["namespace"] for d in rendered(overlay) if d is not namespace}
    assert inside == {namespace["metadata"]["name"]}


@each_overlay
def test_what_was_accepted_is_answered_before_the_end(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (serving,) = (found for found in containers(overlay) if serves(found[2]))
    _, spec, container = serving
    found = settings(container, monkeypatch)
    stop_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert stop_s > 0 and found.drain_delay_s > 0
    assert spec["terminationGracePeriodSeconds"] > stop_s + found.drain_delay_s + found.shutdown_timeout_s
    noticed = container["readinessProbe"]
    assert found.drain_delay_s >= noticed["periodSeconds"] * noticed["failureThreshold"]


@each_overlay
def test_a_start_is_given_its_time(overlay: str) -> None:
    (serving,) = (container for _, _, container in containers(overlay) if serves(container))
    start_s = serving["startupProbe"]["periodSeconds"] * serving["startupProbe"]["failureThreshold"]
    assert start_s >= (1200 if overlay in ("gpu", "hospital") else 60)  # TensorRT builds engines for minutes
    for deployment in of_kind(overlay, "Deployment"):
        assert start_s < deployment["spec"].get("progressDeadlineSeconds", 600)


@each_overlay
def test_replicas_are_spread_and_one_goes_at_a_time(overlay: str) -> None:
    (budget,) = of_kind(overlay, "PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] == 1
    (maker,) = ((name, pod) for name, pod in pods(rendered(overlay)) if not name.startswith("Job"))
    labels = maker[1]["metadata"]["labels"]
    keys = {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
    spread = maker[1]["spec"]["topologySpreadConstraints"]
    assert {constraint["topologyKey"] for constraint in spread} == keys
    selectors = [constraint["labelSelector"] for constraint in spread] + [budget["spec"]["selector"]]
    assert all(selector["matchLabels"].items() <= labels.items() for selector in selectors)
    least = [d["spec"]["minReplicas"] for d in of_kind(overlay, "HorizontalPodAutoscaler")]
    least += [d["spec"]["minReplicaCount"] for d in of_kind(overlay, "ScaledObject")]
    least += [d["spec"]["predictor"]["minReplicas"] for d in of_kind(overlay, "InferenceService")]
    assert len(least) == 1 and least[0] > budget["spec"]["maxUnavailable"]


@each_overlay
def test_every_pod_is_behind_a_policy_both_ways(overlay: str) -> None:
    for _, pod in pods(rendered(overlay)):
        ways = set()
        for policy in of_kind(overlay, "NetworkPolicy"):
            if selects(policy["spec"]["podSelector"], pod["metadata"]["labels"]):
                ways |= set(policy["spec"]["policyTypes"])
        assert ways == {"Ingress", "Egress"}


@each_overlay
def test_no_secret_is_in_git_and_the_page_says_how_each_is_made(overlay: str) -> None:
    assert of_kind(overlay, "Secret") == []
    named = set(
        re.findall(r'"(?:secretName|secretKeyRef)": (?:\{[^}]*"name": )?"([\w-]+)"', json.dumps(rendered(overlay)))
    )
    assert "marrowlens-keys" in named
    for secret in named:
        assert f"create secret generic {secret}" in PAGE


@each_overlay
def test_one_image_of_this_version(overlay: str) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    wanted = {
        "gpu": f"marrowlens:{version}-tensorrt",
        "hospital": f"registry.example.org/marrowlens@sha256:{'0' * 64}",
    }
    images = {container["image"] for _, _, container in containers(overlay)}
    assert images == {wanted.get(overlay, f"marrowlens:{version}")}


@each_overlay
def test_what_the_scanner_lets_pass_has_its_reason(overlay: str) -> None:
    for document in rendered(overlay):
        for name, waiver in document["metadata"].get("annotations", {}).items():
            if name.startswith("checkov.io/"):
                assert re.fullmatch(r"CKV_K8S_\d+=\S.{30,}", waiver)


def test_the_page_tells_how_a_pod_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    (serving,) = (found for found in containers("cpu") if serves(found[2]))
    _, spec, container = serving
    found = settings(container, monkeypatch)
    stop_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    closed_s = stop_s + found.drain_delay_s
    ended_s = closed_s + found.shutdown_timeout_s
    times = re.findall(r"^\| (\d+) s \|", PAGE, re.MULTILINE)
    assert [int(s) for s in times] == [0, stop_s, closed_s, ended_s, spec["terminationGracePeriodSeconds"]]


def test_the_page_speaks_of_the_versions_that_are_checked() -> None:
    assert f"Kubernetes {', '.join(schemas.VERSIONS[:-1])} and {schemas.VERSIONS[-1]}" in PAGE
    assert f"Kubernetes {schemas.VERSIONS[0]} or later" in PAGE


@pytest.mark.parametrize("spoiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_scanner_passes_what_is_there_and_not_a_root_shell(spoiled: bool, tmp_path: Path) -> None:
    scanner = POLICY / "bin/checkov"
    if not scanner.exists():
        pytest.skip("checkov is not here: `make test` installs it")
    found = "".join(text(folder) + "\n---\n" for folder in OVERLAYS.values())
    if spoiled:
        found = found.replace("runAsNonRoot: true", "runAsNonRoot: false").replace("runAsUser: 10001", "runAsUser: 0")
    (tmp_path / "all.yaml").write_text(found, encoding="utf-8")
    command = [str(scanner), "-d", str(tmp_path), "--framework", "kubernetes", "--skip-download", "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    summary = json.loads(done.stdout)["summary"]
    assert summary["parsing_errors"] == 0 and summary["passed"] > 500
    assert (done.returncode, summary["failed"] > 0) == ((1, True) if spoiled else (0, False))
