"""What the overlays name is in the code: settings and their values, commands, ports, probes' paths, metrics."""

import copy
import json
import re
from pathlib import Path

import pytest
from manifests import (
    ROOT,
    ROUTES,
    containers,
    each_overlay,
    needs_kubectl,
    of_kind,
    parsed,
    rendered,
    serves,
    settings,
)

from service.config.settings import environment_names

pytestmark = needs_kubectl


@each_overlay
def test_settings_exist_and_their_values_can_be_read(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for _, _, container in containers(overlay):
        named = {variable["name"] for variable in container.get("env", [])}
        assert named <= set(environment_names())
        settings(container, monkeypatch)


def test_a_setting_that_does_not_exist_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    (deployment,) = copy.deepcopy(of_kind("cpu", "Deployment"))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    container["env"].append({"name": "MARROWLENS_DRAIN_DELAYS", "value": "1"})
    with pytest.raises(ValueError, match="MARROWLENS_DRAIN_DELAYS is not a setting"):
        settings(container, monkeypatch)


@each_overlay
def test_commands_exist(overlay: str) -> None:
    for _, _, container in containers(overlay):
        assert "command" not in container  # the image's entry point is the program
        if not serves(container):
            parsed(container["args"])


@pytest.mark.parametrize(
    "words", [["lis", "migrates"], ["lis", "migrate", "--checks"], ["lis", "migrate", "--wait-s", "x"]]
)
def test_a_command_that_does_not_exist_is_found(words: list[str]) -> None:
    with pytest.raises(Exception, match="No such|a valid number"):
        parsed(words)


@each_overlay
def test_ports_and_probes_are_the_programs(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    serving = [container for _, _, container in containers(overlay) if serves(container)]
    assert len(serving) == 1
    (container,) = serving
    (port,) = (port for port in container["ports"] if port["name"] == "http")
    found = settings(container, monkeypatch)
    assert (port["containerPort"], found.host) == (found.port, "0.0.0.0")
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = container[probe]["httpGet"]
        assert "get" in ROUTES[asked["path"]]
        assert asked["port"] in (port["name"], port["containerPort"])
        assert asked["path"].endswith("/live" if probe == "livenessProbe" else "/ready")
    for service in of_kind(overlay, "Service"):
        if service["metadata"]["name"] == "marrowlens":
            assert [exposed["targetPort"] for exposed in service["spec"]["ports"]] == [port["name"]]


@each_overlay
def test_metrics_named_are_the_services(overlay: str) -> None:
    # tests/service/telemetry/test_metrics.py holds this page against the service, name by name.
    page = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    exposed = set(re.findall(r"^\| `(marrowlens_\w+)` \|", page, re.MULTILINE))
    assert "marrowlens_queue_pictures" in exposed
    # Rules and queries; a Grafana dashboard is JSON within JSON.
    text = json.dumps([d for d in rendered(overlay) if d["kind"] in ("ScaledObject", "PrometheusRule", "ConfigMap")])
    named = set(re.findall(r"(?<![\w:/.-])marrowlens_[a-z_]+", text))
    for name in named:
        assert {name, re.sub(r"_(bucket|sum|count)$", "", name)} & exposed, name
    recorded = set(
        re.findall(r"record: (\S+)", (ROOT / "k8s/observability/recording.yaml").read_text(encoding="utf-8"))
    )
    assert set(re.findall(r"marrowlens:[a-z_0-9:]+[a-z0-9]", text)) <= recorded
    assert bool(named) is (overlay in ("keda", "observability", "hospital"))


@each_overlay
def test_keys_are_mounted_where_they_are_looked_for(overlay: str) -> None:
    (serving,) = (found for found in containers(overlay) if serves(found[2]))
    _, spec, container = serving
    (path,) = (variable["value"] for variable in container["env"] if variable["name"] == "MARROWLENS_KEYS_FILE")
    (mount,) = (mount for mount in container["volumeMounts"] if mount["name"] == "keys")
    assert Path(path).parent == Path(mount["mountPath"])
    assert "subPath" not in mount  # a file mounted so would never change, and a key could not be rotated
    (volume,) = (volume for volume in spec["volumes"] if volume["name"] == "keys")
    assert volume["secret"] == {"secretName": "marrowlens-keys", "defaultMode": 0o440}
    assert spec["securityContext"]["fsGroup"] == spec["securityContext"]["runAsGroup"]
