"""Counts and denominators, as invariants."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.agreement.proportion import wilson
from model.contract import CLASSES
from service.inference.differential import differential, is_counted

CODES = [cell_class.code for cell_class in CLASSES]
BY_CODE = {cell_class.code: cell_class for cell_class in CLASSES}


@given(st.lists(st.sampled_from(CODES)), st.sets(st.sampled_from(CODES)), st.integers(0, 50), st.booleans())
def test_every_picture_is_in_exactly_one_place(
    codes: list[str], unsupported: set[str], problems: int, count_other: bool
) -> None:
    count = differential(codes, CLASSES, unsupported=unsupported, problems=problems, count_other=count_other)
    shares = {share.code: share for share in count.classes}
    excluded = {share.code: share.count for share in count.excluded}
    assert sorted([*shares, *excluded]) == CODES
    assert count.counted == sum(share.count for share in shares.values())
    assert count.counted + sum(excluded.values()) == len(codes)
    assert count.problems == problems
    if count.counted:
        assert sum(share.percent or 0 for share in shares.values()) == pytest.approx(100)
    assert count.counted_unsupported == sum(code in unsupported and code in shares for code in codes)


def test_a_class_for_which_nothing_is_claimed_is_counted_but_not_measured() -> None:
    count = differential(["BAS", "BAS", "ART", "LYT", "LYT", "LYT"], CLASSES, unsupported=("ART", "BAS", "EBO"))
    shares = {share.code: share for share in count.classes}
    assert (count.counted, count.counted_unsupported) == (5, 2)
    assert (shares["BAS"].supported, shares["BAS"].count, shares["BAS"].percent) == (False, 2, 40)
    assert (shares["EBO"].supported, shares["EBO"].count, shares["EBO"].percent) == (False, 0, 0)
    assert {(share.low, share.high) for share in (shares["BAS"], shares["EBO"])} == {(None, None)}
    low, high = wilson(3, 5)
    assert (shares["LYT"].supported, shares["LYT"].low, shares["LYT"].high) == (True, 100 * low, 100 * high)


def test_artefacts_smudge_cells_and_the_unidentifiable_are_not_counted() -> None:
    count = differential(["ART", "KSC", "NIF", "LYT", "LYT", "BLA"], CLASSES)
    assert count.counted == 3
    lymphocytes = next(share for share in count.classes if share.code == "LYT")
    assert (lymphocytes.count, lymphocytes.percent) == (2, pytest.approx(200 / 3))
    assert {share.code: share.count for share in count.excluded} == {"ART": 1, "KSC": 1, "NIF": 1, "OTH": 0}


def test_other_cells_are_counted_only_where_the_laboratory_says_so() -> None:
    assert differential(["OTH", "LYT"], CLASSES).counted == 1
    assert differential(["OTH", "LYT"], CLASSES, count_other=True).counted == 2
    assert is_counted(BY_CODE["LYT"], count_other=False)
    assert not is_counted(BY_CODE["ART"], count_other=True)


def test_without_a_counted_cell_there_is_no_percentage() -> None:
    count = differential(["ART"], CLASSES)
    assert count.counted == 0
    assert {(share.percent, share.low, share.high) for share in count.classes} == {(None, None, None)}


def test_a_code_of_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match="XYZ"):
        differential(["XYZ"], CLASSES)
