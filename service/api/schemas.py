"""JSON documents of the API, with the meaning of every field. Fields that do not apply are absent, not null."""

from datetime import datetime
from typing import Annotated, Any

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, WithJsonSchema

from model.contract import RESEARCH_USE, CellClass, Manifest, PartName
from model.drift.reference import Kind
from model.fields import Code
from model.trust.decision import Decision, ReasonCode


def numbers(values: Any) -> NDArray[np.float32]:
    """Rows of numbers as a C-contiguous array, which orjson writes without a copy."""
    return np.ascontiguousarray(values, dtype=np.float32)


#: (h, w) float32, rows from the top. JSON has the shortest digits that give the same float32 back.
Values = Annotated[
    NDArray[np.float32],
    PlainValidator(numbers),
    PlainSerializer(lambda values: values.tolist(), when_used="json"),
    WithJsonSchema({"type": "array", "items": {"type": "array", "items": {"type": "number"}}}),
]
Probability = Annotated[float, Field(ge=0, le=1)]


class Document(BaseModel):
    """Base of all JSON documents. Validation errors never contain the wrong value: it could be a patient's."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True, from_attributes=True)

    def json_bytes(self) -> bytes:
        """The document as UTF-8 JSON, without fields that are None."""
        return json_of(self)


def json_of(document: "Document | dict[str, Any]") -> bytes:
    """A document or its fields as UTF-8 JSON. Of documents inside, fields that are None are left out."""
    return orjson.dumps(document, default=_fields, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_UTC_Z)


def _fields(value: Any) -> dict[str, Any]:
    """The fields of a model that are not None. It replaces `model_dump(exclude_none=True)`, which copies all values."""
    if isinstance(value, BaseModel):
        return {name: found for name, found in value.__dict__.items() if found is not None}
    raise TypeError(f"{type(value).__name__} has no JSON form")


class Problem(Document):
    """What went wrong with a request or a picture (RFC 9457)."""

    type: str = Field(
        description="identifies the type of problem, for programs",
        examples=["urn:problem-type:marrowlens:picture-too-large"],
    )
    title: str = Field(description="the type of problem, for people", examples=["The picture is too large"])
    status: int = Field(ge=400, le=599, description="the HTTP status; a problem of one batch item has its own")
    detail: str = Field(description="what was wrong", examples=["18000000 pixels; 16000000 are allowed"])
    request_id: str = Field(description="as in the header X-Request-ID")


class ChangedCell(Document):
    """The current state of a cell that has changed since the client read it."""

    place: int
    version: int = Field(description="to be sent with the next reading")
    code: str = Field(description="current class")
    read_by: str | None = None
    read_at: datetime | None = None


class CellsProblem(Problem):
    """Readings that cannot be stored. None of the request was stored."""

    cells: list[ChangedCell] | None = Field(
        None, description="with `stale-revision`: the cells of the request that have changed, as they are now"
    )


class InferenceProblem(Problem):
    """A problem that is also the error object of the Open Inference Protocol: its clients read `error`."""

    error: str = Field(description="the same text as `detail`", examples=["18000000 pixels; 16000000 are allowed"])


class ModelIdentity(Document):
    """The model that gave the answer. A laboratory records it with the result."""

    name: str
    version: str = Field(description="the model's version, not the service's")
    sha256: str = Field(description="of the ONNX file")
    manifest_sha256: str = Field(description="of the manifest: classes, limits, metrics, and the thresholds in force")
    site_trust_sha256: str | None = Field(
        None,
        exclude_if=lambda digest: digest is None,
        description="of the laboratory's own thresholds (MARROWLENS_TRUST_REFERENCE); absent: the model's",
    )
    unsupported: list[Code] = Field(
        description="classes with no or too few training images. Predictions of them are not valid results"
    )
    inert: list[PartName] | None = Field(
        None,
        exclude_if=lambda parts: parts is None,
        description="parts of the network that answers do not depend on; absent: none, or not measured",
        examples=[["MLKA"]],
    )


class _Answer(Document):
    request_id: str = Field(description="as in the header X-Request-ID")
    model: ModelIdentity


class Prediction(Document):
    """The class with the highest probability. It is a suggestion; a person decides."""

    code: Code
    name: str
    probability: Probability
    supported: bool = Field(
        description="about the class, not about this cell. true: the class has enough training images. false: it has "
        "too few, and the result is not valid. A cell of a class unknown to the model also gets one of its classes"
    )
    set: list[Code] | None = Field(
        None,
        description="the prediction set: classes that cannot be excluded at the coverage of the model's trust "
        "reference, the predicted class first. Absent if the model has no trust reference",
        examples=[["PMO", "BLA"]],
    )


class Novelty(Document):
    """How unlike the known cells the picture is."""

    score: float = Field(
        ge=0, description="Mahalanobis distance of the embedding from the nearest class; depends on the model"
    )
    p_value: Probability = Field(description="share of known cells that are at least as unusual; small: unusual")


class Reason(Document):
    """Why an answer is not accepted."""

    code: ReasonCode = Field(description="for programs")
    detail: str = Field(description="for people: what was found, and what to do")


class TopClass(Document):
    """One of the most probable classes."""

    code: Code
    probability: Probability


class AttentionScale(Document):
    """How strongly one kernel scale of the network weighted each region. It is the same for all classes."""

    kernel: str = Field(description="the kernel sizes of the scale", examples=["3-5-1"])
    values: Values | None = Field(None, description="map_format=grid: height rows of width numbers, 0..1")
    png: str | None = Field(
        None, description="map_format=png or overlay: a PNG, base64", json_schema_extra={"contentEncoding": "base64"}
    )


class Attention(Document):
    """The attention maps of all scales on one grid over the picture."""

    height: int = Field(description="rows of the grid")
    width: int = Field(description="columns of the grid")
    scales: list[AttentionScale]


class Evidence(Document):
    """How much each region counts for (above 0) or against (below 0) one class.

    The map is exact: the mean of all values plus `bias` is `logit`.
    """

    code: Code
    logit: float = Field(description="before the calibration temperature")
    bias: float
    height: int = Field(description="rows of the grid")
    width: int = Field(description="columns of the grid")
    values: Values | None = Field(None, description="map_format=grid: height rows of width numbers, in logits")
    png: str | None = Field(
        None, description="map_format=png or overlay: a PNG, base64", json_schema_extra={"contentEncoding": "base64"}
    )
    low: float | None = Field(None, description="the value of black, or of the blue end, in the PNG, in logits")
    high: float | None = Field(None, description="the value of white, or of the red end, in the PNG, in logits")


class Reading(Document):
    """The model's answer for one picture."""

    prediction: Prediction
    decision: Decision | None = Field(
        None,
        description="accept: no check failed. review: a person should read the cell. reject: no nucleus in the middle, "
        "or more unusual than nearly all known cells; do not use the predicted class. It does not change a count, and "
        "a person signs in any case. Absent if the model has no trust reference",
    )
    reasons: list[Reason] | None = Field(None, description="of review or reject; empty for accept")
    novelty: Novelty | None = Field(None, description="how unusual the picture is")
    top: list[TopClass] = Field(description="the top_k most probable classes, most probable first")
    probabilities: dict[Code, Probability] = Field(description="of every class, in logit order; they sum to 1")
    attention: Attention | None = Field(
        None, description="if maps contains attention, and the model has attention maps"
    )
    evidence: list[Evidence] | None = Field(None, description="if maps contains evidence: one map a class in top")


