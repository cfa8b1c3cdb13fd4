"""What a model's numbers mean: which classes they are of and in which order, of what pictures, which maps are whose.

No number of a graph tells it, so an export writes it into the graph, and an opening holds the manifest against it.
Knows the contract and text. Knows no ONNX: what a graph carries is told as keys and values.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Final

from pydantic import BaseModel, ConfigDict

from model.contract import CellClass, Manifest, Preprocessing

#: Before the name of each part, as a key of the graph's metadata.
PREFIX: Final = "marrowlens."


class Meaning(BaseModel):
    """The parts of a manifest that decide what each number of an answer means."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    classes: tuple[CellClass, ...]
    preprocessing: Preprocessing
    attention_scales: tuple[str, ...]


def meaning_of(manifest: Manifest) -> Meaning:
    """What the manifest says."""
    return Meaning(
        classes=manifest.classes, preprocessing=manifest.preprocessing, attention_scales=manifest.attention_scales
    )


def as_metadata(meaning: Meaning) -> dict[str, str]:
    """Keys and values for the graph: of each part its canonical JSON, which is the same wherever it is written."""
    parts = meaning.model_dump(mode="json")
    return {
        PREFIX + name: json.dumps(part, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        for name, part in parts.items()
    }


def from_metadata(metadata: Mapping[str, str]) -> Meaning | None:
    """What the graph says; None where it says nothing, as graphs did that were exported before there was this.

    Raises:
        ValueError: it says a part alone, one that is not known here, or what cannot be read.
    """
    found = {key.removeprefix(PREFIX): text for key, text in metadata.items() if key.startswith(PREFIX)}
    if not found:
        return None
    return Meaning.model_validate({name: json.loads(text) for name, text in found.items()})


def digest(meaning: Meaning) -> str:
    """sha256 of `as_metadata`, for graphs that carry none."""
    return hashlib.sha256(json.dumps(as_metadata(meaning), sort_keys=True).encode()).hexdigest()


def difference(graph: Meaning, manifest: Meaning) -> str | None:
    """The first thing that the manifest says otherwise, in words that end a sentence; None where they agree."""
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
