"""What pictures usually look like to a model: the reference that input drift is measured from.

Knows the document, its bounds and its file. Knows no picture, no session and no service. It holds sums over many
pictures, and nothing of a single one.
"""

import base64
import binascii
import hashlib
from functools import cached_property
from pathlib import Path
from typing import Annotated, Final, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PlainSerializer, PlainValidator, model_validator
from pydantic_core import PydanticCustomError, ValidationError

from model.contract import ArtefactError, Code, Manifest, Sha256
from model.regular_file import read_regular_file

SCHEMA_VERSION: Final = 1
#: Of the reference beside `NAME.onnx`.
SUFFIX: Final = ".drift.json"

Kind = Literal["embedding", "colour", "sharpness", "class_mix"]
KINDS: tuple[Kind, ...] = get_args(Kind)
#: Features of a picture for each of two kinds; those of the embedding come first.
COLOURS, SHARPNESSES = 6, 2
#: A file that is longer is no reference: that of 4,096 numbers an embedding, in 64 directions, is 1.5 MB.
MAX_FILE_BYTES = 8_000_000

Array = NDArray[np.float64]


def _unpacked(given: object) -> NDArray[np.float32]:
    if isinstance(given, np.ndarray):
        return given
    try:
        return np.frombuffer(base64.b64decode(str(given), validate=True), "<f4").astype(np.float32)
    except (binascii.Error, ValueError) as error:
        raise PydanticCustomError("floats", "must be float32, little-endian, in base64") from error


def _packed(values: NDArray[np.float32]) -> str:
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


#: A long list of numbers, which nobody reads, in a third of the room; flat.
Floats = Annotated[NDArray[np.float32], PlainValidator(_unpacked), PlainSerializer(_packed, return_type=str)]
Row = tuple[FiniteFloat, ...]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class Thresholds(_Strict):
    """What the distances of a window of so many pictures hardly ever exceed while nothing has drifted."""

    pictures: int = Field(gt=0)
    embedding: FiniteFloat = Field(gt=0)
    colour: FiniteFloat = Field(gt=0)
    sharpness: FiniteFloat = Field(gt=0)
    class_mix: FiniteFloat = Field(gt=0)


class Scale:
    """How features vary within a class.

    Args:
        covariance: (F, F).

    Raises:
        numpy.linalg.LinAlgError: it is not positive definite.
    """

    def __init__(self, covariance: Array) -> None:
        second = len(covariance) - SHARPNESSES
        first = second - COLOURS
        self._spans: dict[Kind, slice] = {
            "embedding": slice(0, first),
            "colour": slice(first, second),
            "sharpness": slice(second, None),
        }
        # What takes the features of a kind to ones that vary by 1, each by itself.
        self._whitenings = {
            kind: np.linalg.inv(np.linalg.cholesky(covariance[span, span])) for kind, span in self._spans.items()
        }

    def lengths(self, apart: Array) -> dict[Kind, float]:
        """Of a difference of features, (F,): Mahalanobis' length of each kind's part, in standard deviations."""
        return {kind: float(np.linalg.norm(self._whitenings[kind] @ apart[span])) for kind, span in self._spans.items()}


class DriftReference(_Strict):
    """Of F = K + 1 + 6 + 2 features of a picture (model/drift/features.py): mean by class, and covariance within.

    K directions of the embedding in which the reference varies most, how far the embedding lies from all of them, six
    numbers of colour and two of sharpness. Classes are what the model said, never what a person did.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    model_sha256: Sha256 = Field(description="of the ONNX file that the pictures were shown to")
    source: str = Field(max_length=1000, description="which pictures, in a sentence")
    pictures: int = Field(gt=0)
    groups: int = Field(gt=1, description="that were drawn whole: specimens, or neighbours in file order")
    quantile: FiniteFloat = Field(gt=0.5, lt=1, description="of the distances of undrifted windows: the thresholds")
    class_pictures: dict[Code, int] = Field(description="pictures by the class that the model named, in logit order")
    class_means: dict[Code, Row] = Field(min_length=1, description="features, (F,), of each class with enough pictures")
    covariance: tuple[Row, ...] = Field(description="of the features within a class, (F, F)")
    centre: Floats = Field(description="mean embedding, (D,)")
    directions: Floats = Field(description="(D, K), orthonormal, row by row")
    thresholds: tuple[Thresholds, ...] = Field(min_length=1, description="by growing number of pictures")

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        count = len(self.covariance)
        if len(self.directions) != len(self.centre) * (count - 1 - COLOURS - SHARPNESSES) or count <= COLOURS:
            raise ValueError("directions, centre and covariance are not of one size")
        if any(len(row) != count for row in (*self.covariance, *self.class_means.values())):
            raise ValueError(f"covariance and class_means must have {count} values a row")
        if not (np.isfinite(self.centre).all() and np.isfinite(self.directions).all()):
            raise ValueError("centre and directions must be numbers")
        if not set(self.class_means) <= set(self.class_pictures):
            raise ValueError("class_means names classes that class_pictures does not")
        sizes = [threshold.pictures for threshold in self.thresholds]
        if sizes != sorted(set(sizes)):
            raise ValueError("thresholds must be for ever more pictures")
        try:
            assert self.scale
        except np.linalg.LinAlgError as error:
            raise ValueError("covariance must be positive definite") from error
        return self

    @cached_property
    def scale(self) -> Scale:
        """What a distance of the features is measured in.

        Raises:
            numpy.linalg.LinAlgError: the covariance is none.
        """
        return Scale(np.array(self.covariance))

    def basis(self) -> NDArray[np.float32]:
        """The directions, (D, K)."""
        return self.directions.reshape(len(self.centre), -1)

    def check_model(self, manifest: Manifest) -> None:
        """Return when it was made with this very model.

        Raises:
            ValueError: and with which instead.
        """
        if self.model_sha256 != manifest.sha256:
            raise ValueError(f"is of another model: sha256 {self.model_sha256}")
        if len(self.centre) != manifest.outputs["embedding"][1] or tuple(self.class_pictures) != manifest.codes:
            raise ValueError("has not the embedding and the classes of its model")


def reference_text(reference: DriftReference) -> str:
    """The reference as it is written to a file."""
    return reference.model_dump_json(indent=1) + "\n"


def text_sha256(text: str) -> str:
    """As a manifest gives it."""
    return hashlib.sha256(text.encode()).hexdigest()


def read_reference(path: Path, sha256: str | None = None) -> DriftReference:
    """Read a reference; one whose bytes have another sha256 than is given is refused.

    Raises:
        FileNotFoundError: there is none.
        ArtefactError: it cannot be read, or is no reference.
    """
    try:
        content = read_regular_file(path, MAX_FILE_BYTES)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ArtefactError(path, f"cannot be read ({error.strerror})") from error
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise ArtefactError(path, f"is damaged or another model's: the manifest has its sha256 as {sha256}")
    try:
        return DriftReference.model_validate_json(content)
    except ValidationError as error:
        found = error.errors()[0]
        where = ".".join(str(part) for part in found["loc"])
        raise ArtefactError(
            path, f"is no drift reference of schema {SCHEMA_VERSION}: {where} {found['msg']}"
        ) from error
