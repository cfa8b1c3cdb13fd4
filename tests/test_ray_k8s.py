"""The RayJob: pods that Kubernetes takes, restricted, of this version, and a command that exists."""

import shlex
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from typer.main import get_command

from service.cli import app

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "k8s/ray"
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
RESOURCES = [yaml.safe_load((FOLDER / name).read_text()) for name in KUSTOMIZATION["resources"]]
ACCOUNT, JOB = RESOURCES
CLUSTER = JOB["spec"]["rayClusterSpec"]
PODS = {"head": CLUSTER["headGroupSpec"]} | {group["groupName"]: group for group in CLUSTER["workerGroupSpecs"]}


def test_rendering_adds_nothing_to_the_files() -> None:
    assert set(KUSTOMIZATION) == {"apiVersion", "kind", "resources"}
    assert set(KUSTOMIZATION["resources"]) == {path.name for path in FOLDER.iterdir()} - {"kustomization.yaml"}


@pytest.mark.parametrize("version", ["1.29", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("pod", PODS)
def test_its_pods_are_valid(pod: str, version: str) -> None:
    template = PODS[pod]["template"]
    whole = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": pod} | template["metadata"],
        "spec": template["spec"],
    }
    kubernetes_validate.validate(whole, version, strict=True)
    kubernetes_validate.validate(ACCOUNT, version, strict=True)


@pytest.mark.parametrize("pod", PODS)
def test_its_pods_are_restricted_and_of_this_version(pod: str) -> None:
    spec: dict[str, Any] = PODS[pod]["template"]["spec"]
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    (container,) = spec["containers"]
    assert container["image"] == f"marrowlens:{version}-ray"
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert spec["enableServiceLinks"] is False and spec["automountServiceAccountToken"] is False
    assert spec["serviceAccountName"] == ACCOUNT["metadata"]["name"]
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in spec["volumes"]}


def test_the_head_scores_nothing() -> None:
    assert CLUSTER["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_the_command_is_one() -> None:
    program, name, *arguments = shlex.split(JOB["spec"]["entrypoint"])
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    context = command.make_context(name, arguments)  # refuses options that are none
    assert program == "marrowlens" and context.params["engine"] == "ray"
    assert context.params["address"] is None, "RAY_ADDRESS is the cluster's"
    assert "://" in context.params["out"] and all("://" in one for one in context.params["inputs"])
