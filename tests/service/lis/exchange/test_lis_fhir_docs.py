"""docs/fhir-bundle.md matches the code. The failure message has the text to paste."""

import json
import re
from pathlib import Path
from typing import Any

from laboratory import SIGNER
from reported import differential, report

from service.lis.domain.report import ReportContent, ReportStatus
from service.lis.exchange.code_map import CodeMap
from service.lis.exchange.fhir.bundle import FhirForm, MediaPicture, report_bundle
from service.lis.exchange.reference_ranges import ReferenceRanges

PAGE = Path("docs/fhir-bundle.md").read_text(encoding="utf-8")
WIDTH = 116


def shortened() -> Any:
    """The Bundle of a report of two classes, one of them unsupported."""
    whole = differential({"LYT": 62, "EBO": 98, "NGS": 340}, read=480)
    classes = [share for share in whole.classes if share.code in ("HAC", "LYT")]
    of = report(
        ReportStatus.CORRECTED,
        version=3,
        differential=whole.model_copy(update={"classes": classes}),
        signer=SIGNER,
        content=ReportContent(),
    )
    ranges = ReferenceRanges.load(Path("service/lis/exchange/adult_marrow_ranges.csv"))
    form = FhirForm("urn:marrowlens:codes", {"HOSPITAL": "urn:oid:1.2.3.4"}, ranges=ranges)
    return report_bundle(
        of, CodeMap.load().code_of(signed=True), form, [MediaPicture("17", b"\xff\xd8", "image/jpeg", "LYT")]
    )


def written(found: Any, indent: int = 0) -> str:
    """JSON with short values on one line."""
    line = json.dumps(found, ensure_ascii=False)
    if len(line) + indent <= WIDTH or not isinstance(found, dict | list):
        return line
    inner = " " * (indent + 2)
    if isinstance(found, list):
        parts, ends = [written(each, indent + 2) for each in found], "[]"
    else:
        parts, ends = [f"{json.dumps(name)}: {written(each, indent + 2)}" for name, each in found.items()], "{}"
    return f"{ends[0]}\n{inner}" + f",\n{inner}".join(parts) + f"\n{' ' * indent}{ends[1]}"


def test_every_entry_shown_is_what_the_code_makes() -> None:
    entries = shortened()["entry"]
    chosen = [entry for entry in entries if entry["resource"]["resourceType"] != "Observation"]
    chosen[4:4] = [
        entry for entry in entries if named(entry) in ("Hairy cell", "Lymphocyte", "Bone marrow differential")
    ]
    assert [each["resource"]["resourceType"] for each in chosen] == [
        *("Patient", "Device", "Specimen", "Media", "Observation", "Observation", "Observation", "DiagnosticReport")
    ]
    blocks = "\n".join(f"```json\n{written(entry)}\n```" for entry in chosen)
    shown = re.findall(r"```json\n.*?\n```", PAGE, flags=re.S)
    assert "\n".join(shown) == blocks, f"put these into docs/fhir-bundle.md:\n{blocks}"


def named(entry: Any) -> str | None:
    code = entry["resource"].get("code")
    return code["text"] if code and entry["resource"]["resourceType"] == "Observation" else None


def test_every_field_is_explained() -> None:
    fields = {
        f"{entry['resource']['resourceType']}.{name}"
        for entry in shortened()["entry"]
        for name in entry["resource"]
        if name not in ("resourceType", "identifier", "subject")
    }
    explained = set(re.findall(r"`([A-Z]\w+\.\w+)`", "\n".join(line for line in PAGE.splitlines() if line[:1] == "|")))
    assert fields <= explained, f"explain in docs/fhir-bundle.md: {sorted(fields - explained)}"
    by_setting = {"DiagnosticReport.presentedForm"}
    assert {"Bundle.entry"} | by_setting >= explained - fields, f"gone: {sorted(explained - fields)}"