class ClassifyAnswer(Reading, _Answer):
    """The answer to one picture."""


class SentPicture(BaseModel):
    """One line of an NDJSON body: one picture."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(None, description="returned with its answer")
    image: str = Field(description="the file's bytes in base64 (RFC 4648, section 4)")


class BatchItem(Document):
    """One picture of a batch: either a result or a problem."""

    index: int = Field(ge=0, description="its position in the request, from 0")
    name: str | None = Field(None, description="the name of the file or archive member, as sent")
    result: Reading | None = None
    problem: Problem | None = None


class ClassShare(Document):
    """One class of the differential count. Without any counted cell there is no percentage and no interval.

    The interval is the sampling error of counting this many cells. It does not include errors of the model: wrong
    predictions, and cells of unsupported classes, which are always predicted as another class. So a person has to read
    the cells. An unsupported class has no interval: its count is the number of predictions, not a measurement.
    """

    code: Code
    name: str
    count: int = Field(ge=0)
    percent: float | None = Field(None, description="share of the counted cells; all classes add up to 100")
    low: float | None = Field(
        None, description="lower bound of the 95 % Wilson interval, in per cent; absent if supported is false"
    )
    high: float | None = Field(None, description="upper bound, like low")
    supported: bool = Field(
        description="false: the count is not a measurement. There may be such cells at a count of 0, and cells counted "
        "here may belong to another class"
    )


class ClassCount(Document):
    """One class outside the denominator."""

    code: Code
    name: str
    count: int = Field(ge=0)
    supported: bool = Field(description="like in classes")


class CorrectedShare(Document):
    """The share of one class, corrected for cells that get the name of another class."""

    code: Code
    name: str
    percent: float = Field(description="of the counted cells: posterior mean; all corrected shares add up to 100")
    low: float = Field(description="lower bound of the 95 % credible interval, in per cent")
    high: float = Field(description="upper bound, like low")


class DifferentialCount(Document):
    """The differential count of a batch. Its intervals cover sampling error, not the model's own errors."""

    counted: int = Field(ge=0, description="cells in the denominator")
    counted_unsupported: int = Field(
        ge=0,
        description="counted cells predicted as an unsupported class. Each may belong to another class, so a person "
        "has to read them before any percentage is used",
    )
    classes: list[ClassShare] = Field(description="the countable classes, in logit order")
    excluded: list[ClassCount] = Field(description="classes outside the denominator: artefacts, smudge cells, …")
    problems: int = Field(ge=0, description="pictures without a result; they are not counted")
    count_other: bool = Field(description="whether classes left to the laboratory are in the denominator")
    unsupported: list[Code] = Field(
        description="classes without enough training images; their counts are not measurements"
    )
    corrected: list[CorrectedShare] | None = Field(
        None,
        description="with corrected=true: shares corrected by the confusion matrix of known cells, beside the counts. "
        "The intervals contain the sampling error and the uncertainty of the matrix. Assumes that every cell is of a "
        "supported class; not a measurement of a specimen with other cells",
    )


