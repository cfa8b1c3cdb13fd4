"""Any answers and labels: every figure is finite, every share lies in its interval, and the report is written."""

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from model.agreement.proportion import wilson
from model.contract import Manifest, read_manifest
from model.report.html import render
from model.report.pdf import render_pdf
from model.trust.decision import Assessor
from model.trust.quality import MEASURES
from service.verification.differential_bias import patient_shares
from service.verification.document import Criteria, OwnName, Rate, Verification
from service.verification.domain_shift import is_shifted
from service.verification.figures import figures
from service.verification.labelled_cells import LabelledCell
from service.verification.observations import Observations, Observed
from service.verification.pages import page
from service.verification.site_trust import site_figures
from service.verification.verify import Study, verification

READERS = ("<b>Ada</b> & Co", "Grace" * 700)


def observations(manifest: Manifest, cells: int, patients: int | None, seed: int) -> Observations:
    """Random answers and labels. `patients`: their number; None: unknown."""
    random = np.random.default_rng(seed)
    codes, trust = manifest.codes, manifest.trust
    assert trust is not None
    few = (
        random.choice(len(codes) + 2, random.integers(1, 6)) - 1
    )  # the first is undecided, the last no class of theirs
    labels = random.choice(few, cells)
    probabilities = random.dirichlet(np.full(len(codes), 0.1), cells).astype(np.float32)
    embeddings = random.normal(0, 3, (cells, trust.novelty.gaussians.embedding_size)).astype(np.float32)
    measures = random.uniform(0, 1, (cells, len(MEASURES))).astype(np.float32)
    readings = [{reader: codes[int(random.integers(len(codes)))] for reader in READERS} for _ in range(cells)]
    named = [None if label in (-1, len(codes)) else codes[label] for label in labels]
    return Observations(
        manifest,
        trust,
        tuple(
            LabelledCell(f"{at}.png", Path(), named[at], undecided=labels[at] < 0, readings=readings[at])
            for at in range(cells)
        ),
        labels,
        probabilities,
        embeddings,
        measures,
        tuple(Assessor(trust, codes, manifest.unsupported).assess_measured(probabilities, embeddings, measures)),
        tuple(f"{at:064x}" for at in range(cells)),
        None if patients is None else random.integers(0, patients, cells),
    )


def document(found: Observations) -> Verification:
    goals = dict.fromkeys(found.manifest.codes, 0.8)
    return verification(
        Observed(found),
        Study(
            criteria=Criteria(default_goal=0.8, goals=goals, precision=0.1),
            details={"stain": "<Pappenheim>"},
            names=(OwnName(name="<mast>", code="none", labels=1),),
            site_trust=site_figures(found),
            fitted_to=(),
            provider="cpu",
            computed_in="fp32",
            count_other=False,
            created=datetime(2026, 5, 4, tzinfo=UTC),
        ),
    )


def _rates(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if {"hits", "n", "low", "high"} <= set(value):
            yield value
        for each in value.values():
            yield from _rates(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _rates(each)


@given(st.integers(1, 80), st.none() | st.integers(1, 12), st.integers(0, 10_000))
@settings(max_examples=examples(120))
def test_figures_are_finite_and_in_their_intervals(
    trusted_artefact: Path, cells: int, patients: int | None, seed: int
) -> None:
    found = observations(read_manifest(trusted_artefact.with_suffix(".json")), cells, patients, seed)
    made = document(found)
    assert Verification.model_validate_json(made.model_dump_json()) == made
    for rate in _rates(made.model_dump()):
        assert 0 <= rate["low"] <= rate["high"] <= 1
        assert rate["hits"] <= rate["n"]
        if rate["share"] is not None:
            assert rate["low"] <= rate["share"] <= rate["high"]
    for each in made.classes:
        one_patient = each.sensitivity.patients == 1
        assert (each.verdict == "too few" and not one_patient) == (each.missing_cells > 0)
        if one_patient:
            assert each.verdict != "verified"
        if each.verdict == "verified":
            assert min(each.sensitivity.low, each.predictive_value.low) >= each.goal
    labelled = int(found.labelled.sum())
    assert sum(group.accepted.n for group in made.decisions) == 2 * labelled  # all of them, and by group
    assert all(math.isfinite(compared.bias.value) for compared in made.differential)
    assert sum(count for row in made.confusion.values() for count in row.values()) == labelled


@pytest.mark.parametrize(("cells", "patients"), [(1, None), (90, None), (400, 8)])
def test_the_report_is_written_and_names_are_text(trusted_artefact: Path, cells: int, patients: int | None) -> None:
    found = observations(read_manifest(trusted_artefact.with_suffix(".json")), cells, patients, 7)
    made = document(found)
    report = page(made, figures(made, patient_shares(found, count_other=False)), [], "0" * 64)
    html = render(report)
    assert "&lt;b&gt;Ada&lt;/b&gt; &amp; Co" in html
    assert not [text for text in ("<b>Ada", "<mast>", "<Pappenheim>") if text in html]
    assert render_pdf(report).startswith(b"%PDF-")


def test_cells_like_the_models_show_no_shift() -> None:
    """Of 400 verifications with 200 cells exchangeable with the 120 known ones, hardly one shows a sign."""
    random, alarms = np.random.default_rng(5), 0
    for _ in range(400):
        level = random.beta(0.1 * 121, 0.9 * 121)  # what a threshold of 120 known cells leaves outside
        hits = int(random.binomial(200, level))
        low, high = wilson(hits, 200)
        rate = Rate(hits=hits, n=200, share=hits / 200, low=low, high=high)
        alarms += is_shifted(rate, 0.1, 120)
    assert alarms / 400 <= 0.03
    assert is_shifted(Rate(hits=80, n=200, share=0.4, low=0.33, high=0.47), 0.1, 120)
    assert not is_shifted(Rate(hits=1, n=1, share=1, low=0.2, high=1), 0.1, 120)
