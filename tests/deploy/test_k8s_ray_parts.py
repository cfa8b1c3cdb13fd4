"""What single overlays add: Prometheus and Grafana find the service, pods wait for the database, KServe serves."""

import copy
import json

import pytest
from manifests import ROOT, ROUTES, containers, needs_kubectl, of_kind, parsed, rendered, selects

from k8s.observability import operator_rules
from k8s.rendering import pods

pytestmark = needs_kubectl


def test_the_operators_rules_are_the_plain_files() -> None:
    stale = "stale: make rules"
    assert operator_rules.OUT.read_text(encoding="utf-8") == operator_rules.document(), stale


@pytest.mark.parametrize("overlay", ["observability", "hospital"])
def test_prometheus_finds_the_pods_and_is_let_in(overlay: str) -> None:
    (monitor,) = of_kind(overlay, "ServiceMonitor")
    (service,) = (service for service in of_kind(overlay, "Service") if service["metadata"]["name"] == "marrowlens")
    others = [other for other in of_kind(overlay, "Service") if other is not service]
    assert not any(selects(monitor["spec"]["selector"], other["metadata"]["labels"]) for other in others)
    assert selects(monitor["spec"]["selector"], service["metadata"]["labels"])
    assert monitor["spec"]["jobLabel"] in service["metadata"]["labels"]
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in [port["name"] for port in service["spec"]["ports"]]
    assert "get" in ROUTES[endpoint["path"]]
    (policy,) = (p for p in of_kind(overlay, "NetworkPolicy") if p["metadata"]["name"] == "marrowlens-metrics")
    assert policy["spec"]["ingress"][0]["ports"] == [{"port": "http"}]


@pytest.mark.parametrize("overlay", ["observability", "hospital"])
def test_grafana_is_given_the_dashboard_as_it_is(overlay: str) -> None:
    (dashboard,) = (d for d in of_kind(overlay, "ConfigMap") if d["metadata"]["name"] == "marrowlens-dashboard")
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    given = json.loads(dashboard["data"]["dashboard.json"])
    assert given == json.loads((ROOT / "k8s/observability/dashboard.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("overlay", ["postgres", "hospital"])
def test_pods_wait_for_the_job_and_all_have_one_database(overlay: str) -> None:
    found = {name: (spec, container) for name, spec, container in containers(overlay)}
    job, tables = found["Job marrowlens-migrate: migrate"][1], found["Deployment marrowlens: tables"][1]
    assert parsed(job["args"]) == {"wait_s": 600.0, "check": False}
    assert parsed(tables["args"]) == {"wait_s": 600.0, "check": True}
    given = [
        variable
        for _, container in found.values()
        for variable in container.get("env", [])
        if variable["name"] == "MARROWLENS_LIS_DATABASE"
    ]
    assert len(given) == 3 and given.count(given[0]) == 3
    assert set(given[0]["valueFrom"]) == {"secretKeyRef"}


def test_kserve_speaks_the_protocol_and_nothing_else_serves() -> None:
    (service,), (runtime,) = of_kind("kserve", "InferenceService"), of_kind("kserve", "ServingRuntime")
    model = service["spec"]["predictor"]["model"]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    assert model["runtime"] == runtime["metadata"]["name"]
    formats = runtime["spec"]["supportedModelFormats"]
    assert model["modelFormat"] in [{k: f[k] for k in ("name", "version")} for f in formats]
    assert "post" in ROUTES["/v2/models/{name}/infer"]
    assert not [d for d in rendered("kserve") if d["kind"] in ("Deployment", "Service", "HorizontalPodAutoscaler")]


def test_kserves_pod_is_the_bases() -> None:
    # Written down twice, for KServe takes no Deployment: what differs is the name and who is asked whether it lives.
    (deployment,) = of_kind("cpu", "Deployment")
    base = copy.deepcopy(deployment["spec"]["template"]["spec"])
    (_, pod) = next(pods(rendered("kserve")))
    own = copy.deepcopy(pod["spec"])
    for spec in (base, own):
        for container in spec["containers"]:
            container["name"] = "marrowlens"
            container["ports"] = [
                {"name": port["name"], "containerPort": port["containerPort"]} for port in container["ports"]
            ]
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                container[probe].pop("httpGet")
    assert own == base
