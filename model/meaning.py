"""The meaning of a model's outputs, as metadata in the ONNX graph: class order, preprocessing, attention scales.

The export writes it into the graph, and the service compares the manifest with it, because the outputs themselves do
not show which class is which.
"""

import json
from collections.abc import Mapping
from typing import Final

from pydantic import BaseModel, ConfigDict

from model.contract import CellClass, Manifest, Preprocessing

#: Prefix of the metadata keys.
PREFIX: Final = "marrowlens."


class Meaning(BaseModel):
    """The parts of a manifest that define the meaning of the outputs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    classes: tuple[CellClass, ...]
    preprocessing: Preprocessing
    attention_scales: tuple[str, ...]


def meaning_of(manifest: Manifest) -> Meaning:
    """Class order, preprocessing and attention scales from the manifest."""
    return Meaning(
        classes=manifest.classes, preprocessing=manifest.preprocessing, attention_scales=manifest.attention_scales
    )


def as_metadata(meaning: Meaning) -> dict[str, str]:
    """Metadata for the graph: each part as canonical JSON."""
    parts = meaning.model_dump(mode="json")
    return {
        PREFIX + name: json.dumps(part, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        for name, part in parts.items()
    }


def from_metadata(metadata: Mapping[str, str]) -> Meaning:
    """Class order, preprocessing and attention scales from the graph's metadata.

    Raises:
        ValueError: a part is missing, unknown or invalid.
    """
    found = {key.removeprefix(PREFIX): text for key, text in metadata.items() if key.startswith(PREFIX)}
    return Meaning.model_validate({name: json.loads(text) for name, text in found.items()})


def difference(graph: Meaning, manifest: Meaning) -> str | None:
    """The first difference, as a clause; None if graph and manifest agree."""
    if graph.classes != manifest.classes:
        return _other_classes(graph.classes, manifest.classes)
    said, meant = as_metadata(graph), as_metadata(manifest)
    other = next((key for key in said if said[key] != meant[key]), None)
    if other is None:
        return None
    return f"{other.removeprefix(PREFIX)} is {said[other]} in the graph and {meant[other]} in the manifest"


def _other_classes(graph: tuple[CellClass, ...], manifest: tuple[CellClass, ...]) -> str:
    if len(graph) != len(manifest):
        return f"the graph has {len(graph)} classes and the manifest {len(manifest)}"
    at, here, there = next((at, *two) for at, two in enumerate(zip(graph, manifest, strict=True)) if two[0] != two[1])
    if here.code != there.code:
        reordered = {of.code for of in graph} == {of.code for of in manifest}
        how = "the same classes in another order" if reordered else "other classes"
        return f"class {at} is {here.code} in the graph and {there.code} in the manifest, which has {how}"
    parts, others = here.model_dump(), there.model_dump()
    name = next(name for name in parts if parts[name] != others[name])
    return f"the {name} of class {here.code} is {parts[name]!r} in the graph and {others[name]!r} in the manifest"
