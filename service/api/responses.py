"""Response documents from what the model computed. Pure functions: no I/O, no HTTP, no clock."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, FailFast, Field, field_validator

from model.contract import Manifest
from model.drift.distance import MIN_PICTURES
from model.trust.decision import Decision
from service.api.schemas import (
    ClassEntry,
    ClassMix,
    ClassTable,
    CorrectedShare,
    DifferentialCount,
    DriftDescription,
    DriftKind,
    ModelDescription,
    ModelIdentity,
    Reading,
    numbers,
)
from service.concurrency.thread_pools import BODIES
from service.errors import NoAttentionMaps, NoTrustReference
from service.inference.corrected_count import corrected_count
from service.inference.differential import differential
from service.inference.drift_window import DriftState
from service.inference.heatmaps import (
    ATTENTION_SCALE,
    Grid,
    MapFormat,
    MapKind,
    Pixels,
    Scale,
    evidence_scale,
    grey_png,
    overlay_png,
)
from service.inference.pipeline import Answer


class ResponseOptions(BaseModel):
    """What the answer holds for each picture: the query parameters of both classify routes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    maps: Annotated[list[MapKind], FailFast()] = Field(
        [MapKind.ATTENTION],
        description="Maps to include, repeated or separated by commas. `none`: no map. A model without attention maps "
        "returns none by default, and 422 for `attention`.",
        examples=[["attention", "evidence"]],
    )
    map_format: MapFormat = Field(
        MapFormat.GRID,
        description="`grid`: numbers. `png`: the grid as a grey PNG. `overlay`: a colour map over the cell, as PNG. "
        "PNG files are in base64.",
        examples=["overlay"],
    )
    top_k: int = Field(
        5,
        ge=1,
        le=1000,
        description="Number of classes in `top`, and of evidence maps; at most all classes.",
        examples=[3],
    )

    @field_validator("maps", mode="before")
    @classmethod
    def _split_at_commas(cls, values: list[str]) -> list[str]:
        return [part for value in values for part in str(value).split(",")]

    def for_model(self, manifest: Manifest) -> Self:
        """These options; for a model without attention maps, the default of `maps` is `none`.

        Raises:
            NoAttentionMaps: the request names attention, and the model has no attention maps.
        """
        if manifest.has_attention or MapKind.ATTENTION not in self.maps:
            return self
        if "maps" in self.model_fields_set:
            raise NoAttentionMaps()
        return self.model_copy(update={"maps": [MapKind.NONE]})

    @property
    def has_png(self) -> bool:
        """Whether PNG files are drawn, which takes milliseconds."""
        return self.map_format is not MapFormat.GRID and any(kind is not MapKind.NONE for kind in self.maps)


class BatchOptions(ResponseOptions):
    """The query parameters of the batch route."""

    corrected: bool = Field(
        False,
        description="Add shares corrected by the confusion matrix to the differential. 422 for a model without a trust "
        "reference.",
    )

    def for_model(self, manifest: Manifest) -> Self:
        """As for one picture.

        Raises:
            NoAttentionMaps: as for one picture.
            NoTrustReference: the request asks for corrected shares, and the model has no trust reference.
        """
        if self.corrected and manifest.trust is None:
            raise NoTrustReference()
        return super().for_model(manifest)


#: The fields of a JSON document; those that do not apply are absent.
Fields = dict[str, Any]


def model_identity(manifest: Manifest) -> ModelIdentity:
    """The model's name, version, hashes, unsupported classes and inert parts."""
    return ModelIdentity.model_validate(identity_fields(manifest))


def identity_fields(manifest: Manifest) -> Fields:
    """The fields of `model_identity`, as `json_of` writes them."""
    fields = {
        "name": manifest.name,
        "version": manifest.version,
        "sha256": manifest.sha256,
        "manifest_sha256": manifest.digest,
        "site_trust_sha256": manifest.site_trust_sha256,
        "unsupported": manifest.unsupported,
        "inert": manifest.inert,
    }
    return {name: value for name, value in fields.items() if value or name == "unsupported"}


def model_description(manifest: Manifest, provider: str, precision: str) -> ModelDescription:
    """The whole manifest, the research-use notice, the execution provider, and what it computes in."""
    return ModelDescription(
        **manifest.model_dump(), provider=provider, computed_in=precision, manifest_sha256=manifest.digest
    )


def class_table(manifest: Manifest) -> ClassTable:
    """The classes in logit order, with their numbers of training images."""
    entries = [
        ClassEntry(
            **cell_class.model_dump(),
            training_images=manifest.training_images[cell_class.code],
            supported=cell_class.code not in manifest.unsupported,
        )
        for cell_class in manifest.classes
    ]
    return ClassTable(model=model_identity(manifest), classes=entries)


def differential_count(
    codes: Mapping[str, int], manifest: Manifest, *, problems: int, count_other: bool, corrected: bool
) -> DifferentialCount:
    """The differential count of predicted classes; with `corrected`, with corrected shares if the model offers them.

    Raises:
        ValueError: a code is not among the model's classes.
    """
    count = differential(
        codes, manifest.classes, unsupported=manifest.unsupported, problems=problems, count_other=count_other
    )
    found = DifferentialCount.model_validate(count)
    shares = corrected_count(codes, manifest, count_other=count_other) if corrected else None
    if shares is None:
        return found
    return found.model_copy(update={"corrected": [CorrectedShare.model_validate(share) for share in shares]})


