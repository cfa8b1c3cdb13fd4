"""What the service answers, as documents: names, types and meaning of every field of every JSON answer.

Knows shapes. Does not know how an answer is computed (`service.api.responses`) nor what problem an error is
(`service.api.problems`). A field that does not apply is absent, never null.
"""

from typing import Annotated, Any

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, WithJsonSchema

from model.contract import RESEARCH_USE, CellClass, Code, Manifest


def _numbers(values: Any) -> NDArray[np.float32]:
    """Rows of numbers as an array, C-contiguous so that it is written without a copy."""
    return np.ascontiguousarray(values, dtype=np.float32)


#: (h, w) float32, row by row from the top left. Written with the shortest digits that give the same float32 back.
Values = Annotated[
    NDArray[np.float32],
    PlainValidator(_numbers),
    PlainSerializer(lambda values: values.tolist(), when_used="json"),
    WithJsonSchema({"type": "array", "items": {"type": "array", "items": {"type": "number"}}}),
]
Probability = Annotated[float, Field(ge=0, le=1)]


class Document(BaseModel):
    """One JSON document of the service. What a wrong value was is never said: it could be a patient's."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    def json_bytes(self) -> bytes:
        """The document as UTF-8 JSON without absent fields."""
        return orjson.dumps(self.model_dump(exclude_none=True), option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_UTC_Z)


class Problem(Document):
    """What went wrong with a request or a picture (RFC 9457)."""

    type: str = Field(description="for programs to compare", examples=["urn:problem-type:marrowlens:picture-too-large"])
    title: str = Field(description="the kind of problem, for people", examples=["The picture is too large"])
    status: int = Field(ge=400, le=599, description="the HTTP status, also where the problem is an item of a batch")
    detail: str = Field(description="what was wrong this time", examples=["18000000 pixels; 16000000 are allowed"])
    request_id: str = Field(description="as in the header X-Request-ID")


class InferenceProblem(Problem):
    """A problem that is the error object of the Open Inference Protocol too: its clients read `error` alone."""

    error: str = Field(description="the same sentence as `detail`", examples=["18000000 pixels; 16000000 are allowed"])


class ModelIdentity(Document):
    """Which model said it: what a laboratory writes down beside a result."""

    name: str
    version: str = Field(description="the model's version, not the service's")
    sha256: str = Field(description="of the ONNX file")
    manifest_sha256: str = Field(description="of its manifest: classes, limits, figures")
    unsupported: list[Code] = Field(
        description="classes learned from no or too few pictures: nothing is claimed for them, though one can be named"
    )


class _Signed(Document):
    request_id: str = Field(description="as in the header X-Request-ID")
    model: ModelIdentity


class Prediction(Document):
    """The class with the highest probability. A suggestion: a person decides."""

    code: Code
    name: str
    probability: Probability
    supported: bool = Field(
        description="speaks of the class named, not of this cell. false: nothing is claimed for that class. true: "
        "it was learned from enough pictures; a cell of a class that the model does not know also gets such a name"
    )


class TopClass(Document):
    """One of the most probable classes."""

    code: Code
    probability: Probability


class AttentionScale(Document):
    """How strongly one kernel scale of the network weighted each region; says nothing for or against a class."""

    kernel: str = Field(description="the kernels of the scale", examples=["3-5-1"])
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
    """What each region spoke for (above 0) or against (below 0) one class.

    Exact, not an approximation: the mean of all values plus `bias` is `logit`.
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
    low: float | None = Field(None, description="what black, or the blue end, of the PNG stands for, in logits")
    high: float | None = Field(None, description="what white, or the red end, of the PNG stands for, in logits")


class Reading(Document):
    """What the model says of one picture."""

    prediction: Prediction
    top: list[TopClass] = Field(description="the top_k most probable classes, most probable first")
    probabilities: dict[Code, Probability] = Field(description="of every class, in logit order; they sum to 1")
    attention: Attention | None = Field(None, description="when maps holds attention")
    evidence: list[Evidence] | None = Field(None, description="when maps holds evidence: of the classes in top")


class ClassifyAnswer(Reading, _Signed):
    """The answer to one picture."""


class SentPicture(BaseModel):
    """One line of an NDJSON body: one picture."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(None, description="comes back with its answer")
    image: str = Field(description="the file's bytes in base64 (RFC 4648, section 4)")


class BatchItem(Document):
    """One picture of a batch: a result or a problem, never both and never neither."""

    index: int = Field(ge=0, description="its place in the request")
    name: str | None = Field(None, description="the file or member name it was sent under")
    result: Reading | None = None
    problem: Problem | None = None


class ClassShare(Document):
    """One class in the differential. Without a single counted cell there is no percentage and no interval.

    The interval is that of counting so many cells. That the model misreads some, and names every cell of an unsupported
    class as another, is not in it: a differential is one only after a person has read the cells. An unsupported class
    has no interval at all: its count says how often the name was given, and measures nothing.
    """

    code: Code
    name: str
    count: int = Field(ge=0)
    percent: float | None = Field(
        None, description="of the counted cells, how many were given this name; all classes add up to 100"
    )
    low: float | None = Field(
        None, description="lower bound of the 95 % Wilson interval, in per cent; absent when supported is false"
    )
    high: float | None = Field(None, description="upper bound, as low")
    supported: bool = Field(
        description="false: no measurement. A count of 0 does not mean that there is no such cell, and cells so named "
        "need not be of this class"
    )


class ClassCount(Document):
    """One class left out of the denominator."""

    code: Code
    name: str
    count: int = Field(ge=0)
    supported: bool = Field(description="as in classes")


class DifferentialCount(Document):
    """The differential count of a batch. The intervals speak of sampling alone, not of the model's own errors."""

    counted: int = Field(ge=0, description="cells in the denominator")
    counted_unsupported: int = Field(
        ge=0,
        description="of them, those named as an unsupported class: a person reads them before any percentage is used, "
        "for each may belong to another class",
    )
    classes: list[ClassShare] = Field(description="the countable classes, in logit order")
    excluded: list[ClassCount] = Field(description="classes that are not counted: artefacts, smudge cells, …")
    problems: int = Field(ge=0, description="pictures without a result; in no count")
    count_other: bool = Field(description="whether classes left to the laboratory are in the denominator")
    unsupported: list[Code] = Field(description="classes for which nothing is claimed, whatever their count")


class BatchSummary(_Signed):
    """The end of a batch; the last line of a stream. A stream without it was cut off."""

    pictures: int = Field(ge=0)
    problems: int = Field(ge=0)
    differential: DifferentialCount


class BatchAnswer(BatchSummary):
    """The answer to many pictures: one item a picture, in order."""

    results: list[BatchItem]


class ModelDescription(Manifest):
    """The manifest of the model that answers, and what the service adds to it."""

    notice: str = RESEARCH_USE
    provider: str = Field(description="what computes: the onnxruntime execution provider")
    manifest_sha256: str = Field(description="of the manifest as an export writes it, without these three")


class ClassEntry(CellClass):
    """One class of the model."""

    training_images: int = Field(ge=0)
    supported: bool


class ClassTable(Document):
    """The classes in logit order."""

    model: ModelIdentity
    classes: list[ClassEntry]


class Health(Document):
    """Whether the process lives, or takes pictures."""

    status: str = Field(examples=["ok"])
