"""Reports as PDF: any report a person may write can be printed, and the ranges are those of the laboratory."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pdf_text import pages
from reported import report, reports

from examples import examples
from service.config.lis import LisSettings
from service.lis.domain.report import Report, ReportStatus
from service.lis.exchange import reference_ranges
from service.lis.exchange.printed_report import print_report
from service.lis.exchange.reference_ranges import ReferenceRanges

LIS = LisSettings(time_zone="Europe/Berlin")
RANGES = ReferenceRanges.load(Path(reference_ranges.__file__).with_name("adult_marrow_ranges.csv"))


@settings(max_examples=examples(10))
@given(reports(), st.sampled_from(["en", "de"]))
def test_any_report_is_printed(of: Report, language: str) -> None:
    texts = pages(print_report(of, LIS, language=language, replaced=of))
    is_signed = of.signed_by is not None
    assert all(("NOT SIGNED" in text or "NICHT UNTERSCHRIEBEN" in text) != is_signed for text in texts)


def test_ranges_flags_and_what_is_not_measured_are_printed() -> None:
    text = " ".join(pages(print_report(report(), LIS, ranges=RANGES)))
    for words in ("Blast 12 2.4 1.4 – 4.2 0 – 2 H", "Abnormal eosinophil 0 not measured", "Artefact 31 not counted"):
        assert words in text, words
    assert "Signed at 2026-05-04 11:15 CEST" in text


def test_a_preliminary_report_has_no_signer() -> None:
    texts = pages(print_report(report(ReportStatus.PRELIMINARY), LIS))
    assert "Signed by –" in texts[0]
    assert " ".join(texts).count("NOT SIGNED") == 1 + len(texts)  # the status, and the watermark of each page


@pytest.mark.parametrize(
    ("language", "said"), [("en", "script that this PDF cannot show"), ("de", "Identifizieren Sie")]
)
def test_a_name_from_right_to_left_is_said_to_be_missing_and_number_and_birth_date_stay(
    language: str, said: str
) -> None:
    of = report()
    patient = of.patient.model_copy(update={"family": "כהן", "given": "דוד"})
    text = " ".join(pages(print_report(of.model_copy(update={"patient": patient}), LIS, language=language)))
    assert said in text
    assert patient.identifier in text
    assert not set("כהןדוד") & set(text)