def reading(answer: Answer, manifest: Manifest, options: ResponseOptions) -> Reading:
    """The model's answer for one picture. An unsupported class can win; then `prediction.supported` is false."""
    return Reading.model_validate(reading_fields(answer, manifest, options))


def reading_fields(answer: Answer, manifest: Manifest, options: ResponseOptions) -> Fields:
    """The fields of `reading`, as `json_of` writes them.

    The event loop makes them for each answer. Validating what the model computed would take longer than all the rest.
    """
    order = (-answer.probabilities).argsort(kind="stable")[: options.top_k].tolist()
    probabilities = dict(zip(manifest.codes, answer.probabilities.tolist(), strict=True))
    fields = {
        "prediction": _prediction(answer, manifest, order[0]),
        **_decision(answer),
        "top": [{"code": (code := manifest.codes[at]), "probability": probabilities[code]} for at in order],
        "probabilities": probabilities,
    }
    if answer.attention is not None and MapKind.ATTENTION in options.maps:
        fields["attention"] = _attention(answer.attention, answer, manifest, options)
    if MapKind.EVIDENCE in options.maps:
        fields["evidence"] = _evidence(answer, manifest, options, order)
    return fields


async def reading_in_thread(answer: Answer, manifest: Manifest, options: ResponseOptions) -> Fields:
    """`reading_fields`, in a thread if PNG files are drawn. Numbers alone take less time than the thread switch."""
    if options.has_png:
        return await BODIES.run(reading_fields, answer, manifest, options)
    return reading_fields(answer, manifest, options)


def _prediction(answer: Answer, manifest: Manifest, at: int) -> Fields:
    first = manifest.classes[at]
    fields = {
        "code": first.code,
        "name": first.name,
        "probability": float(answer.probabilities[at]),
        "supported": first.code not in manifest.unsupported,
    }
    if answer.assessment is not None:
        fields["set"] = answer.assessment.prediction_set
    return fields


def _decision(answer: Answer) -> Fields:
    found = answer.assessment
    if found is None:
        return {}
    return {
        "decision": found.decision,
        "reasons": found.reasons,
        "novelty": {"score": found.novelty, "p_value": found.p_value},
    }


def _attention(maps: NDArray[np.float32], answer: Answer, manifest: Manifest, options: ResponseOptions) -> Fields:
    _, height, width = maps.shape
    scales = [
        {"kernel": kernel, **_map(grid, ATTENTION_SCALE, answer.picture, options.map_format)}
        for kernel, grid in zip(manifest.attention_scales, maps, strict=True)
    ]
    return {"height": height, "width": width, "scales": scales}


def _evidence(answer: Answer, manifest: Manifest, options: ResponseOptions, order: Sequence[int]) -> list[Fields]:
    _, height, width = answer.evidence.shape
    scale = evidence_scale(answer.evidence)
    range_of_png = {} if options.map_format is MapFormat.GRID else {"low": scale.low, "high": scale.high}
    return [
        {
            "code": manifest.codes[at],
            "logit": float(answer.logits[at]),
            "bias": manifest.bias[at],
            "height": height,
            "width": width,
            **_map(answer.evidence[at], scale, answer.picture, options.map_format),
            **range_of_png,
        }
        for at in order
    ]


def _map(grid: Grid, scale: Scale, picture: Pixels, map_format: MapFormat) -> Fields:
    if map_format is MapFormat.GRID:
        return {"values": numbers(grid)}
    if map_format is MapFormat.PNG:
        return {"png": grey_png(grid, scale)}
    return {"png": overlay_png(grid, scale, picture)}


#: The rule of the alert MarrowlensManyRejected (k8s/observability/alerts.yaml).
_MANY_REJECTED, _LEAST_ANSWERS = 0.2, 100


def drift_description(state: DriftState | None, decisions: Mapping[Decision, int]) -> DriftDescription:
    """What the drift window says; `state` is None where drift is not measured."""
    answers = sum(decisions.values())
    many = answers >= _LEAST_ANSWERS and decisions["reject"] > _MANY_REJECTED * answers
    shared = {"least_pictures": MIN_PICTURES, "decisions": dict(decisions), "many_rejected": many}
    if state is None:
        return DriftDescription(measured=False, **shared)
    found = state.measurement
    drifted = found.drifted()
    kinds = [
        DriftKind(kind=kind, distance=distance, threshold=found.thresholds[kind], drifted=kind in drifted)
        for kind, distance in found.distances.items()
    ]
    return DriftDescription(
        measured=True,
        pictures=found.pictures,
        reference=state.reference.source,
        kinds=kinds,
        class_mix=_class_mix(state) if kinds else [],
        **shared,
    )


def _class_mix(state: DriftState) -> list[ClassMix]:
    counts, known = state.counts, state.reference.class_pictures
    pictures, reference = sum(counts.values()), sum(known.values())
    return [
        ClassMix(code=code, share=counts[code] / pictures, reference=known[code] / reference)
        for code in known
        if counts[code] or known[code]
    ]
