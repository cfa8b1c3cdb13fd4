"""The trust reference: what a model's answers on known cells look like. Optional part `trust` of the manifest.

It holds statistics over many pictures, and no single picture.
"""

from typing import Annotated, Final, Literal, Self

from pydantic import Field, FiniteFloat, model_validator

from model.fields import Code, PackedFloats, Row, Strict, packed_count

SCHEMA_VERSION: Final = 1

#: Properties of the pixels that are checked (model/trust/quality.py).
Measure = Literal["nucleus_in_middle", "focus", "brightness", "stain", "nucleus_area", "offset"]


Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class ClassGaussians(Strict):
    """A Gaussian for the embeddings of each class.

    All classes share one covariance: K directions with their variances, and the same variance in every other direction
    (probabilistic principal component analysis, Tipping and Bishop 1999, doi 10.1111/1467-9868.00196).
    """

    classes: tuple[Code, ...] = Field(min_length=1, description="classes with a mean")
    means: PackedFloats = Field(description="mean embedding of each class, (len(classes), D)")
    directions: PackedFloats = Field(description="(K, D), orthonormal")
    variances: Row = Field(min_length=1, description="along the directions, (K,)")
    residual_variance: FiniteFloat = Field(gt=0, description="along every other direction")

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        means, directions = packed_count(self.means), packed_count(self.directions)
        if not directions or means * len(self.variances) != directions * len(self.classes):
            raise ValueError("sizes of means, directions, classes and variances do not match")
        if min(self.variances) <= 0:
            raise ValueError("variances must be positive")
        return self

    @property
    def embedding_size(self) -> int:
        """D."""
        return packed_count(self.means) // len(self.classes)


class NoveltyReference(Strict):
    """The distances of known cells from the nearest of the class Gaussians."""

    gaussians: ClassGaussians
    distances: Row = Field(min_length=19, max_length=4096, description="of known cells, ascending")

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if list(self.distances) != sorted(self.distances):
            raise ValueError("distances must be ascending")
        return self


class SetReference(Strict):
    """Thresholds of the prediction sets, one a class (Mondrian conformal prediction, Vovk et al. 2005, section 4.5).

    A class is in the set of a picture if its probability is at least its threshold. The predicted class always is.
    """

    coverage: float = Field(gt=0.5, lt=1, description="share of the cells of each class whose set contains the class")
    thresholds: dict[Code, Share] = Field(min_length=1, description="by class, 0..1")
    pictures: dict[Code, Count] = Field(description="calibration pictures of each class")

    def never_excluded(self) -> list[Code]:
        """Classes with a threshold of 0, because they have too few calibration pictures."""
        return [code for code, threshold in self.thresholds.items() if threshold == 0]


class Range(Strict):
    """Range of a measure: 99 % of known cells, 99.5 % if one end is missing, which is then not checked."""

    low: FiniteFloat | None = None
    high: FiniteFloat | None = None

    @model_validator(mode="after")
    def _is_not_empty(self) -> Self:
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low {self.low:g} is above high {self.high:g}")
        return self


class TrustReference(Strict):
    """What is needed to say how far an answer can be trusted; read by `model.trust.decision`."""

    schema_version: Literal[1] = SCHEMA_VERSION
    source: str = Field(max_length=1000, pattern=r"^[^\x00-\x1f\x7f]*$", description="the known cells, in a sentence")
    pictures: int = Field(gt=0, description="number of known cells")
    review_p: float = Field(gt=0, lt=1, description="novelty: a cell with a smaller p-value is reviewed")
    reject_p: float = Field(gt=0, lt=1, description="novelty: a picture with a smaller p-value is rejected")
    novelty: NoveltyReference
    sets: SetReference
    confusion: dict[Code, dict[Code, Count]] = Field(
        description="true class → predicted class → known cells, for the corrected differential count"
    )
    quality: dict[Measure, Range]

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if self.reject_p > self.review_p:
            raise ValueError("reject_p is larger than review_p; rejected pictures must be a part of the reviewed")
        if self.reject_p * (len(self.novelty.distances) + 1) <= 1:
            count = len(self.novelty.distances)
            raise ValueError(f"reject_p {self.reject_p:g} is never reached with {count} known cells; use more cells")
        if set(self.sets.thresholds) != set(self.sets.pictures) or set(self.confusion) != set(self.sets.thresholds):
            raise ValueError("sets.thresholds, sets.pictures and confusion must name the same classes")
        return self

    def check_model(self, codes: tuple[Code, ...], embedding_size: int) -> None:
        """Check that the reference fits a model.

        Raises:
            ValueError: it names other classes, or its embeddings are of another size.
        """
        gaussians = self.novelty.gaussians
        named = {*gaussians.classes, *self.confusion, *(code for row in self.confusion.values() for code in row)}
        if unknown := sorted(named - set(codes)):
            raise ValueError(f"trust names classes that the model does not have: {', '.join(unknown)}")
        if (size := gaussians.embedding_size) != embedding_size:
            raise ValueError(f"trust is of embeddings of {size} numbers; the model's have {embedding_size}")
