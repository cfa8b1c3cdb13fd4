"""The RayJob: pods that Kubernetes takes, restricted, of this version, and a command that exists."""

import shlex
import tomllib
from ipaddress import ip_address, ip_network
from typing import Any

import kubernetes_validate
import pytest
import yaml
from checkout import ROOT
from manifests import parsed

FOLDER = ROOT / "k8s/ray"
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
RESOURCES = [
    document for name in KUSTOMIZATION["resources"] for document in yaml.safe_load_all((FOLDER / name).read_text())
]
ACCOUNT, POLICY, OPERATORS_POLICY, JOB = RESOURCES
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
    for each in (ACCOUNT, POLICY, OPERATORS_POLICY):
        kubernetes_validate.validate(each, version, strict=True)


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


def labels_of(pod: str) -> dict[str, str]:
    labels: dict[str, str] = PODS[pod]["template"]["metadata"]["labels"]
    return labels


@pytest.mark.parametrize("pod", PODS)
def test_every_pod_is_behind_a_policy_both_ways(pod: str) -> None:
    """Whoever reaches Ray's ports runs programs there: the run's own pods alone do."""
    spec = POLICY["spec"]
    assert spec["podSelector"]["matchLabels"].items() <= labels_of(pod).items()
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    ours = [{"podSelector": spec["podSelector"]}]
    assert [each["from"] for each in spec["ingress"]] == [ours]
    own, names, store = spec["egress"]
    assert own == {"to": ours}
    assert {port["port"] for port in names["ports"]} == {53} and all("podSelector" in each for each in names["to"])
    assert store["ports"] == [{"protocol": "TCP", "port": 443}]
    metadata = ip_address("169.254.169.254")
    blocks = [each["ipBlock"] for each in store["to"]]
    assert any(metadata in ip_network(each) for block in blocks for each in block["except"])


def test_the_operator_reaches_the_heads_job_server_and_nothing_else() -> None:
    spec = OPERATORS_POLICY["spec"]
    reached = [pod for pod in PODS if spec["podSelector"]["matchLabels"].items() <= labels_of(pod).items()]
    assert reached == ["head"]
    (rule,) = spec["ingress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 8265}]
    assert all(each["podSelector"]["matchLabels"] for each in rule["from"])
    assert JOB["spec"]["submissionMode"] == "HTTPMode"


def test_policies_select_no_other_pods() -> None:
    service = yaml.safe_load((ROOT / "k8s/base/deployment.yaml").read_text())["spec"]["template"]["metadata"]["labels"]
    for policy in (POLICY, OPERATORS_POLICY):
        assert not policy["spec"]["podSelector"]["matchLabels"].items() <= service.items()


def test_the_head_scores_nothing() -> None:
    assert CLUSTER["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_the_command_is_one() -> None:
    program, *words = shlex.split(JOB["spec"]["entrypoint"])
    options = parsed(words)  # refuses options that are none
    assert program == "marrowlens" and words[0] == "score" and options["engine"] == "ray"
    assert options["address"] is None, "RAY_ADDRESS is the cluster's"
    assert "://" in options["out"] and all("://" in one for one in options["inputs"])
