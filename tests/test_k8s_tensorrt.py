"""The TensorRT overlay fits the base: what it patches is there, the result is valid, and warm and serve agree."""

import copy
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from service.cli import app
from service.settings import Settings, environment_name, read_settings

ROOT = Path(__file__).parents[1]
OVERLAY = ROOT / "k8s/tensorrt"
KUSTOMIZATION = yaml.safe_load((OVERLAY / "kustomization.yaml").read_text())
BASE = yaml.safe_load((ROOT / "k8s/base/deployment.yaml").read_text())
PATCH = yaml.safe_load((OVERLAY / "deployment.yaml").read_text())


def merged(base: Any, patch: Any) -> Any:
    """As a strategic merge: maps by key, lists of named things by name or mount path, else the patch's own."""
    if isinstance(base, dict) and isinstance(patch, dict):
        return base | {key: merged(base.get(key), value) for key, value in patch.items()}
    if isinstance(base, list) and isinstance(patch, list) and all(isinstance(entry, dict) for entry in patch):
        key = "mountPath" if "mountPath" in patch[0] else "name"
        by_key = {entry[key]: entry for entry in base}
        return list((by_key | {entry[key]: merged(by_key.get(entry[key]), entry) for entry in patch}).values())
    return copy.deepcopy(patch)


DEPLOYMENT = merged(BASE, PATCH)
POD = DEPLOYMENT["spec"]["template"]["spec"]
(WARM,) = POD["initContainers"]
(SERVE,) = POD["containers"]


def test_the_overlay_is_the_base_and_one_patch() -> None:
    assert KUSTOMIZATION["resources"] == ["../base"]
    assert [patch["path"] for patch in KUSTOMIZATION["patches"]] == [PATCH_NAME := "deployment.yaml"]
    assert {path.name for path in OVERLAY.iterdir()} == {"kustomization.yaml", PATCH_NAME}


@pytest.mark.parametrize("version", ["1.29", kubernetes_validate.latest_version()])
def test_what_comes_of_it_is_valid(version: str) -> None:
    kubernetes_validate.validate(DEPLOYMENT, version, strict=True)


def test_it_patches_what_is_there() -> None:
    assert PATCH["metadata"]["name"] == BASE["metadata"]["name"]
    names = [container["name"] for container in BASE["spec"]["template"]["spec"]["containers"]]
    assert [container["name"] for container in PATCH["spec"]["template"]["spec"]["containers"]] == names


def test_the_image_is_of_this_version_and_replaces_that_of_both_containers() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    (image,) = KUSTOMIZATION["images"]
    assert image == {"name": "marrowlens", "newTag": f"{version}-tensorrt"}
    assert {container["image"] for container in (WARM, SERVE)} == {f"marrowlens:{version}"}


def test_engines_are_built_by_a_command_that_exists() -> None:
    assert WARM["args"] == ["warm"]
    assert "warm" in [command.callback.__name__ for command in app.registered_commands if command.callback]


def settings(container: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Settings:
    with monkeypatch.context() as environment:
        for variable in container["env"]:
            environment.setenv(variable["name"], variable["value"])
        return read_settings()


def test_warm_builds_what_serve_looks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    warm, serve = settings(WARM, monkeypatch), settings(SERVE, monkeypatch)
    for name in ("provider", "engine_cache", "artefact", "max_batch_size"):
        assert getattr(warm, name) == getattr(serve, name), environment_name(name)
    assert warm.provider == "tensorrt"


def test_both_reach_the_engines_and_the_pod_may_keep_them(monkeypatch: pytest.MonkeyPatch) -> None:
    (volume,) = (entry for entry in POD["volumes"] if entry["name"] == "engines")
    for container in (WARM, SERVE):
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert mounts[str(settings(container, monkeypatch).engine_cache)] == "engines"
        assert mounts["/tmp"] == "tmp"
        allowed = container["resources"]["limits"]["ephemeral-storage"]
        assert int(allowed.removesuffix("Gi")) > int(volume["emptyDir"]["sizeLimit"].removesuffix("Gi"))


def test_both_have_a_gpu_and_are_restricted_alike() -> None:
    assert WARM["securityContext"] == SERVE["securityContext"]
    assert WARM["resources"]["limits"]["nvidia.com/gpu"] == SERVE["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_the_base_is_still_in_it() -> None:
    assert {variable["name"] for variable in SERVE["env"]} >= {"MARROWLENS_DRAIN_DELAY_S", "MARROWLENS_PROVIDER"}
    assert SERVE["startupProbe"]["httpGet"] == {"path": "/health/ready", "port": "http"}
