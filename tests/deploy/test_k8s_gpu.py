"""The GPU component fits the base: warm and serve agree on the engines, have a GPU each and room for what they keep."""

from typing import Any

import pytest
from manifests import Container, containers, needs_kubectl, of_kind, settings

from service.config.settings import environment_name

pytestmark = needs_kubectl
each_with_gpu = pytest.mark.parametrize("overlay", ["gpu", "hospital"])


def warm_and_serve(overlay: str) -> tuple[Container, Container, dict[str, Any]]:
    """Both containers, and their pod's spec."""
    found = {container["name"]: (container, spec) for _, spec, container in containers(overlay)}
    return found["warm"][0], found["marrowlens"][0], found["warm"][1]


@each_with_gpu
def test_engines_are_built_before_the_service_starts(overlay: str) -> None:
    warm, _, pod = warm_and_serve(overlay)
    assert warm["args"] == ["warm"]
    assert warm in pod["initContainers"]


@each_with_gpu
def test_warm_builds_what_serve_looks_for(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    warm, serve, _ = warm_and_serve(overlay)
    built, wanted = settings(warm, monkeypatch), settings(serve, monkeypatch)
    for name in ("provider", "engine_cache", "artefact", "max_batch_size"):
        assert getattr(built, name) == getattr(wanted, name), environment_name(name)
    assert built.provider == "tensorrt"


@each_with_gpu
def test_both_reach_the_engines_and_the_pod_may_keep_them(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    warm, serve, pod = warm_and_serve(overlay)
    (volume,) = (entry for entry in pod["volumes"] if entry["name"] == "engines")
    for container in (warm, serve):
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert mounts[str(settings(container, monkeypatch).engine_cache)] == "engines"
        assert mounts["/tmp"] == "tmp"
        allowed = container["resources"]["limits"]["ephemeral-storage"]
        assert int(allowed.removesuffix("Gi")) > int(volume["emptyDir"]["sizeLimit"].removesuffix("Gi"))


@each_with_gpu
def test_both_have_a_gpu_on_a_node_that_has_one(overlay: str) -> None:
    warm, serve, pod = warm_and_serve(overlay)
    assert [c["resources"]["limits"]["nvidia.com/gpu"] for c in (warm, serve)] in ([1, 1], ["1", "1"])
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
    assert warm["securityContext"] == serve["securityContext"]


@each_with_gpu
def test_a_slow_roll_out_is_not_called_failed(overlay: str) -> None:
    (deployment,) = of_kind(overlay, "Deployment")
    _, serve, _ = warm_and_serve(overlay)
    probe = serve["startupProbe"]
    # The service could have to build what the init container has built before it.
    assert deployment["spec"]["progressDeadlineSeconds"] >= 2 * probe["periodSeconds"] * probe["failureThreshold"]


def test_the_base_is_still_in_it() -> None:
    _, serve, _ = warm_and_serve("gpu")
    assert {v["name"] for v in serve["env"]} >= {"MARROWLENS_DRAIN_DELAY_S", "MARROWLENS_PROVIDER"}
    assert serve["startupProbe"]["httpGet"] == {"path": "/health/ready", "port": "http"}
