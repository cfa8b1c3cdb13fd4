"""A verification from its observations: every figure of the document."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
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
    OwnName,
    Pictures,
    SiteTrust,
    Thresholds,
    Verification,
    VerifiedModel,
)
from service.verification.domain_shift import shifts
from service.verification.observations import Observations, Observed
from service.verification.rates import decision_rates, rate, set_rates


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What a verification needs besides the observations."""

    criteria: Criteria
    details: Mapping[str, str]  # what the laboratory says: stain, scanner, …
    names: tuple[OwnName, ...]
    site_trust: SiteTrust | None  # figures with own thresholds; None: too few cells for them
    fitted_to: Collection[str]  # digests of the pictures that the thresholds in force were fitted to, 16 digits each
    provider: str
    computed_in: str
    count_other: bool  # whether classes countable "by_setting" are in the denominator of a differential
    created: datetime


def verification(observed: Observed, study: Study) -> Verification:
    """The document."""
    found, manifest = observed.observations, observed.observations.manifest
    shares = patient_shares(found, count_other=study.count_other)
    return Verification(
        notice=RESEARCH_USE,
        details=dict(study.details),
        created=study.created,
        service_version=version("marrowlens"),
        model=VerifiedModel(
            name=manifest.name,
            version=manifest.version,
            sha256=manifest.sha256,
            manifest_sha256=manifest.digest,
            provider=study.provider,
            computed_in=study.computed_in,
        ),
        thresholds=Thresholds(
            source=found.trust.source,
            cells=found.trust.pictures,
            site_trust_sha256=manifest.site_trust_sha256,
            fitted_to=sum(digest[:16] in study.fitted_to for digest in found.digests),
        ),
        pictures=_pictures(observed),
        names=study.names,
        criteria=study.criteria,
        accuracy=rate(found, found.right, found.supported),
        kappa=kappa(confusion_by_patient(found, found.supported)),
        classes=class_results(found, study.criteria),
        confusion=confusion(found),
        decisions=_decisions(found),
        sets=set_rates(found),
        nominal_coverage=found.trust.sets.coverage,
        calibration=_calibration(found),
        shifts=shifts(found),
        drift=_drift(observed),
        subgroups=subgroups(found),
        readers=reader_pairs(found),
        differential=() if shares is None else comparisons(found, shares),
        site_trust=study.site_trust,
    )


def _pictures(observed: Observed) -> Pictures:
    found = observed.observations
    return Pictures(
        used=len(found),
        patients=None if found.patients is None else len(np.unique(found.patients)),
        sha256=found.pictures_sha256,
        of_unsupported_classes=int((found.known & ~found.supported).sum()),
        of_other_classes=int((found.labels == found.other).sum()),
        copies=len(observed.copies),
        unreadable=len(observed.unreadable),
        undecided=int((~found.labelled).sum()),
    )


def _decisions(found: Observations) -> tuple[DecisionRates, ...]:
    groups = {
        "supported classes": found.supported,
        "unsupported classes": found.known & ~found.supported,
        "other classes": found.labels == found.other,
        "all labelled cells": found.labelled,
    }
    return tuple(decision_rates(found, name, among) for name, among in groups.items() if among.any())


def _calibration(found: Observations) -> Calibration:
    known = found.supported
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
