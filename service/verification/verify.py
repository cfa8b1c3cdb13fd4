"""A verification from its observations: every figure of the document."""

from datetime import datetime
from importlib.metadata import version

import numpy as np

from model.agreement.calibration import ECE_BINS, chance_ece, expected_calibration_error
from model.contract import RESEARCH_USE
from service.verification.agreement import (
    class_results,
    confusion,
    confusion_by_patient,
    kappa,
    reader_pairs,
    subgroups,
)
from service.verification.differential_bias import comparisons, patient_shares
from service.verification.document import (
    Bin,
    Calibration,
    Criteria,
    DecisionRates,
    DriftDistance,
    Pictures,
    SiteTrust,
    Verification,
    VerifiedModel,
)
from service.verification.domain_shift import shifts
from service.verification.observations import Observations, Observed
from service.verification.rates import decision_rates, rate, set_rates


def verification(
    observed: Observed,
    criteria: Criteria,
    site_trust: SiteTrust | None,
    *,
    provider: str,
    ties: int,
    count_other: bool,
    created: datetime,
) -> Verification:
    """The document.

    Args:
        site_trust: figures with the laboratory's thresholds; None: too few cells for them.
        ties: pictures left out because readers named different classes equally often.
        count_other: whether classes countable "by_setting" are in the denominator of a differential.
    """
    found, manifest = observed.observations, observed.observations.manifest
    shares = patient_shares(found, count_other=count_other)
    return Verification(
        notice=RESEARCH_USE,
        created=created,
        service_version=version("marrowlens"),
        model=VerifiedModel(
            name=manifest.name,
            version=manifest.version,
            sha256=manifest.sha256,
            manifest_sha256=manifest.digest,
            provider=provider,
        ),
        pictures=_pictures(observed, ties),
        criteria=criteria,
        accuracy=rate(found, found.right, found.claimed),
        kappa=kappa(confusion_by_patient(found, found.claimed)),
        classes=class_results(found, criteria),
        confusion=confusion(found),
        decisions=_decisions(found),
        sets=set_rates(found),
        set_coverage_promised=found.trust.sets.coverage,
        calibration=_calibration(found),
        shifts=shifts(found),
        drift=_drift(observed),
        subgroups=subgroups(found),
        readers=reader_pairs(found),
        differential=() if shares is None else comparisons(found, shares),
        site_trust=site_trust,
    )


def _pictures(observed: Observed, ties: int) -> Pictures:
    found = observed.observations
    return Pictures(
        used=len(found),
        patients=None if found.patients is None else len(np.unique(found.patients)),
        sha256=found.pictures_sha256,
        of_unsupported_classes=int((found.known & ~found.claimed).sum()),
        of_other_classes=int((~found.known).sum()),
        copies=len(observed.copies),
        unreadable=len(observed.unreadable),
        ties=ties,
    )


def _decisions(found: Observations) -> tuple[DecisionRates, ...]:
    groups = {
        "supported classes": found.claimed,
        "unsupported classes": found.known & ~found.claimed,
        "other classes": ~found.known,
    }
    return tuple(decision_rates(found, name, among) for name, among in groups.items() if among.any())


def _calibration(found: Observations) -> Calibration:
    known = found.claimed
    top = found.probabilities.max(axis=1).astype(np.float64)
    if not known.any():
        return Calibration(error=0, by_chance_high=1, bins=())
    chance = float(np.quantile(chance_ece(top[known]), 0.975))
    error = expected_calibration_error(found.labels[known], found.probabilities[known].astype(np.float64))
    places = np.minimum((top * ECE_BINS).astype(int), ECE_BINS - 1)
    bins = (known & (places == at) for at in range(ECE_BINS))
    return Calibration(
        error=error,
        by_chance_high=chance,
        bins=tuple(
            Bin(
                cells=int(members.sum()),
                mean_probability=float(top[members].mean()),
                accuracy=rate(found, found.right, members),
            )
            for members in bins
            if members.any()
        ),
    )


def _drift(observed: Observed) -> tuple[DriftDistance, ...]:
    if observed.drift is None:
        return ()
    return tuple(
        DriftDistance(kind=kind, distance=distance, threshold=observed.drift.thresholds[kind])
        for kind, distance in observed.drift.distances.items()
    )
