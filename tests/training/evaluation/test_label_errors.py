"""Label errors: confident learning computed by hand, and `marrowlens-train audit` on two runs of one fold."""

import csv
import re
import shutil
from base64 import b64decode
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from folded import Folded
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from training.data.samples import Sample
from training.evaluation.calibration import log_probabilities
from training.evaluation.label_errors import (
    LabelAudit,
    audit_labels,
    contradicted_pairs,
    model_differences,
    shared_errors,
    write_audit,
)
from training.evaluation.scores import Scores, scores_of, scores_of_run
from training.run import RunFolder

CODES = ("A", "B", "C")


def _scores(labels: str, probabilities: list[list[float]], order: list[int] | None = None) -> Scores:
    rows = list(range(len(labels))) if order is None else order
    samples = [Sample("one", labels[row], f"{row}.png", Path(f"{row}.png")) for row in rows]
    logits = np.log(np.array(probabilities, dtype=np.float32)[rows])
    return scores_of(samples, logits, 1.0, CODES)


def _audit(labels: str, *models: list[list[float]]) -> LabelAudit:
    return audit_labels([f"m{at}" for at in range(len(models))], [_scores(labels, rows) for rows in models])


def test_wrong_in_all_and_contradicted_by_all_are_two_things() -> None:
    first = [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.8, 0.1], [0.1, 0.8, 0.1]]
    second = [[0.8, 0.1, 0.1], [0.8, 0.1, 0.1], [0.1, 0.1, 0.8], [0.2, 0.7, 0.1]]
    found = _audit("AAAA", first, second)
    assert found.all_wrong.tolist() == [False, False, True, True]
    assert found.contradicted.tolist() == [False, False, False, True]


def test_a_label_is_in_doubt_where_another_class_reaches_its_own_mean() -> None:
    """Thresholds by hand: A (0.9 + 0.5) / 2 = 0.7, B (0.6 + 0.4) / 2 = 0.5; C is no label, so it is never suggested."""
    rows = [[0.9, 0.05, 0.05], [0.5, 0.49, 0.01], [0.3, 0.6, 0.1], [0.05, 0.4, 0.55]]
    found = _audit("AABB", rows)
    assert found.suggested.tolist() == [0, -1, 1, -1]
    assert found.margin == pytest.approx([0.85, 0.01, 0.3, -0.15], abs=1e-6)
    assert found.doubtful.tolist() == [3]  # the only model predicts C, although C is never suggested
    other = _audit("AABB", [[0.9, 0.05, 0.05], [0.48, 0.51, 0.01], [0.3, 0.6, 0.1], [0.05, 0.4, 0.55]])
    assert other.suggested.tolist() == [0, 1, 1, -1]
    assert other.doubtful.tolist() == [3, 1]  # by margin: -0.15 before -0.03


def test_models_are_brought_together_picture_by_picture() -> None:
    rows = [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]
    found = audit_labels(["one", "two"], [_scores("ABC", rows), _scores("ABC", rows, order=[2, 0, 1])])
    assert found.predicted.tolist() == [[0, 1, 2], [0, 1, 2]]
    assert found.probabilities == pytest.approx(np.array(rows), abs=1e-6)


def test_other_pictures_and_other_classes_are_refused() -> None:
    rows = [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]]
    with pytest.raises(ValueError, match="tested on different pictures: 1 of 2 are missing, 0 are extra"):
        audit_labels(["one", "two"], [_scores("AB", rows), _scores("AB", rows, order=[0])])
    with pytest.raises(ValueError, match="two and one were tested on different pictures: 0 of 1 are missing"):
        audit_labels(["one", "two"], [_scores("AB", rows, order=[0]), _scores("AB", rows)])
    fewer = scores_of([], np.empty((0, 2), np.float32), 1.0, ("A", "B"))
    with pytest.raises(ValueError, match="two has other classes than one"):
        audit_labels(["one", "two"], [_scores("AB", rows), fewer])


def test_shares_and_pairs_count_with_their_n() -> None:
    rows = [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]
    found = _audit("AAAB", rows)
    (row,) = shared_errors(found).rows
    assert row == ("m0", "0.250", "3", "3 (100%)", "3 (100%)", "1.000", "4")
    table = contradicted_pairs(found, np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=bool))
    assert table.rows == (("A", "B", "2", "66.7%", "yes"), ("B", "C", "1", "100.0%", "no"))


