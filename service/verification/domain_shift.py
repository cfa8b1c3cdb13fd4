"""Signs of a domain shift: known cells of the laboratory that are unlike the known cells of the model."""

import numpy as np

from model.trust.decision import Assessor
from model.trust.fitting import ONE_SIDED, QUALITY_TAIL
from model.trust.quality import MEASURES
from model.trust.reference import Measure
from service.verification.document import Shift
from service.verification.observations import Mask, Observations
from service.verification.rates import rate

#: Signs that are looked at: two of novelty, and the measures.
SIGNS = 2 + len(MEASURES)


def shifts(found: Observations) -> tuple[Shift, ...]:
    """How many known cells are novel, or outside the range of a measure, beside the share that is expected.

    A share is shifted if its interval begins above the expected share; at a confidence that allows for the number of
    signs (Bonferroni).
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
    share = rate(found, hits, found.claimed)
    low = rate(found, hits, found.claimed, 1 - 0.05 / SIGNS).low
    return Shift(what=what, found=share, expected=expected, shifted=bool(share.n) and low > expected)
