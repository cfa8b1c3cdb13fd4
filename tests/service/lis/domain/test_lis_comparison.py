"""Two results compared: what differs, and what chance explains."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reported import COUNTS, differential, report, reports

from examples import examples
from service.lis.domain.comparison import compare
from service.lis.domain.report import Cellularity, Report


@settings(max_examples=examples(20))
@given(reports(), st.booleans())
def test_a_report_does_not_differ_from_itself(one: Report, same_specimen: bool) -> None:
    found = compare(one, one, same_specimen=same_specimen)
    assert not [each for each in found.classes if each.changed] and not found.findings


@settings(max_examples=examples(40))
@given(st.integers(0, 300), st.integers(1, 300), st.integers(0, 300), st.integers(1, 300))
def test_intervals_of_a_difference_hold_it_and_turn_with_the_order(a: int, b: int, c: int, d: int) -> None:
    one, other = (report(differential=differential({"EOS": x, "LYT": y}, read=x + y)) for x, y in ((a, b), (c, d)))
    there, back = (compare(*pair, same_specimen=False).classes for pair in ((one, other), (other, one)))
    for forth, again in zip(there, back, strict=True):
        if forth.difference is None or forth.low is None or forth.high is None:
            assert forth.code in ("ART", "KSC", "NIF", "OTH")  # outside the denominator
            continue
        assert forth.low <= forth.difference <= forth.high
        assert (again.difference, again.low, again.high) == pytest.approx(
            (-forth.difference, -forth.high, -forth.low), abs=1e-9
        )
        assert forth.changed is again.changed


def test_the_interval_of_a_difference_is_newcombes() -> None:
    """Newcombe 1998, Stat Med 17:873, table II, example a, method 10: 56/70 and 48/80."""
    before = report(differential=differential({"EOS": 48, "LYT": 32}, read=80))
    now = report(differential=differential({"EOS": 56, "LYT": 14}, read=70))
    [eosinophils] = [each for each in compare(before, now, same_specimen=False).classes if each.code == "EOS"]
    assert (eosinophils.difference, eosinophils.low, eosinophils.high) == pytest.approx((20, 5.24, 33.39), abs=0.005)


def test_what_is_not_measured_is_not_compared() -> None:
    before, now = report(), report(differential=differential(COUNTS | {"HAC": 90}))
    [hairy] = [each for each in compare(before, now, same_specimen=False).classes if each.code == "HAC"]
    assert (hairy.difference, hairy.changed) == (None, False)
    [hairy] = [each for each in compare(before, now, same_specimen=True).classes if each.code == "HAC"]
    assert hairy.changed


def test_of_two_specimens_only_grades_are_compared() -> None:
    words = [Cellularity(grade=grade, remark=remark) for grade, remark in (("normal", "a"), ("normal", "b"))]
    before, now = (report(cellularity=each, comment=each.remark, megakaryocytes=n) for n, each in enumerate(words))
    assert compare(before, now, same_specimen=False).findings == []
    assert compare(before, now, same_specimen=True).findings == ["megakaryocytes", "cellularity", "comment"]
