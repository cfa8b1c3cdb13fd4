"""The differential count of one specimen: classes, lineages, M:E ratio, progress. Pure: no I/O.

ICSH 2008 (Lee et al., Int J Lab Hematol 30:349)."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

from model.agreement.proportion import wilson
from model.contract import CellClass, Lineage
from model.trust.decision import Decision
from service.api.schemas import ClassCount, ClassShare, Reason
from service.inference.differential import Differential, differential
from service.lis.domain.report import LineageShare, MyeloidErythroidRatio, SpecimenDifferential

#: Decisions that a person has to review.
NOT_ACCEPTED = ("review", "reject")


@dataclass(frozen=True, slots=True)
class ClassifiedCell:
    """One picture for a specimen, with the answer of the model.

    `top` holds the most probable classes with their probabilities, best first; None for a picture that the specimen
    already has. `key` is the client's own name for it. `decision` is None without a trust reference.
    """

    sha256: str
    key: str | None
    top: tuple[tuple[str, float], ...] | None
    decision: Decision | None = None
    reasons: tuple[Reason, ...] = ()
    prediction_set: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CountingRules:
    """The laboratory's choices: target, denominator, review threshold, and the two terms of the M:E ratio.

    `myeloid` and `erythroid` hold names of lineages and codes of classes.
    """

    target_cells: int = 500
    count_other: bool = False
    review_below: float = 0.8
    myeloid: tuple[str, ...] = ("granulocytic", "monocytic")
    erythroid: tuple[str, ...] = ("erythroid",)

    def needs_review(
        self, code: str, probability: float, decision: str | None, unsupported: Collection[str], *, is_read: bool
    ) -> bool:
        """Whether a cell is on the review list.

        It is not read by a person, and improbable, of an unsupported class, or the decision is not to accept it.
        """
        doubtful = probability < self.review_below or code in unsupported or decision in NOT_ACCEPTED
        return doubtful and not is_read


@dataclass(frozen=True, slots=True)
class Tally:
    """Cells per class, cells read by a person, and cells waiting for review."""

    codes: Mapping[str, int] = field(default_factory=dict)
    read: int = 0
    waiting: int = 0


def specimen_differential(
    counts: Tally, classes: Sequence[CellClass], unsupported: Sequence[str], rules: CountingRules
) -> SpecimenDifferential:
    """The differential of all cells of a specimen.

    An unsupported class has no measured value while some cells were only classified by the model: they may belong to
    it under another name. Once a person has read every cell, every class is measured.

    Raises:
        ValueError: an unknown class code.
    """
    cells = sum(counts.codes.values())
    open_classes = tuple(unsupported) if counts.read < cells else ()
    found = differential(counts.codes, tuple(classes), unsupported=open_classes, count_other=rules.count_other)
    return SpecimenDifferential(
        cells=cells,
        counted=found.counted,
        target_cells=rules.target_cells,
        to_go=max(0, rules.target_cells - found.counted),
        read_by_person=counts.read,
        waiting_review=counts.waiting,
        classes=[ClassShare.model_validate(share) for share in found.classes],
        excluded=[ClassCount.model_validate(share) for share in found.excluded],
        lineages=_lineages(found, open_classes),
        me_ratio=me_ratio(counts.codes, classes, rules, open_classes),
        unsupported=list(open_classes),
        count_other=rules.count_other,
    )


def me_ratio(
    codes: Mapping[str, int], classes: Sequence[CellClass], rules: CountingRules, open_classes: Collection[str] = ()
) -> MyeloidErythroidRatio:
    """The M:E ratio m/e with its 95 % interval, from Wilson's interval of m among m + e cells.

    No value without erythroid cells; no interval if a term includes one of `open_classes`, the unsupported ones.
    """
    above, below = term_codes(rules.myeloid, classes), term_codes(rules.erythroid, classes)
    myeloid, erythroid = (sum(codes.get(code, 0) for code in term) for term in (above, below))
    supported = not {*above, *below} & set(open_classes)
    formula = f"({' + '.join(rules.myeloid)}) / ({' + '.join(rules.erythroid)})"
    if not erythroid:
        return MyeloidErythroidRatio(supported=supported, myeloid=myeloid, erythroid=0, formula=formula)
    low, high = wilson(myeloid, myeloid + erythroid)
    return MyeloidErythroidRatio(
        supported=supported,
        myeloid=myeloid,
        erythroid=erythroid,
        value=myeloid / erythroid,
        low=low / (1 - low) if supported else None,
        high=high / (1 - high) if supported else None,
        formula=formula,
    )


def term_codes(term: Sequence[str], classes: Sequence[CellClass]) -> list[str]:
    """Class codes of one term of the M:E ratio, in logit order. A name may have no class in an earlier model."""
    return [each.code for each in classes if each.code in term or each.lineage in term]


def check_terms(rules: CountingRules, classes: Sequence[CellClass]) -> None:
    """Check the terms of the M:E ratio against the classes of a model.

    Raises:
        ValueError: a name that is no lineage and no class. A lineage may have no class here.
    """
    known = {cell_class.code for cell_class in classes} | set(get_args(Lineage))
    unknown = sorted({*rules.myeloid, *rules.erythroid} - known)
    if unknown:
        raise ValueError(
            f"{unknown[0]}: unknown lineage or class in the M:E ratio; use any of {', '.join(sorted(known))}"
        )


def _lineages(found: Differential, open_classes: Collection[str]) -> list[LineageShare]:
    counts: Counter[str] = Counter()
    for share in found.classes:
        counts[share.lineage] += share.count
    unmeasured = {share.lineage for share in found.classes if share.code in open_classes}
    return [
        _lineage_share(lineage, count, found.counted, supported=lineage not in unmeasured)
        for lineage, count in counts.items()
    ]


def _lineage_share(lineage: str, count: int, total: int, *, supported: bool) -> LineageShare:
    if not total:
        return LineageShare(lineage=lineage, supported=supported, count=0)
    percent = 100 * count / total
    if not supported:
        return LineageShare(lineage=lineage, supported=False, count=count, percent=percent)
    low, high = wilson(count, total)
    return LineageShare(lineage=lineage, supported=True, count=count, percent=percent, low=100 * low, high=100 * high)
