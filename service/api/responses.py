"""From what the model computed to the documents that are answered. Pure: no I/O, no HTTP, no clock.

Knows the manifest and the documents. Does not know how a picture was classified.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from model.contract import CellClass, Manifest
from service.api.schemas import (
    Attention,
    AttentionScale,
    ClassCount,
    ClassEntry,
    ClassShare,
    ClassTable,
    DifferentialCount,
    Evidence,
    ModelDescription,
    ModelIdentity,
    Prediction,
    Reading,
    TopClass,
)
from service.concurrency.thread_pools import BODIES
from service.inference.differential import Differential, Share
from service.inference.heatmaps import (
    ATTENTION_SCALE,
    Grid,
    MapFormat,
    MapKind,
    Picture,
    Scale,
    evidence_scale,
    grey_png,
    overlay_png,
)
from service.inference.pipeline import Answer


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a client asked to see of each picture."""

    maps: frozenset[MapKind] = frozenset({MapKind.ATTENTION})
    map_format: MapFormat = MapFormat.GRID
    top_k: int = 5

    @property
    def draws(self) -> bool:
        """Whether pictures are drawn, which takes milliseconds."""
        return bool(self.maps - {MapKind.NONE}) and self.map_format is not MapFormat.GRID


class _Drawn(NamedTuple):
    values: Grid | None
    png: str | None


def identity(manifest: Manifest) -> ModelIdentity:
    """The model's name, version and hashes, and the classes for which it claims nothing."""
    return ModelIdentity(
        name=manifest.name,
        version=manifest.version,
        sha256=manifest.sha256,
        manifest_sha256=manifest.digest,
        unsupported=list(manifest.unsupported),
    )


def description(manifest: Manifest, provider: str) -> ModelDescription:
    """The whole manifest, the research-use notice, and what computes."""
    return ModelDescription(**manifest.model_dump(), provider=provider, manifest_sha256=manifest.digest)


def class_table(manifest: Manifest) -> ClassTable:
    """The classes in logit order, with how many pictures each was learned from."""
    entries = [
        ClassEntry(
            **cell_class.model_dump(),
            training_images=manifest.training_images[cell_class.code],
            supported=cell_class.code not in manifest.unsupported,
        )
        for cell_class in manifest.classes
    ]
    return ClassTable(model=identity(manifest), classes=entries)


def reading(answer: Answer, manifest: Manifest, wanted: Wanted) -> Reading:
    """What is said of one picture. An unsupported class can win: then `prediction.supported` is false."""
    order = np.argsort(-answer.probabilities, kind="stable")[: wanted.top_k].tolist()
    probabilities = dict(zip(manifest.codes, answer.probabilities.tolist(), strict=True))
    first = manifest.classes[order[0]]
    return Reading(
        prediction=Prediction(
            code=first.code,
            name=first.name,
            probability=probabilities[first.code],
            supported=first.code not in manifest.unsupported,
        ),
        top=[TopClass(code=manifest.codes[at], probability=probabilities[manifest.codes[at]]) for at in order],
        probabilities=probabilities,
        attention=_attention(answer, manifest, wanted) if MapKind.ATTENTION in wanted.maps else None,
        evidence=_evidence(answer, manifest, wanted, order) if MapKind.EVIDENCE in wanted.maps else None,
    )


async def reading_aside(answer: Answer, manifest: Manifest, wanted: Wanted) -> Reading:
    """`reading`, in a thread when pictures are to be drawn; numbers alone take less time than the way to a thread."""
    if wanted.draws:
        return await BODIES.run(reading, answer, manifest, wanted)
    return reading(answer, manifest, wanted)


def differential_count(count: Differential, manifest: Manifest, *, count_other: bool) -> DifferentialCount:
    """The differential as a document."""
    return DifferentialCount(
        counted=count.counted,
        counted_unsupported=count.counted_unsupported,
        classes=[class_share(share) for share in count.shares],
        excluded=[_class_count(left, found, manifest) for left, found in count.excluded],
        problems=count.problems,
        count_other=count_other,
        unsupported=list(manifest.unsupported),
    )


def _class_count(left: CellClass, found: int, manifest: Manifest) -> ClassCount:
    return ClassCount(code=left.code, name=left.name, count=found, supported=left.code not in manifest.unsupported)


def class_share(share: Share) -> ClassShare:
    """One class of a differential as a document."""
    return ClassShare(
        code=share.cell_class.code,
        name=share.cell_class.name,
        count=share.count,
        percent=share.percent,
        low=share.low,
        high=share.high,
        supported=share.supported,
    )


def _attention(answer: Answer, manifest: Manifest, wanted: Wanted) -> Attention:
    _, height, width = answer.attention.shape
    scales = []
    for kernel, grid in zip(manifest.attention_scales, answer.attention, strict=True):
        drawn = _draw(grid, ATTENTION_SCALE, answer.picture, wanted.map_format)
        scales.append(AttentionScale(kernel=kernel, values=drawn.values, png=drawn.png))
    return Attention(height=height, width=width, scales=scales)


def _evidence(answer: Answer, manifest: Manifest, wanted: Wanted, order: Sequence[int]) -> list[Evidence]:
    _, height, width = answer.evidence.shape
    scale = evidence_scale(answer.evidence)
    in_picture = wanted.map_format is not MapFormat.GRID
    maps = []
    for at in order:
        drawn = _draw(answer.evidence[at], scale, answer.picture, wanted.map_format)
        maps.append(
            Evidence(
                code=manifest.codes[at],
                logit=float(answer.logits[at]),
                bias=manifest.bias[at],
                height=height,
                width=width,
                values=drawn.values,
                png=drawn.png,
                low=scale.low if in_picture else None,
                high=scale.high if in_picture else None,
            )
        )
    return maps


def _draw(grid: Grid, scale: Scale, picture: Picture, map_format: MapFormat) -> _Drawn:
    if map_format is MapFormat.GRID:
        return _Drawn(values=grid, png=None)
    if map_format is MapFormat.PNG:
        return _Drawn(values=None, png=grey_png(grid, scale))
    return _Drawn(values=None, png=overlay_png(grid, scale, picture))
