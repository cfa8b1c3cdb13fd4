"""Signs of a domain shift: known cells of the laboratory that are unlike the known cells of the model."""

import numpy as np
from scipy.stats import betabinom

from model.trust.decision import Assessor
from model.trust.fitting import ONE_SIDED, QUALITY_TAIL
from model.trust.quality import MEASURES
from model.trust.reference import Measure
from service.verification.document import Rate, Shift
from service.verification.observations import Mask, Observations
from service.verification.rates import effective_sample_size, rate

#: Signs that are looked at: two of novelty, and the measures.
SIGNS = 2 + len(MEASURES)
#: Level of all signs together, and fewest cells.
LEVEL, LEAST_CELLS = 0.05, 20


def shifts(found: Observations) -> tuple[Shift, ...]:
    """How many known cells are novel, or outside the range of a measure, beside the share that is expected.

    A share is shifted if as many cells would be found in fewer than 5 % of verifications, all signs together
    (Bonferroni), of cells exchangeable with the model's. The thresholds come from few cells, so the share that they
    leave outside is itself uncertain: the number is beta-binomial (Vovk 2012, proposition 2a).
    """
    p_values = np.array([each.p_value for each in found.assessments])
    outside = Assessor(found.trust, found.manifest.codes, found.manifest.unsupported).out_of_range(found.measures)
    by_novelty = [
        _shift(found, f"novelty: p-value below {level:g}", p_values < level, level)
        for level in (found.trust.review_p, found.trust.reject_p)
    ]
    by_quality = [
        _shift(found, f"{name.replace('_', ' ')} out of range", outside[:, at], _expected(name))
        for at, name in enumerate(MEASURES)
    ]
    return *by_novelty, *by_quality


def _expected(measure: Measure) -> float:
    return QUALITY_TAIL * (1 if measure in ONE_SIDED else 2)


def _shift(found: Observations, what: str, hits: Mask, expected: float) -> Shift:
    share = rate(found, hits, found.supported)
    return Shift(what=what, found=share, expected=expected, shifted=is_shifted(share, expected, found.trust.pictures))


def is_shifted(found: Rate, expected: float, known: int) -> bool:
    """Whether so many of n cells are outside thresholds that leave out a share of the known cells.

    Cells of the same patients count as the number of independent cells whose interval is as wide.
    """
    if found.share is None or found.n < LEAST_CELLS:
        return False
    cells = found.n if found.patients is None else min(found.n, round(effective_sample_size(found)))
    outside = betabinom(cells, expected * (known + 1), (1 - expected) * (known + 1))
    return bool(outside.sf(round(found.share * cells) - 1) < LEVEL / SIGNS)
