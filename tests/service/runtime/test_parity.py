"""Two answers side by side: what counts as rounding, and what does not."""

import numpy as np
import pytest

from service.runtime.parity import Arrays, compare, mismatch
from service.runtime.providers import Tolerance


def within(share: float) -> Tolerance:
    return Tolerance(share, share, share, share)


def answer(**changes: np.ndarray) -> Arrays:
    logits = np.array([[10.0, 1.0], [2.0, 3.0], [0.0, 4.0]], np.float32)
    return {"logits": logits, "attention": np.full((3, 1, 2, 2), 0.5, np.float32), **changes}


def test_the_same_answer_agrees() -> None:
    found = compare(answer(), answer())
    assert found.differences == {"logits": 0, "attention": 0}
    assert (found.relative, found.top1) == (0, 1)
    assert mismatch(found, within(1e-9)) is None


def test_a_difference_counts_relative_to_the_largest_value_or_to_one() -> None:
    logits = answer()["logits"] + np.float32(0.1)
    assert compare(answer(logits=logits), answer()).relative == pytest.approx(0.01, rel=1e-4)
    attention = answer()["attention"] + np.float32(0.1)
    assert compare(answer(attention=attention), answer()).relative == pytest.approx(0.1, rel=1e-4)


def test_the_output_that_is_furthest_off_is_named() -> None:
    found = compare(answer(attention=np.zeros((3, 1, 2, 2), np.float32)), answer())
    assert mismatch(found, within(0.6)) is None
    assert mismatch(found, within(0.4)) == "attention differs by 5.0e-01; 4e-01 of the largest value is allowed"


def test_another_class_shows() -> None:
    logits = answer()["logits"][:, ::-1]
    assert compare(answer(logits=logits), answer()).top1 == 0
    logits = answer()["logits"].copy()
    logits[2] = (5, 4)
    assert compare(answer(logits=logits), answer()).top1 == pytest.approx(2 / 3)


@pytest.mark.parametrize("name", ["logits", "attention"])
def test_what_is_no_number_never_agrees(name: str) -> None:
    sick = answer()[name].copy()
    sick.flat[0] = np.nan
    said = mismatch(compare(answer(**{name: sick}), answer()), within(1e9))
    assert said is not None and said.startswith(f"{name} differs by nan")


def test_another_shape_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"logits has the shape \(2, 2\), expected \(3, 2\)"):
        compare(answer(logits=np.zeros((2, 2), np.float32)), answer())


@pytest.mark.parametrize(
    ("odd", "difference", "agrees"), [(1, 0.09, True), (1, 0.11, False), (2, 0.09, False), (2, 1e-5, True)]
)
def test_one_picture_of_four_may_differ_by_more_than_rounding(odd: int, difference: float, agrees: bool) -> None:
    expected = {"logits": np.eye(4, dtype=np.float32)}
    found = expected["logits"].copy()
    found[:odd, 3] += np.float32(difference)
    said = mismatch(compare({"logits": found}, expected), Tolerance(2e-4, 2e-4, 0.1, 0))
    assert (said is None) == agrees


def test_attention_maps_have_a_tolerance_of_their_own() -> None:
    attention = answer()["attention"] + np.float32(0.2)
    found = compare(answer(attention=attention), answer())
    assert mismatch(found, Tolerance(0.1, 0.3, 0.3, 0.3)) is None
    assert mismatch(found, Tolerance(0.3, 0.1, 0.3, 0.3)) is not None
