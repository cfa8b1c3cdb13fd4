"""The document of a verification: every figure of the report, as JSON."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from model.fields import Code, Sha256, Strict

Verdict = Literal["verified", "not verified", "too few"]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Rate(Strict):
    """A share of n cells with its 95 % interval."""

    hits: Count
    n: Count
    share: Share | None = Field(description="null if n is 0")
    low: Share
    high: Share
    patients: Count | None = Field(None, description="patients of these cells; null: not known")


class Estimate(Strict):
    """A value with its 95 % interval, which is null where it is not defined."""

    value: float
    low: float | None = None
    high: float | None = None


class Criteria(Strict):
    """What a class must reach to be verified."""

    default_goal: float | None = Field(description="the goal of classes that the laboratory set none for")
    goals: dict[Code, Share] = Field(description="minimum sensitivity and predictive value, by class")
    precision: float = Field(gt=0, lt=0.5, description="half width of an interval that is taken as precise")


class ClassResult(Strict):
    """Agreement on one class."""

    code: Code
    name: str
    supported: bool
    sensitivity: Rate = Field(description="share of the cells of this label that were predicted as it")
    predictive_value: Rate = Field(description="share of the cells predicted as this class that have its label")
    kappa: Estimate | None = Field(description="Cohen's, of this class against all others")
    mostly_taken_for: dict[Code, Count] = Field(description="wrong predictions of cells of this label, most first")
    accepted: Rate = Field(description="share of the cells of this label that were accepted")
    sensitivity_of_accepted: Rate
    predictive_value_of_accepted: Rate = Field(description="of the accepted cells predicted as this class")
    goal: Share
    verdict: Verdict
    why: str
    expected: Verdict | None = Field(description="too few: the verdict that the rates found lead to")
    missing_cells: Count = Field(description="too few: cells of this class that are missing for it")


class DecisionRates(Strict):
    """What was decided about one group of cells."""

    cells: str
    accepted: Rate
    reviewed: Rate
    rejected: Rate
    accuracy_of_accepted: Rate | None = Field(description="null if no prediction of them can be right")


class SetRates(Strict):
    """Prediction sets of the cells of one class, or of all."""

    code: Code | None
    covered: Rate
    mean_size: float | None


class Bin(Strict):
    """Cells whose top probability is in one range."""

    cells: Count
    mean_probability: Share
    accuracy: Rate


class Calibration(Strict):
    """Calibration of the top probability: of the cells with a probability of 0.8, 80 % should be right."""

    error: Share = Field(description="expected calibration error in 15 bins")
    by_chance_high: Share = Field(description="97.5 % of what a perfectly calibrated model has with as many cells")
    bins: tuple[Bin, ...]


class Subgroup(Strict):
    """The third of the cells with the smallest, middle or largest value of a property."""

    property: str
    group: str
    accuracy: Rate
    accepted: Rate


class ReaderPair(Strict):
    """Agreement of two readings of the same cells."""

    first: str
    second: str
    agreement: Rate
    kappa: Estimate | None


class Comparison(Strict):
    """The share of one class by the model against the laboratory's, over patients, in percentage points."""

    code: Code
    patients: Count
    bias: Estimate = Field(description="Bland-Altman, model minus laboratory")
    limits: tuple[float, float] = Field(description="95 % limits of agreement")
    slope: Estimate | None = Field(description="Passing-Bablok; null: too few patients, or too few with such cells")
    intercept: Estimate | None
    differs: bool | None = Field(description="whether the intervals exclude slope 1 or intercept 0; null: unknown")


class Shift(Strict):
    """A sign of a domain shift: how many known cells are unlike those of the model, and how many are expected."""

    what: str
    found: Rate
    expected: Share
    shifted: bool


class DriftDistance(Strict):
    """A distance of the pictures from the model's drift reference."""

    kind: str
    distance: float
    threshold: float


class SiteTrust(Strict):
    """Five-fold cross-validated figures with thresholds fitted to these cells; folds share no patient."""

    kept: tuple[Code, ...] = Field(description="classes with too few cells, which keep the model's thresholds")
    decisions: DecisionRates
    sets: tuple[SetRates, ...]
    sha256: Sha256 | None = Field(None, description="of the file that was written")


class Thresholds(Strict):
    """The thresholds in force."""

    source: str
    cells: Count
    site_trust_sha256: Sha256 | None = Field(description="of the laboratory's file; null: the model's own")
    fitted_to: Count = Field(description="pictures of this verification that the laboratory's file was fitted to")


class OwnName(Strict):
    """A laboratory's name of a class."""

    name: str
    code: str = Field(description="class code, or none")
    labels: Count


class VerifiedModel(Strict):
    """The model that was verified."""

    name: str
    version: str
    sha256: Sha256
    manifest_sha256: Sha256
    provider: str
    computed_in: str = Field(description="precision: bf16 if the trunk is computed in bf16, else that of the weights")


class Pictures(Strict):
    """The pictures that it was verified with."""

    used: Count
    patients: Count | None
    sha256: Sha256 = Field(description="of the sorted SHA-256 digests of all pictures, each with its label")
    of_unsupported_classes: Count
    of_other_classes: Count = Field(description="classes that the model does not have")
    copies: Count = Field(description="left out: the same picture as another one")
    unreadable: Count
    undecided: Count = Field(description="without a label: no class has the majority of the readers")


class Verification(Strict):
    """A laboratory's verification of a model on its own labelled cells."""

    schema_version: Literal[1] = 1
    notice: str
    details: dict[str, str] = Field(description="what the laboratory says: stain, scanner, period, …")
    created: datetime
    service_version: str
    model: VerifiedModel
    thresholds: Thresholds
    pictures: Pictures
    names: tuple[OwnName, ...]
    criteria: Criteria
    accuracy: Rate = Field(description="of the cells of supported classes, as are kappa, calibration and subgroups")
    kappa: Estimate | None
    classes: tuple[ClassResult, ...]
    confusion: dict[str, dict[str, Count]] = Field(description="label → predicted class → cells; none: other classes")
    decisions: tuple[DecisionRates, ...]
    sets: tuple[SetRates, ...]
    nominal_coverage: Share
    calibration: Calibration
    shifts: tuple[Shift, ...]
    drift: tuple[DriftDistance, ...]
    subgroups: tuple[Subgroup, ...]
    readers: tuple[ReaderPair, ...]
    differential: tuple[Comparison, ...]
    site_trust: SiteTrust | None