def test_models_are_held_against_the_first_picture_by_picture() -> None:
    """Only the second is correct nine times, only the first once: McNemar's exact p is 2 * 11 / 1024."""
    sure, other = [0.8, 0.1, 0.1], [0.3, 0.6, 0.1]
    found = _audit("A" * 20, [other] * 9 + [sure] * 11, [sure] * 9 + [other] + [sure] * 10)
    first, second, mean = model_differences(found).rows
    assert first == ("m0", "0.550", "", "", "", "", "20")
    assert second[:4] == ("m1", "0.950", "9", "1") and second[5:] == ("0.021", "20")
    points, low, high = map(float, re.findall(r"[+-][\d.]+", second[4]))
    assert points == 40 and 0 < low < 40 < high
    assert mean[:4] == ("mean of all", "1.000", "9", "0")
    assert len(model_differences(_audit("AB", [sure, other])).rows) == 1


@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 4))
def test_what_all_models_share_is_never_more_than_any_has(seed: int, n: int, models: int) -> None:
    random = np.random.default_rng(seed)
    labels = "".join(random.choice(list(CODES), n))
    found = _audit(labels, *(random.dirichlet(np.ones(3), n).tolist() for _ in range(models)))
    errors = found.wrong.sum(axis=1)
    assert found.contradicted.sum() <= found.all_wrong.sum() <= errors.min()
    assert set(np.flatnonzero(found.all_wrong)) <= set(found.doubtful.tolist())
    assert (np.diff(found.margin[found.doubtful]) >= 0).all()


def test_the_list_says_what_is_doubted_and_why(tmp_path: Path) -> None:
    rows = [[0.9, 0.05, 0.05], [0.2, 0.7, 0.1], [0.3, 0.6, 0.1]]
    write_audit(tmp_path / "audit.csv", [_audit("AAB", rows, rows)])
    (row,) = csv.DictReader((tmp_path / "audit.csv").read_text().splitlines())
    assert row == {
        "source": "one",
        "file": "1.png",
        "label": "A",
        "suggested": "B",
        "wrong_models": "2",
        "models": "2",
        "agreed": "B",
        "p_label": "0.2000",
        "margin": "-0.5000",
    }


@pytest.fixture(scope="module")
def audited(folded: Folded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("audit")
    folded.made("audit", folded.runs[0], folded.second, "--data", folded.data, "--out", out)
    return out


@pytest.mark.slow
def test_every_picture_that_both_runs_get_wrong_is_listed_and_shown(folded: Folded, audited: Path) -> None:
    runs = [RunFolder(folded.runs[0]), RunFolder(folded.second)]
    wrong = []
    for run in runs:
        scores = scores_of_run(run, "test")
        named = log_probabilities(scores.logits, 1.0).argmax(axis=1)
        wrong.append({key for key, right in zip(scores.keys(), named == scores.labels, strict=True) if not right})
    rows = list(csv.DictReader((audited / "audit.csv").read_text().splitlines()))
    listed = {(row["source"], row["label"], row["file"]) for row in rows if row["wrong_models"] == row["models"] == "2"}
    assert listed == wrong[0] & wrong[1]
    assert listed  # after one epoch both runs have errors in common
    page = (audited / "audit.html").read_text()
    shown = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)" alt="([^"]+)"><figcaption>(\S+):', page)
    assert [file for _, _, file in shown] == [row["file"] for row in rows]
    for data, alt, file in shown:
        assert alt.startswith(f"Cell labelled {file[:3]}, predicted ")
        assert Image.open(BytesIO(b64decode(data))).size == (160, 160)


@pytest.mark.slow
def test_the_page_says_who_was_asked_and_of_how_many(folded: Folded, audited: Path) -> None:
    page = (audited / "audit.html").read_text()
    n = len(scores_of_run(RunFolder(folded.second), "test"))
    assert "fold-0, second" in page
    assert f"of {n} labels are in doubt" in page
    assert "drawn by training/drawn/painter.py" in page
    assert "Research use only" in page


def test_runs_of_other_pictures_are_not_audited_together(folded: Folded, tmp_path: Path) -> None:
    said = folded.refusal("audit", *folded.runs, "--data", folded.data, "--out", tmp_path / "none")
    assert "fold-1 and fold-0 were tested on different pictures" in said
    assert not (tmp_path / "none").exists()


def test_without_the_pictures_the_one_that_is_missing_is_named(folded: Folded, tmp_path: Path) -> None:
    shutil.copytree(folded.data / "drawn", tmp_path / "drawn")
    for path in (tmp_path / "drawn").rglob("*.jpg"):
        path.rename(path.with_name(f"other_{path.name}"))
    said = folded.refusal("audit", *folded.runs[:1], "--data", tmp_path, "--out", tmp_path / "out")
    assert "a test picture of drawn, is missing" in said
