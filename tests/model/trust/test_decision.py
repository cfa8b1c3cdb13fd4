"""Decisions: every reason, what rejects, and that a decision never depends on the other pictures of a batch."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from model.trust.decision import Assessment, Assessor
from model.trust.fitting import LabelledPredictions, fit_trust, recalibrate
from model.trust.quality import MEASURES, measure
from model.trust.reference import Measure, TrustReference

CODES = ("A", "B", "C", "D")
#: Of known cells: nucleus, focus, brightness, stain, size, offset.
USUAL = np.array([0.6, -0.2, 0.8, 1.5, 0.3, 0.1], np.float32)


@pytest.fixture(scope="module")
def reference() -> TrustReference:
    """Known cells of A, B and C, each class around a corner of the embeddings; D has no training pictures."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 100)

    def embeddings() -> NDArray[np.float32]:
        return (8 * np.eye(3, 20)[labels] + generator.normal(size=(300, 20))).astype(np.float32)

    probabilities = np.full((300, 4), 0.02, np.float32)
    probabilities[np.arange(300), labels] = generator.uniform(0.6, 0.94, 300)
    measures = (USUAL * generator.uniform(0.8, 1.2, (300, 6))).astype(np.float32)
    return fit_trust(
        embeddings(), labels, LabelledPredictions(probabilities, embeddings(), measures, labels), CODES, "drawn"
    )


def _assess(
    reference: TrustReference,
    probabilities: tuple[float, ...] = (0.94, 0.02, 0.02, 0.02),
    *,
    at: int = 0,
    away: float = 0,
    review: tuple[str, ...] = (),
    measured: tuple[Measure, float] | None = None,
) -> Assessment:
    """The assessment of a cell of class `at`, `away` from its mean, with one unusual measure."""
    embedding = (8 * np.eye(3, 20)[at] + away).astype(np.float32)[None]
    measures = USUAL.copy()
    if measured:
        measures[MEASURES.index(measured[0])] = measured[1]
    assessor = Assessor(reference, CODES, ["D"], review)
    [found] = assessor.assess_measured(np.array([probabilities], np.float32), embedding, measures[None])
    return found


def test_a_usual_cell_is_accepted_without_a_reason(reference: TrustReference) -> None:
    found = _assess(reference)
    assert (found.decision, found.reasons, found.prediction_set) == ("accept", (), ("A",))
    assert found.p_value > 0.5 and found.novelty > 0


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("focus", -0.9, "out_of_focus"),
        ("brightness", 0.2, "exposure"),
        ("brightness", 1.0, "exposure"),
        ("stain", 0.3, "stain"),
        ("stain", 3.0, "stain"),
        ("nucleus_area", 0.05, "cell_size"),
        ("nucleus_area", 0.9, "cell_size"),
        ("offset", 0.5, "off_centre"),
        ("focus", float("nan"), "out_of_focus"),
    ],
)
def test_poor_quality_is_reviewed_with_its_reason(
    reference: TrustReference, name: Measure, value: float, code: str
) -> None:
    found = _assess(reference, measured=(name, value))
    assert (found.decision, [reason.code for reason in found.reasons]) == ("review", [code])
    assert ": " in found.reasons[0].detail  # what is wrong: what to do


def test_a_picture_without_a_nucleus_is_rejected(reference: TrustReference) -> None:
    found = _assess(reference, measured=("nucleus_in_middle", 0.0))
    assert (found.decision, [reason.code for reason in found.reasons]) == ("reject", ["not_a_cell"])


def test_novelty_is_reviewed_and_greater_novelty_rejected(reference: TrustReference) -> None:
    decisions = [_assess(reference, away=away).decision for away in np.linspace(0, 4, 60)]
    assert decisions[0] == "accept" and decisions[-1] == "reject" and "review" in decisions
    assert decisions == sorted(decisions, key=["accept", "review", "reject"].index)
    far = _assess(reference, away=4)
    assert far.p_value == pytest.approx(1 / 301) and [reason.code for reason in far.reasons] == ["novel"]
    assert _assess(reference, away=float("nan")).decision == "reject"


def test_a_set_of_several_classes_is_reviewed_most_probable_first(reference: TrustReference) -> None:
    found = _assess(reference, (0.65, 0.66, 0.05, 0.02))
    assert found.decision == "review" and found.prediction_set == ("B", "A")
    [reason] = found.reasons
    assert (reason.code, reason.detail) == ("uncertain", "A cannot be excluded: read the cell")


def test_a_predicted_class_below_its_own_threshold_is_reviewed(reference: TrustReference) -> None:
    """No class reaches its threshold, so the conformal set is empty: that is doubt too."""
    threshold = reference.sets.thresholds["A"]
    found = _assess(reference, (threshold - 0.01, 0.02, 0.02, 0.96 - threshold - 0.01))
    assert found.prediction_set == ("A",) and found.decision == "review"
    assert [reason.code for reason in found.reasons] == ["uncertain"]
    assert _assess(reference, (threshold + 0.01, 0.02, 0.02, 0.02)).decision == "accept"


