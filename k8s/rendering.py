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
#: Environment of the manifest checkers, kubectl included (make lint).
POLICY = FOLDER.parent / ".venv-policy"
OVERLAYS = {
    path.parent.name: path.parent
    for path in sorted((*FOLDER.glob("overlays/*/kustomization.yaml"), *FOLDER.glob("examples/*/kustomization.yaml")))
}
#: Not services: rendered and scanned with the overlays, with tests of their own.
TRAINING = FOLDER / "training"
RAY = FOLDER / "ray"
#: Fields of KServe's predictor that are not pod fields.
_KSERVES = ("model", "labels", "minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "deploymentStrategy")


def kubectl() -> str | None:
    """Path of kubectl: the one installed by `make lint`, or the system's; None if absent."""
    fetched = POLICY / "bin" / "kubectl"
    return str(fetched) if fetched.exists() else shutil.which("kubectl")


@cache
def text(folder: Path) -> str:
    """The YAML that `kubectl apply -k FOLDER` would send.

    Raises:
        FileNotFoundError: kubectl is not installed.
        subprocess.CalledProcessError: kustomize cannot render it; see its stderr.
    """
    program = kubectl()
    if program is None:
        raise FileNotFoundError("kubectl is not installed: run `make lint` on Linux, or install it")
    return subprocess.run([program, "kustomize", str(folder)], capture_output=True, text=True, check=True).stdout


def documents(folder: Path) -> list[Document]:
    """The objects of an overlay."""
    return [document for document in yaml.safe_load_all(text(folder)) if document]


def pods(found: list[Document]) -> Iterator[tuple[str, Document]]:
    """The pods that these objects create, as (kind and name of the owner, `metadata` and `spec`)."""
    for document in found:
        if document["kind"] in ("Deployment", "Job"):
            yield f"{document['kind']} {document['metadata']['name']}", document["spec"]["template"]
    if pod := kserve_pod(found):
        yield "InferenceService marrowlens", pod


def kserve_pod(found: list[Document]) -> Document | None:
    """The pod that KServe creates from an InferenceService and its ServingRuntime; None without them."""
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
    # Scanner waivers of the runtime apply to its pod too.
    waived = {"annotations": metadata["annotations"] | runtime["metadata"].get("annotations", {})}
    return {"metadata": metadata | namespace | waived, "spec": runtimes | own}


def write(folder: Path) -> None:
    """Write one file per overlay, one for training, one for Ray, and one for KServe's pod."""
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
