"""Render every overlay with kustomize, parse it, and find its pods.

`python -m k8s.rendering build/k8s` writes one file for each overlay, for programs that read manifests. Checks are in
`k8s.schemas` and tests/deploy/.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

Document = dict[str, Any]

FOLDER = Path(__file__).parent
#: Where `make` puts programs that judge manifests, kubectl among them.
POLICY = FOLDER.parent / ".venv-policy"
OVERLAYS = {
    path.parent.name: path.parent
    for path in sorted((*FOLDER.glob("overlays/*/kustomization.yaml"), *FOLDER.glob("examples/*/kustomization.yaml")))
}
#: What is no service: rendered and judged by the policy scanner with them, and tested by its own.
TRAINING = FOLDER / "training"
RAY = FOLDER / "ray"
#: Fields of KServe's predictor that are not a pod's.
_KSERVES = ("model", "labels", "minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "deploymentStrategy")


def kubectl() -> str | None:
    """The program that renders: the one that `make` fetched, or the system's."""
    fetched = POLICY / "bin" / "kubectl"
    return str(fetched) if fetched.exists() else shutil.which("kubectl")


@cache
def text(folder: Path) -> str:
    """What `kubectl apply -k FOLDER` would send.

    Raises:
        FileNotFoundError: there is no kubectl.
        subprocess.CalledProcessError: it cannot be rendered; kustomize says why.
    """
    program = kubectl()
    if program is None:
        raise FileNotFoundError("kubectl is not here: `make lint` fetches it on Linux, else install it")
    return subprocess.run([program, "kustomize", str(folder)], capture_output=True, text=True, check=True).stdout


def documents(folder: Path) -> list[Document]:
    """The objects of an overlay."""
    return [document for document in yaml.safe_load_all(text(folder)) if document]


def pods(found: list[Document]) -> Iterator[tuple[str, Document]]:
    """The pods that these objects make, each as `metadata` and `spec`, under its maker's kind and name."""
    for document in found:
        if document["kind"] in ("Deployment", "Job"):
            yield f"{document['kind']} {document['metadata']['name']}", document["spec"]["template"]
    if pod := kserve_pod(found):
        yield "InferenceService marrowlens", pod


def kserve_pod(found: list[Document]) -> Document | None:
    """The pod that KServe makes of a ServingRuntime and the InferenceService that names it, if there is one."""
    by_kind = {document["kind"]: document for document in found}
    if "InferenceService" not in by_kind:
        return None
    service, runtime = by_kind["InferenceService"], by_kind["ServingRuntime"]
    predictor = service["spec"]["predictor"]
    own = {field: value for field, value in predictor.items() if field not in _KSERVES}
    runtimes = {field: runtime["spec"][field] for field in ("containers", "volumes")}
    labels = predictor["labels"] | {"serving.kserve.io/inferenceservice": service["metadata"]["name"]}
    namespace = {"namespace": service["metadata"]["namespace"]} if "namespace" in service["metadata"] else {}
    metadata = {"name": "marrowlens-predictor", "labels": labels, "annotations": runtime["spec"]["annotations"]}
    # What is waived for the runtime is waived for its pod.
    waived = {"annotations": metadata["annotations"] | runtime["metadata"].get("annotations", {})}
    return {"metadata": metadata | namespace | waived, "spec": runtimes | own}


def write(folder: Path) -> None:
    """One file an overlay, one of the training, one of Ray, and one for the pod that KServe would make."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, overlay in OVERLAYS.items():
        (folder / f"{name}.yaml").write_text(text(overlay), encoding="utf-8")
        if pod := kserve_pod(documents(overlay)):
            document = {"apiVersion": "v1", "kind": "Pod"} | pod
            (folder / f"{name}-pod.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    for beside in (TRAINING, RAY):
        (folder / f"{beside.name}.yaml").write_text(text(beside), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