def test_an_unsupported_class_is_reviewed_and_never_added_to_a_set(reference: TrustReference) -> None:
    found = _assess(reference, (0.02, 0.02, 0.02, 0.94))
    assert found.prediction_set == ("D",) and [reason.code for reason in found.reasons] == ["unsupported"]
    assert "D" not in _assess(reference, (0.5, 0.01, 0.01, 0.48)).prediction_set


def test_the_predicted_class_is_in_its_set_however_improbable(reference: TrustReference) -> None:
    assert _assess(reference, (0.28, 0.24, 0.24, 0.24)).prediction_set[0] == "A"


def test_classes_can_always_be_reviewed(reference: TrustReference) -> None:
    assert [reason.code for reason in _assess(reference, review=("A",)).reasons] == ["review_class"]
    assert _assess(reference, review=("B",)).decision == "accept"
    with pytest.raises(ValueError, match="unknown classes X; the model has A, B, C, D"):
        Assessor(reference, CODES, [], ["X"])


def test_a_batch_is_assessed_as_its_pictures_alone(reference: TrustReference) -> None:
    generator = np.random.default_rng(1)
    probabilities = generator.dirichlet(np.full(4, 0.3), 40).astype(np.float32)
    embeddings = generator.normal(size=(40, 20)).astype(np.float32) * 4
    pictures = generator.integers(0, 256, (40, 64, 64, 3), np.uint8)
    assessor = Assessor(reference, CODES, ["D"])
    together = assessor.assess(probabilities, embeddings, pictures)
    for at, found in enumerate(together):
        row = slice(at, at + 1)
        [alone] = assessor.assess(probabilities[row], embeddings[row], pictures[row])
        assert replace(alone, novelty=0) == replace(found, novelty=0)
        assert alone.novelty == pytest.approx(found.novelty, rel=1e-4)
    measures = measure(pictures)
    for at in range(len(pictures)):  # bit for bit: a threshold may be a value of a known cell
        np.testing.assert_array_equal(measure(pictures[at : at + 1])[0], measures[at])
    assert together == assessor.assess_measured(probabilities, embeddings, measure(pictures))


def test_recalibration_moves_the_thresholds_and_keeps_the_gaussians(reference: TrustReference) -> None:
    generator = np.random.default_rng(2)
    labels = np.repeat(np.arange(3), 40)
    probabilities = np.full((120, 4), 0.02, np.float32)
    probabilities[np.arange(120), labels] = 0.9
    embeddings = (8 * np.eye(3, 20)[labels] + 2 * generator.normal(size=(120, 20))).astype(np.float32)
    dim = np.tile(USUAL * np.array([1, 1, 0.5, 1, 1, 1], np.float32), (120, 1))
    site = recalibrate(reference, LabelledPredictions(probabilities, embeddings, dim, labels), CODES, "this laboratory")
    assert site.novelty.gaussians == reference.novelty.gaussians and site.source == "this laboratory"
    assert (site.review_p, site.reject_p) == (reference.review_p, reference.reject_p)
    assert min(site.novelty.distances) > min(reference.novelty.distances)
    assert _assess(site, measured=("brightness", 0.8)).decision == "review"
    assert _assess(site, measured=("brightness", 0.4)).decision == "accept"
    assert TrustReference.model_validate_json(site.model_dump_json()) == site


def test_too_few_known_cells_are_refused(reference: TrustReference) -> None:
    probabilities, embeddings, measures = (np.zeros((10, size), np.float32) for size in (4, 20, 6))
    few = LabelledPredictions(probabilities, embeddings, measures, np.zeros(10, np.int64))
    with pytest.raises(ValueError, match="10 known cells; at least 50 are needed"):
        recalibrate(reference, few, CODES, "too few")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"reject_p": 0.5}, "reject_p is larger"),
        ({"confusion": {}}, "must name the same classes"),
        ({"confusion": {"A": {"A": -5}}}, "greater than or equal to 0"),
        ({"reject_p": 0.003, "review_p": 0.1}, "reject_p 0.003 is never reached with 300 known cells"),
        ({"quality": {"focus": {"low": 1, "high": 0}}}, "low 1 is above high 0"),
        ({"sets": {"coverage": 0.9, "thresholds": {"A": float("nan")}, "pictures": {"A": 9}}}, "thresholds.A"),
        ({"extra": 1}, "Extra inputs"),
    ],
)
def test_an_inconsistent_reference_is_refused(reference: TrustReference, change: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        TrustReference.model_validate(reference.model_dump() | change)


def test_a_reference_of_another_model_is_refused(reference: TrustReference) -> None:
    with pytest.raises(ValueError, match="does not have: C"):
        reference.check_model(("A", "B", "D"), 20)
    with pytest.raises(ValueError, match="embeddings of 20 numbers; the model's have 192"):
        reference.check_model(CODES, 192)
