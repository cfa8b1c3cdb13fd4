"""The drift reference: statistics of the pictures that a model usually receives, and their JSON file.

It holds statistics over many pictures, and no single picture.
"""

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Annotated, Final, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat, PlainSerializer, PlainValidator, ValidationError, model_validator

from model.contract import ArtefactError, Manifest, first_fault
from model.fields import Code, Row, Sha256, Strict
from model.packing import pack_floats, unpack_floats
from model.regular_file import read_regular_file

SCHEMA_VERSION: Final = 1
#: Suffix of the reference beside `NAME.onnx`.
SUFFIX: Final = ".drift.json"

Kind = Literal["embedding", "colour", "sharpness", "class_mix"]
KINDS: tuple[Kind, ...] = get_args(Kind)
#: Number of features of colour and of sharpness. They follow those of the embedding.
COLOURS, SHARPNESSES = 6, 2
#: Largest file. For comparison: embeddings of 4,096 numbers in 64 directions need 1.5 MB.
MAX_FILE_BYTES = 8_000_000

Array = NDArray[np.float64]


def _array(given: object) -> NDArray[np.float32]:
    return given if isinstance(given, np.ndarray) else unpack_floats(str(given))


#: A flat array, in JSON packed.
Floats = Annotated[NDArray[np.float32], PlainValidator(_array), PlainSerializer(pack_floats, return_type=str)]


class Thresholds(Strict):
    """Upper bounds of the distances of a window of this many pictures without drift, at the reference's `quantile`."""

    pictures: int = Field(gt=0)
    embedding: FiniteFloat = Field(gt=0)
    colour: FiniteFloat = Field(gt=0)
    sharpness: FiniteFloat = Field(gt=0)
    class_mix: FiniteFloat = Field(gt=0)


class Scale:
    """Standard deviations of the features within a class, for Mahalanobis distances.

    Args:
        covariance: (F, F).

    Raises:
        numpy.linalg.LinAlgError: the covariance is not positive definite.
    """

    def __init__(self, covariance: Array) -> None:
        second = len(covariance) - SHARPNESSES
        first = second - COLOURS
        self._spans: dict[Kind, slice] = {
            "embedding": slice(0, first),
            "colour": slice(first, second),
            "sharpness": slice(second, None),
        }
        # Matrices that transform the features of a kind to uncorrelated ones of variance 1.
        self._whitenings = {
            kind: np.linalg.inv(np.linalg.cholesky(covariance[span, span])) for kind, span in self._spans.items()
        }

    def distances(self, shift: Array) -> dict[Kind, float]:
        """Mahalanobis distance of each kind for a difference of features (F,), in standard deviations."""
        return {kind: float(np.linalg.norm(self._whitenings[kind] @ shift[span])) for kind, span in self._spans.items()}


class DriftReference(Strict):
    """Mean by class and covariance within classes of F = K + 1 + 6 + 2 features (model/drift/features.py).

    The features are K directions in which the embedding varies most, the residual, six of colour and two of sharpness.
    Classes are the model's predictions, not a person's.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    model_sha256: Sha256 = Field(description="of the ONNX file that the pictures were shown to")
    source: str = Field(max_length=1000, description="which pictures, in a sentence")
    pictures: int = Field(gt=0)
    groups: int = Field(gt=1, description="that were drawn whole: specimens, or pictures of like colour")
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
            raise ValueError("sizes of directions, centre and covariance do not match")
        if any(len(row) != count for row in (*self.covariance, *self.class_means.values())):
            raise ValueError(f"covariance and class_means must have {count} values a row")
        if not (np.isfinite(self.centre).all() and np.isfinite(self.directions).all()):
            raise ValueError("centre and directions must be finite")
        if not set(self.class_means) <= set(self.class_pictures):
            raise ValueError("class_means names classes that class_pictures does not")
        sizes = [threshold.pictures for threshold in self.thresholds]
        if sizes != sorted(set(sizes)):
            raise ValueError("thresholds must be sorted by number of pictures, without duplicates")
        try:
            assert self.scale
        except np.linalg.LinAlgError as error:
            raise ValueError("covariance must be positive definite") from error
        return self

    @cached_property
    def scale(self) -> Scale:
        """The scale of the distances.

        Raises:
            numpy.linalg.LinAlgError: the covariance is not positive definite.
        """
        return Scale(np.array(self.covariance))

    def basis(self) -> NDArray[np.float32]:
        """The directions, (D, K)."""
        return self.directions.reshape(len(self.centre), -1)

    def check_model(self, manifest: Manifest) -> None:
        """Check that the reference was made with this model.

        Raises:
            ValueError: it was made with another model.
        """
        if self.model_sha256 != manifest.sha256:
            raise ValueError(f"belongs to another model, sha256 {self.model_sha256}")
        if len(self.centre) != manifest.outputs["embedding"][1] or tuple(self.class_pictures) != manifest.codes:
            raise ValueError("does not have the embedding size and classes of the model")


def reference_text(reference: DriftReference) -> str:
    """The JSON text of the file."""
    return reference.model_dump_json(indent=1) + "\n"


def text_sha256(text: str) -> str:
    """sha256 of a reference's text, as the manifest stores it."""
    return hashlib.sha256(text.encode()).hexdigest()


def read_reference(path: Path, sha256: str | None = None) -> DriftReference:
    """Read a reference, and verify its sha256 if one is given.

    Raises:
        FileNotFoundError: the file does not exist.
        ArtefactError: the file cannot be read, has another sha256, or is not a drift reference.
    """
    try:
        content = read_regular_file(path, MAX_FILE_BYTES)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ArtefactError(path, f"cannot be read ({error.strerror})") from error
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise ArtefactError(path, f"does not match its manifest, which says sha256 {sha256}")
    try:
        return DriftReference.model_validate_json(content)
    except ValidationError as error:
        reason = f"is not a drift reference of schema {SCHEMA_VERSION}: {first_fault(error)}"
        raise ArtefactError(path, reason) from error
