"""Validate objects against schemas of Kubernetes, KEDA, the Prometheus Operator and KServe.

`python -m k8s.schemas` checks every overlay for every version, without cluster or network; unknown fields are errors.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor
from pydantic import ValidationError

from k8s.rendering import OVERLAYS, POLICY, Document, documents, kserve_pod

#: Oldest supported version, one in between, and the newest that kubernetes-validate knows.
VERSIONS = ("1.32", "1.34", "1.37")
_MODELS = {model.__name__: model for model in (ScaledObject, ServiceMonitor, PrometheusRule)}
_KSERVE = {"InferenceService": "v1beta1_inference_service", "ServingRuntime": "v1alpha1_serving_runtime"}
#: Prefixes of KServe's own types; Kubernetes' types are checked with the pod.
_KSERVES = ("V1alpha1", "V1beta1")


def kserve_models() -> Path | None:
    """The folder of KServe's generated models, installed by `make lint` without the rest of the SDK; None if absent."""
    return next(POLICY.glob("lib/python*/site-packages/kserve/models"), None)


def faults(found: list[Document], version: str) -> list[str]:
    """Faults of these objects in one version of Kubernetes; empty if valid."""
    said = [f"{document['kind']}: {fault}" for document in found for fault in _faults(document, version)]
    if pod := kserve_pod(found):
        said += [f"KServe's pod: {fault}" for fault in _faults({"apiVersion": "v1", "kind": "Pod"} | pod, version)]
    return said


def _faults(document: Document, version: str) -> Iterator[str]:
    kind = document["kind"]
    if model := _MODELS.get(kind):
        yield from _dropped_fields(model, document)
    elif kind in _KSERVE:
        if models := kserve_models():
            yield from _unknown(models, _KSERVE[kind], document, kind)
    else:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{'.'.join(map(str, error.path))}: {error.message}"


def _dropped_fields(model: Any, document: Document) -> Iterator[str]:
    # The models are generated from CRDs and drop unknown fields, as a cluster does. A dropped field is a fault.
    try:
        read = model.model_validate(document).model_dump(mode="json", by_alias=True, exclude_unset=True)
    except ValidationError as error:
        yield str(error)
    else:
        yield from _differences(document, read, "")


def _differences(written: Any, read: Any, at: str) -> Iterator[str]:
    if isinstance(written, dict) and isinstance(read, dict):
        for key in written.keys() | read.keys():
            yield from _differences(written.get(key), read.get(key), f"{at}.{key}")
    elif isinstance(written, list) and isinstance(read, list) and len(written) == len(read):
        for index, pair in enumerate(zip(written, read, strict=True)):
            yield from _differences(*pair, f"{at}[{index}]")
    elif written != read:
        yield f"{at} is {written!r} and was read as {read!r}"


def _unknown(models: Path, module: str, value: Any, at: str) -> Iterator[str]:
    """Fields that KServe's generated model does not have, nested ones included."""
    types, fields = _declared((models / f"{module}.py").read_text(encoding="utf-8"))
    attributes = {field: attribute for attribute, field in fields.items()}
    for field, inner in value.items():
        if field not in attributes:
            yield f"{at}.{field} is not a field"
            continue
        kind = types[attributes[field]]
        below = kind.removeprefix("list[").removesuffix("]")
        if below.startswith(_KSERVES):
            for entry in inner if kind.startswith("list[") else [inner]:
                yield from _unknown(models, _module(below), entry, f"{at}.{field}")


def _module(model: str) -> str:
    """Module name of a generated model: V1beta1ModelFormat → v1beta1_model_format."""
    (version,) = (version for version in _KSERVES if model.startswith(version))
    rest = model.removeprefix(version)
    return version.lower() + "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in rest)


def _declared(source: str) -> tuple[dict[str, str], dict[str, str]]:
    # Parsed, not imported: importing the SDK needs all its dependencies.
    (model,) = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    tables = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in model.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    return tables["openapi_types"], tables["attribute_map"]


def main() -> None:
    """Check every overlay for every version; faults go to stderr, with exit code 1."""
    wrong = [
        f"{name}, Kubernetes {version}: {fault}\n"
        for name, folder in OVERLAYS.items()
        for version in VERSIONS
        for fault in faults(documents(folder), version)
    ]
    sys.stderr.writelines(wrong)
    if kserve_models() is None:
        sys.stderr.write("k8s: KServe's models are not installed (run make lint): its two kinds are not checked\n")
    sys.stdout.write(f"k8s: {len(OVERLAYS)} overlays, Kubernetes {', '.join(VERSIONS)}: {len(wrong)} faults\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