class DecisionCounts(Document):
    """Answers of a batch by decision. The differential counts all of them under their predicted class."""

    accept: int = Field(0, ge=0)
    review: int = Field(0, ge=0)
    reject: int = Field(0, ge=0)


class BatchSummary(_Answer):
    """The summary of a batch; the last line of a stream. A stream without it is incomplete."""

    pictures: int = Field(ge=0)
    problems: int = Field(ge=0)
    differential: DifferentialCount
    decisions: DecisionCounts | None = Field(None, description="absent if the model has no trust reference")


class BatchAnswer(BatchSummary):
    """The answer to many pictures: one item for each, in order."""

    results: list[BatchItem]


class ModelDescription(Manifest):
    """The manifest of the served model, with the execution provider and the research-use notice."""

    notice: str = RESEARCH_USE
    provider: str = Field(description="the onnxruntime execution provider")
    computed_in: str = Field(
        description="bf16: the trunk is computed in bf16 (MARROWLENS_PRECISION); otherwise the precision of the weights"
    )
    manifest_sha256: str = Field(
        description="of the manifest without notice, provider, computed_in and this field: that of its file, unless "
        "thresholds of the laboratory are in force (site_trust_sha256)"
    )


class ClassEntry(CellClass):
    """One class of the model."""

    training_images: int = Field(ge=0)
    supported: bool


class ClassTable(Document):
    """The classes in logit order."""

    model: ModelIdentity
    classes: list[ClassEntry]


class Health(Document):
    """Liveness or readiness of the service."""

    status: str = Field(examples=["ok"])


class DriftKind(Document):
    """One distance of the recent pictures from the reference."""

    kind: Kind = Field(description="embedding, colour, sharpness: of the pictures; class_mix: of the predicted classes")
    distance: float
    threshold: float = Field(description="rarely exceeded without drift, for as many pictures")
    drifted: bool = Field(description="the distance is above the threshold")


class ClassMix(Document):
    """How often one class was predicted, as a share of all pictures."""

    code: Code
    share: Probability = Field(description="of the recent pictures")
    reference: Probability = Field(description="of the pictures of the reference")


class DriftDescription(Document):
    """Whether recent pictures are like those of the drift reference. As in `GET /metrics`, of all workers."""

    measured: bool = Field(description="false: the model has no drift reference, or MARROWLENS_DRIFT_WINDOW is 0")
    pictures: int = Field(0, ge=0, description="pictures in the window")
    least_pictures: int = Field(description="pictures in the window from which on distances are measured")
    reference: str | None = Field(None, description="what the reference was made from")
    kinds: list[DriftKind] = Field([], description="empty with too few pictures")
    class_mix: list[ClassMix] = Field([], description="classes that either has; empty with too few pictures")
    decisions: dict[Decision, int] = Field(description="answers since the start; all 0 without a trust reference")
    many_rejected: bool = Field(
        description="more than a fifth of at least 100 answers rejected, as in the alert MarrowlensManyRejected"
    )
