"""The specimen differential: denominator, lineages, M:E ratio, review list, and the results in a message."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reported import report

from model.contract import CLASSES
from service.lis.domain.differential import (
    CountingRules,
    Tally,
    check_terms,
    me_ratio,
    specimen_differential,
    term_codes,
)
from service.lis.domain.report import SpecimenDifferential
from service.lis.exchange.observations import ME_RATIO, observations

CODES = [cell_class.code for cell_class in CLASSES]
RULES = CountingRules()
counts = st.dictionaries(st.sampled_from(CODES), st.integers(0, 500))


def counted(
    codes: dict[str, int], *, read: int = 0, rules: CountingRules = RULES, unsupported: tuple[str, ...] = ()
) -> SpecimenDifferential:
    return specimen_differential(Tally(codes, read), CLASSES, unsupported, rules)


def test_artefacts_smudges_and_the_unidentifiable_are_in_no_percentage() -> None:
    found = counted({"PMO": 30, "EBO": 10, "ART": 5, "KSC": 3, "NIF": 2, "OTH": 4})
    assert (found.cells, found.counted, found.to_go) == (54, 40, 460)
    assert {share.code: share.count for share in found.excluded} == {"ART": 5, "KSC": 3, "NIF": 2, "OTH": 4}
    assert next(share for share in found.classes if share.code == "PMO").percent == 75
    assert counted({"PMO": 30, "OTH": 10}, rules=CountingRules(count_other=True)).counted == 40


def test_the_interval_is_rumkes_for_a_count_of_500() -> None:
    found = counted({"BLA": 25, "NGS": 475})
    share = next(share for share in found.classes if share.code == "BLA")
    assert (share.percent, share.low, share.high) == (5, pytest.approx(3.41, abs=0.01), pytest.approx(7.28, abs=0.01))


@given(counts)
def test_shares_and_lineages_add_up(codes: dict[str, int]) -> None:
    found = counted(codes)
    assert found.cells == sum(codes.values())
    assert found.counted + sum(share.count for share in found.excluded) == found.cells
    assert sum(lineage.count for lineage in found.lineages) == found.counted
    if found.counted:
        assert sum(share.percent or 0 for share in found.classes) == pytest.approx(100)
        assert sum(lineage.percent or 0 for lineage in found.lineages) == pytest.approx(100)
    for each in (*found.classes, *found.lineages):
        if each.percent is not None and each.low is not None and each.high is not None:
            assert 0 <= each.low <= each.percent <= each.high <= 100


@given(counts)
def test_the_ratio_lies_in_its_interval(codes: dict[str, int]) -> None:
    ratio = me_ratio(codes, CLASSES, RULES)
    assert (ratio.value is None) == (ratio.erythroid == 0)
    if ratio.value is not None and ratio.low is not None and ratio.high is not None:
        assert ratio.value == ratio.myeloid / ratio.erythroid
        assert 0 <= ratio.low <= ratio.value <= ratio.high


def test_blasts_are_myeloid_where_the_laboratory_says_so() -> None:
    codes = {"NGS": 30, "MON": 5, "BLA": 10, "EBO": 10, "PEB": 5, "LYT": 50}
    assert me_ratio(codes, CLASSES, RULES).value == pytest.approx(35 / 15)
    with_blasts = CountingRules(myeloid=("granulocytic", "monocytic", "BLA"))
    assert me_ratio(codes, CLASSES, with_blasts).value == 3
    assert me_ratio(codes, CLASSES, with_blasts).formula == "(granulocytic + monocytic + BLA) / (erythroid)"


def test_a_term_counts_each_class_once_and_knows_its_names() -> None:
    assert term_codes(("erythroid", "EBO"), CLASSES) == ["EBO", "PEB"]
    assert term_codes(("megakaryocytic",), CLASSES) == []
    for terms in ({"myeloid": ("granulocytic", "BLASTS")}, {"erythroid": ("BLASTS",)}):
        with pytest.raises(ValueError, match="BLASTS: unknown lineage or class"):
            check_terms(CountingRules(**terms), CLASSES)
    check_terms(CountingRules(myeloid=("granulocytic", "BLA")), CLASSES)


def test_a_class_that_an_earlier_model_lacks_counts_nothing_in_a_term() -> None:
    classes = [each for each in CLASSES if each.code != "BLA"]
    rules = CountingRules(myeloid=("granulocytic", "BLA"))
    assert me_ratio({"NGS": 3, "EBO": 2}, classes, rules).value == 1.5


def test_an_unsupported_class_is_measured_only_once_every_cell_was_read() -> None:
    before, after = (counted({"ABE": 2, "EOS": 8}, read=read, unsupported=("ABE", "FGC")) for read in (9, 10))
    assert (before.unsupported, after.unsupported) == (["ABE", "FGC"], [])
    first, then = (next(each for each in found.classes if each.code == "ABE") for found in (before, after))
    assert (first.supported, first.low) == (False, None)
    assert then.supported and then.low is not None


def test_without_a_cell_there_is_no_percentage() -> None:
    found = counted({})
    assert (found.counted, found.me_ratio.value) == (0, None)
    assert {share.percent for share in found.classes} == {None}


def test_what_is_sent_says_how_many_cells_stand_behind_it() -> None:
    sent = {each.key: each for each in observations(report())}
    of = report().differential
    for share in of.classes:
        each = sent[share.code]
        if share.supported:
            assert each.value == round(share.percent or 0, 1)
            assert f"{share.count} of {of.counted} cells" in each.notes
        elif not share.count:
            assert (each.value, "Not measured" in each.notes[0]) == (None, True)
    assert sent["COUNTED"].value == of.counted
    assert sent["WAITING"].value == of.waiting_review
    assert any(of.me_ratio.formula in note for note in sent[ME_RATIO].notes)
    assert "Research use only" in str(sent["METHOD"].value)


def test_what_holds_a_class_that_is_not_measured_is_not_measured_either() -> None:
    codes = {"EBO": 21, "NGS": 30, "LYT": 12}
    some = counted(codes, read=10, unsupported=("EBO",))
    assert {each.lineage: each.supported for each in some.lineages if each.count} == {
        "erythroid": False,
        "granulocytic": True,
        "lymphoid": True,
    }
    assert (some.me_ratio.supported, some.me_ratio.low) == (False, None)
    sent = {each.key: each for each in observations(report(differential=some))}
    for key in ("EBO", "LINEAGE_ERYTHROID", ME_RATIO):
        assert sent[key].value is None and sent[key].notes, key
    assert "21 of 63" in sent["EBO"].notes[1]
    assert (sent["NGS"].value, sent["LINEAGE_LYMPHOID"].value) == (47.6, 19.0)
    every = {
        each.key: each for each in observations(report(differential=counted(codes, read=63, unsupported=("EBO",))))
    }
    assert (every["EBO"].value, every["LINEAGE_ERYTHROID"].value, every[ME_RATIO].value) == (33.3, 33.3, 1.43)
