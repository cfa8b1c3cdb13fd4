"""Codes per report and receiver."""

import pytest
from laboratory import report

from model.contract import CLASSES
from service.config.lis import LisSettings
from service.lis.domain.report import Report, ReportStatus
from service.lis.exchange.channels import receivers
from service.lis.exchange.code_map import CodeMap

LIS = LisSettings(hl7_to="127.0.0.1:9", fhir_url="http://127.0.0.1:9/fhir", astm_to="127.0.0.1:9")
COUNTS = {"LYT": 30, "BLA": 10, "EBO": 60}


def sent(of: Report) -> dict[str, str]:
    return {each.channel.name: each.channel.encode(of, (), (), "c-1") for each in receivers(LIS, CodeMap.load(), None)}


def counted(status: ReportStatus, *, unread: int) -> Report:
    of = report(status, classes=CLASSES, counts=COUNTS)
    read = of.differential.model_copy(update={"read_by_person": of.differential.cells - unread})
    return of.model_copy(update={"differential": read})


def test_every_wire_that_is_set_has_its_message() -> None:
    messages = sent(counted(ReportStatus.FINAL, unread=0))
    assert set(messages) == {"hl7", "fhir", "astm"}
    assert "ORU^R01" in messages["hl7"] and '"DiagnosticReport"' in messages["fhir"] and messages["astm"][:2] == "H|"
    assert receivers(LisSettings(), CodeMap.load(), None) == []


@pytest.mark.parametrize(
    ("status", "unread", "manual"),
    [
        (ReportStatus.PRELIMINARY, 0, False),
        (ReportStatus.FINAL, 0, True),
        (ReportStatus.CORRECTED, 0, True),
        (ReportStatus.FINAL, 1, False),
        (ReportStatus.CORRECTED, 7, False),
    ],
)
def test_manual_count_is_said_only_of_what_a_person_has_seen(status: ReportStatus, unread: int, manual: bool) -> None:
    for name, message in sent(counted(status, unread=unread)).items():
        assert ("11108-8" in message) == manual, name  # Lymphocytes/cells in Bone marrow by Manual count
        assert "11150-0" in message, name  # Blasts/cells in Bone marrow: no method in its name
