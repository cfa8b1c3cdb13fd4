"""The Kubernetes base is valid for the clusters in use and agrees with the code, as its files lie: nothing is rendered.

What is made of it is in tests/deploy/test_k8s_overlays.py and those beside it.
"""

import json
import re
import tomllib
from typing import Any

import kubernetes_validate
import pytest
import yaml
from checkout import ROOT
from manifests import settings as read_in

from k8s.schemas import VERSIONS
from service.app import UPLOAD_MEMORY_BODIES
from service.config.settings import Settings

BASE = ROOT / "k8s/base"
KUSTOMIZATION = yaml.safe_load((BASE / "kustomization.yaml").read_text())
RESOURCES = [yaml.safe_load((BASE / name).read_text()) for name in KUSTOMIZATION["resources"]]
BY_KIND: dict[str, dict[str, Any]] = {resource["kind"]: resource for resource in RESOURCES}
POD = BY_KIND["Deployment"]["spec"]["template"]
(CONTAINER,) = POD["spec"]["containers"]


def test_rendering_adds_nothing_to_the_files() -> None:
    # With `resources` alone the rendered base is these files, so what is checked here is what a cluster is given.
    assert set(KUSTOMIZATION) == {"apiVersion", "kind", "resources"}
    assert set(KUSTOMIZATION["resources"]) == {path.name for path in BASE.iterdir()} - {"kustomization.yaml"}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", BY_KIND)
def test_resources_are_valid(kind: str, version: str) -> None:
    kubernetes_validate.validate(BY_KIND[kind], version, strict=True)


def test_an_invalid_resource_is_found() -> None:
    wrong = json.loads(json.dumps(BY_KIND["Deployment"]).replace("readOnlyRootFilesystem", "readOnlyRootFileSystem"))
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What the service reads in the pod."""
    return read_in(CONTAINER, monkeypatch)


def test_service_is_given_time_to_answer_what_it_accepted(settings: Settings) -> None:
    assert settings.drain_delay_s > 0
    assert POD["spec"]["terminationGracePeriodSeconds"] > settings.drain_delay_s + settings.shutdown_timeout_s


def test_memory_holds_the_uploads_and_as_much_again(settings: Settings) -> None:
    limit = CONTAINER["resources"]["limits"]["memory"]
    assert limit.endswith("Gi")
    assert int(limit.removesuffix("Gi")) * 1024**3 >= 2 * UPLOAD_MEMORY_BODIES * settings.max_body_bytes


def test_draining_outlasts_the_probe_that_notices_it(settings: Settings) -> None:
    probe = CONTAINER["readinessProbe"]
    assert settings.drain_delay_s >= probe["periodSeconds"] * probe["failureThreshold"]


def test_ports_are_the_one_the_service_listens_on(settings: Settings) -> None:
    (port,) = CONTAINER["ports"]
    assert port["containerPort"] == settings.port
    assert settings.host == "0.0.0.0"
    (exposed,) = BY_KIND["Service"]["spec"]["ports"]
    assert exposed["targetPort"] == port["name"]
    (rule,) = BY_KIND["NetworkPolicy"]["spec"]["ingress"]
    assert rule["ports"] == [{"port": port["name"]}]


def test_no_service_links_stand_in_for_settings() -> None:
    # A Service named marrowlens would make Kubernetes set MARROWLENS_PORT=tcp://… in the pod.
    assert POD["spec"]["enableServiceLinks"] is False


@pytest.mark.parametrize(
    ("probe", "path"),
    [("startupProbe", "/health/ready"), ("readinessProbe", "/health/ready"), ("livenessProbe", "/health/live")],
)
def test_probes_ask_routes_that_exist(probe: str, path: str) -> None:
    routes = json.loads((ROOT / "openapi.json").read_text())["paths"]
    assert CONTAINER[probe]["httpGet"] == {"path": path, "port": "http"}
    assert "get" in routes[path]


def test_prometheus_is_sent_to_the_metrics() -> None:
    annotations = POD["metadata"]["annotations"]
    routes = json.loads((ROOT / "openapi.json").read_text())["paths"]
    assert "get" in routes[annotations["prometheus.io/path"]]
    assert int(annotations["prometheus.io/port"]) == CONTAINER["ports"][0]["containerPort"]


def test_image_and_labels_are_of_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert CONTAINER["image"] == f"marrowlens:{version}"
    for labels in (BY_KIND["Deployment"]["metadata"]["labels"], POD["metadata"]["labels"]):
        assert labels["app.kubernetes.io/version"] == version


def test_pod_is_restricted() -> None:
    """As the `restricted` Pod Security Standard asks, and a read-only root file system besides."""
    pod, container = POD["spec"]["securityContext"], CONTAINER["securityContext"]
    assert pod["runAsNonRoot"] is True
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["allowPrivilegeEscalation"] is False
    assert container["capabilities"] == {"drop": ["ALL"]}
    assert container["readOnlyRootFilesystem"] is True
    (user,) = re.findall(r"^USER (\d+):(\d+)$", (ROOT / "docker/service.Dockerfile").read_text(), re.MULTILINE)
    assert (str(pod["runAsUser"]), str(pod["runAsGroup"])) == user


def test_selectors_select_the_pod_and_no_other() -> None:
    labels = POD["metadata"]["labels"].items()
    selectors = [
        BY_KIND["Deployment"]["spec"]["selector"]["matchLabels"],
        BY_KIND["Service"]["spec"]["selector"],
        BY_KIND["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        BY_KIND["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ]
    assert all(selector and selector.items() <= labels for selector in selectors)
    # The version changes with a release, and a selector cannot.
    assert not any("app.kubernetes.io/version" in selector for selector in selectors)


def test_autoscaler_owns_the_number_of_replicas() -> None:
    autoscaler = BY_KIND["HorizontalPodAutoscaler"]["spec"]
    assert "replicas" not in BY_KIND["Deployment"]["spec"]
    assert autoscaler["scaleTargetRef"]["name"] == BY_KIND["Deployment"]["metadata"]["name"]
    # A budget that lets one go needs a second that stays.
    assert autoscaler["minReplicas"] > BY_KIND["PodDisruptionBudget"]["spec"]["maxUnavailable"]
