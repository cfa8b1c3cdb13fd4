"""The training Job is valid, restricted, starts commands and options that exist, and its numbers agree."""

import re
import shutil
import subprocess
import tomllib
from importlib.metadata import entry_points
from typing import Any

import kubernetes_validate
import pytest
import typer
import yaml
from checkout import ROOT
from torch.distributed.run import get_args_parser

from training.cli import app
from training.config import read_config

FOLDER = ROOT / "k8s/training"
DOCKERFILE = (ROOT / "docker/training.Dockerfile").read_text()
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
DOCUMENTS = [each for name in KUSTOMIZATION["resources"] for each in yaml.safe_load_all((FOLDER / name).read_text())]
KINDS: dict[str, dict[str, Any]] = {document["kind"]: document for document in DOCUMENTS}
JOB = KINDS["Job"]["spec"]
POD = JOB["template"]["spec"]
(CONTAINER,) = POD["containers"]
OPTIONS = get_args_parser().parse_args(CONTAINER["args"])
TRAINED = typer.main.get_command(app)


def _bytes(quantity: str) -> int:
    return int(quantity.removesuffix("Gi")) * 1024**3


@pytest.mark.parametrize("version", ["1.29", "1.33", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document["kind"])
def test_resources_are_valid(document: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not here")
def test_it_renders_to_these_resources_and_the_configuration() -> None:
    rendered = subprocess.run(["kubectl", "kustomize", FOLDER], capture_output=True, text=True, check=True).stdout
    by_kind = {document["kind"]: document for document in yaml.safe_load_all(rendered)}
    assert set(by_kind) == {*KINDS, "ConfigMap"}
    job, configuration = by_kind["Job"], by_kind["ConfigMap"]
    kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)
    assert configuration["data"]["run.toml"] == (FOLDER / "run.toml").read_text()
    volumes = {volume["name"]: volume for volume in job["spec"]["template"]["spec"]["volumes"]}
    assert volumes["config"]["configMap"]["name"] == configuration["metadata"]["name"]  # with the digest of its content


def test_every_file_is_used_and_the_configuration_is_the_one_for_the_full_set() -> None:
    (generated,) = KUSTOMIZATION["configMapGenerator"]
    used = {*KUSTOMIZATION["resources"], *generated["files"], "kustomization.yaml"}
    assert {path.name for path in FOLDER.iterdir()} == used
    assert (FOLDER / "run.toml").read_bytes() == (ROOT / "training/configs/full.toml").read_bytes()


def test_torchrun_starts_a_command_that_exists_with_options_that_it_has() -> None:
    """torchrun's own options were read by torchrun's own parser."""
    assert CONTAINER["command"] == ["torchrun"]
    assert [script.name for script in entry_points(group="console_scripts", name="torchrun")] == ["torchrun"]
    assert "ENV PATH=/opt/marrowlens/bin:$PATH" in DOCKERFILE.split("FROM ${PYTHON_IMAGE}\n")[1]  # of the image itself
    assert (OPTIONS.module, OPTIONS.training_script) == (True, "training.cli")
    name, *arguments = OPTIONS.training_script_args
    command = TRAINED.commands[name]  # type: ignore[attr-defined]
    values = command.make_context(name, list(arguments)).params
    assert values["devices"] is None  # torchrun says it
    mounts = {mount["mountPath"]: mount for mount in CONTAINER["volumeMounts"]}
    for value, writes in (("config_path", False), ("data", False), ("out", True), ("cache", True)):
        mount = mounts["/" + values[value].parts[1]]
        assert mount.get("readOnly", False) is not writes
    assert values["config_path"].name in KUSTOMIZATION["configMapGenerator"][0]["files"]
    assert values["checkpoint_every"] > 0


def test_an_option_that_does_not_exist_is_found() -> None:
    with pytest.raises(Exception, match="No such option.*--machines"):
        TRAINED.commands["fit"].make_context("fit", ["run.toml", "--out=x", "--machines=2"])  # type: ignore[attr-defined]


def test_nodes_pods_and_gpus_are_as_many_and_share_the_batch() -> None:
    assert JOB["completionMode"] == "Indexed"
    assert int(OPTIONS.nnodes) == JOB["completions"] == JOB["parallelism"]
    processes = int(OPTIONS.nproc_per_node)
    resources = CONTAINER["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"] == processes
    assert read_config(FOLDER / "run.toml").fit.batch_size % (int(OPTIONS.nnodes) * processes) == 0
    threads = {variable["name"]: variable["value"] for variable in CONTAINER["env"]}["OMP_NUM_THREADS"]
    assert int(threads) * processes <= int(resources["requests"]["cpu"])


def test_the_pods_meet_where_pod_0_is() -> None:
    service, name = KINDS["Service"], KINDS["Job"]["metadata"]["name"]
    (port,) = service["spec"]["ports"]
    assert POD["subdomain"] == service["metadata"]["name"]
    assert (service["spec"]["clusterIP"], service["spec"]["publishNotReadyAddresses"]) == ("None", True)
    assert OPTIONS.rdzv_backend == "c10d"
    assert OPTIONS.rdzv_endpoint == f"{name}-0.{service['metadata']['name']}:{port['port']}"
    assert CONTAINER["ports"] == [{"name": port["targetPort"], "containerPort": port["port"]}]


def test_what_fails_is_started_again_and_what_is_stopped_has_time_to_save() -> None:
    assert POD["restartPolicy"] == "Never"  # as a podFailurePolicy asks
    assert JOB["podReplacementPolicy"] == "Failed"
    assert JOB["backoffLimit"] >= JOB["completions"] * OPTIONS.max_restarts
    assert POD["terminationGracePeriodSeconds"] > 30  # what torchrun gives its processes


def test_the_disk_holds_the_decoded_pictures_and_memory_what_the_workers_hand_over() -> None:
    volumes = {volume["name"]: volume for volume in POD["volumes"]}
    limits = CONTAINER["resources"]["limits"]
    claimed = sum(_bytes(volumes[name]["emptyDir"]["sizeLimit"]) for name in ("cache", "tmp"))
    assert 33.1e9 * 1.2 < _bytes(volumes["cache"]["emptyDir"]["sizeLimit"])
    assert claimed <= _bytes(limits["ephemeral-storage"])
    assert volumes["shm"]["emptyDir"]["medium"] == "Memory"
    assert 4 * _bytes(volumes["shm"]["emptyDir"]["sizeLimit"]) < _bytes(limits["memory"])
    claims = {document["metadata"]["name"]: document for document in DOCUMENTS if document["kind"].endswith("Claim")}
    for name in ("cells", "runs"):
        claim = claims[volumes[name]["persistentVolumeClaim"]["claimName"]]
        assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_pod_is_restricted() -> None:
    """As the `restricted` Pod Security Standard asks, and a read-only root file system besides."""
    pod, container = POD["securityContext"], CONTAINER["securityContext"]
    assert pod["runAsNonRoot"] is True
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["allowPrivilegeEscalation"] is False
    assert container["capabilities"] == {"drop": ["ALL"]}
    assert container["readOnlyRootFilesystem"] is True
    (user,) = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)
    assert (str(pod["runAsUser"]), str(pod["runAsGroup"])) == user
    assert str(pod["fsGroup"]) == user[1]
    assert POD["automountServiceAccountToken"] is False
    assert POD["serviceAccountName"] == KINDS["ServiceAccount"]["metadata"]["name"]


def test_image_labels_and_selectors_are_of_this_version_and_of_these_pods() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    labels = JOB["template"]["metadata"]["labels"]
    assert CONTAINER["image"] == f"marrowlens-training:{version}"
    assert labels["app.kubernetes.io/version"] == version
    for selector in (
        KINDS["Service"]["spec"]["selector"],
        KINDS["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    service = yaml.safe_load((ROOT / "k8s/base/deployment.yaml").read_text())["spec"]["selector"]["matchLabels"]
    assert not service.items() <= labels.items()  # the service's own selectors must not find a training
