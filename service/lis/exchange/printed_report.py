"""A report as a PDF for people: the results of the messages, in the language of a person. Pure: no I/O, no clock."""

from collections.abc import Iterator, Mapping
from datetime import date, datetime, tzinfo
from typing import Final

from model.report.page import Page, Section, Table
from service.api.schemas import ClassShare
from service.config.lis import LisSettings
from service.languages import load_texts
from service.lis.domain.comparison import ClassChange, compare
from service.lis.domain.report import Cellularity, MegakaryocyteAssessment, Report
from service.lis.exchange.observations import ME_RATIO, Observation, observations
from service.lis.exchange.reference_ranges import NO_RANGES, ReferenceRanges

NONE: Final = "–"
#: Languages that write decimals with a comma, and dates as 12.08.1964.
_CONTINENTAL: Final = ("de",)


def print_report(
    report: Report,
    lis: LisSettings,
    *,
    language: str = "en",
    ranges: ReferenceRanges = NO_RANGES,
    replaced: Report | None = None,
    is_signed: bool = True,
) -> bytes:
    """The report on A4 pages. The same report gives the same bytes.

    Args:
        replaced: the signed report that a corrected one replaces.
        is_signed: false: a preview of what a signature would write. It has a watermark, as a preliminary report has.
    """
    from model.report.pdf import Sheet, render_pdf  # reportlab takes 15 MB: imported where a report is printed

    writer = _Writer(report, lis, language, ranges, is_signed and report.signed_by is not None)
    sheet = Sheet(
        head=", ".join(filter(None, (lis.hl7_performing_laboratory, lis.hl7_performing_address))),
        foot=writer.foot(),
        numbering=writer.text("print.page"),
        watermark="" if writer.is_signed else writer.text("print.not-signed"),
        unprintable=writer.text("print.script"),
        unprintable_notice=writer.text("print.script.notice"),
        language=language,
        fact_columns=2,
    )
    return render_pdf(writer.page(replaced), sheet)


class _Writer:
    """Writes the parts of one report in one language."""

    def __init__(
        self, report: Report, lis: LisSettings, language: str, ranges: ReferenceRanges, is_signed: bool
    ) -> None:
        self.report, self.is_signed = report, is_signed
        self._texts: Mapping[str, str] = load_texts(language)
        self._zone: tzinfo | None = lis.zone
        self._ranges, self._is_continental = ranges, language in _CONTINENTAL
        self._observed = {each.key: each for each in observations(report)}

    def page(self, replaced: Report | None) -> Page:
        sections = [
            Section("", tables=[self._classes()]),
            Section("", tables=[self._sums()]),
            Section(self.text("print.findings"), list(self._findings())),
            *self._comment(),
            *self._correction(replaced),
            Section(self.text("print.method"), list(self._method())),
        ]
        return Page(
            title=self.text("print.title"),
            notice=f"{self.text('research-use.short')} {self.text('research-use.long')}",
            facts=list(self._facts()),
            sections=[each for each in sections if each.paragraphs or each.tables],
            footer=self.text("count.intervals"),
        )

    def text(self, key: str, **values: object) -> str:
        """A text of the catalogue with its values."""
        found = self._texts[key]
        for name, value in values.items():
            found = found.replace(f"{{{name}}}", str(value))
        return found

    def foot(self) -> str:
        """Whose report and which version it is, for each page."""
        version = self.text("report.version", version=self.report.version)
        return " · ".join((self._patient(), self.report.number, version))

    def _facts(self) -> Iterator[tuple[str, str]]:
        report, patient = self.report, self.report.patient
        number = " ".join(filter(None, (patient.identifier, patient.authority and f"({patient.authority})")))
        born = self._day(patient.birth_date) if patient.birth_date else NONE
        sex = self.text(f"sex.{patient.sex}") if patient.sex else NONE
        order = ", ".join(filter(None, (report.order.placer_number, report.order.filler_number)))
        status = self.text(f"report.status.{report.status.value}") if self.is_signed else self.text("print.not-signed")
        yield self.text("worklist.patient"), self._patient()
        yield self.text("patient.identifier"), number
        yield self.text("patient.birth-date"), born
        yield self.text("patient.sex"), sex
        yield self.text("worklist.number"), report.number
        yield self.text("print.order"), order or NONE
        yield self.text("print.collected"), self._moment(report.collected_at) if report.collected_at else NONE
        yield self.text("report.status"), f"{status}, {self.text('report.version', version=report.version)}"
        signed_by, signed_at = (report.signed_by, self._moment(report.created_at)) if self.is_signed else (None, None)
        yield self.text("report.signed-by"), signed_by or NONE
        yield self.text("report.signed-at"), signed_at or NONE
        if report.second_reader:
            yield self.text("second-reading.by"), report.second_reader

    def _patient(self) -> str:
        patient = self.report.patient
        return ", ".join(filter(None, (patient.family, patient.given))) or patient.identifier

    def _classes(self) -> Table:
        heads = ("count.class", "count.cells", "count.percent", "count.interval", "print.range", "print.flag")
        found = self.report.differential
        total = (self.text("count.total"), str(found.counted), "", "", "", "")
        excluded = [
            (self._class(each.code, each.name), str(each.count), self.text("count.excluded"), "", "", "")
            for each in found.excluded
            if each.count
        ]
        rows = [*(self._share(share) for share in found.classes), total, *excluded]
        return Table(self.text("report.differential"), tuple(map(self.text, heads)), tuple(rows), "")

    def _share(self, share: ClassShare) -> tuple[str, ...]:
        result = self._observed[share.code]
        return (self._class(share.code, share.name), str(share.count), *self._value(result, digits=1))

    def _sums(self) -> Table:
        """Lineages and the M:E ratio."""
        heads = ("print.sum", "print.value", "count.interval", "print.range", "print.flag")
        rows = [
            (self._lineage(each.lineage), *self._value(self._observed[f"LINEAGE_{each.lineage.upper()}"], 1, " %"))
            for each in self.report.differential.lineages
            if each.count or not each.supported
        ]
        rows.append((self.text("report.me"), *self._value(self._observed[ME_RATIO], digits=2)))
        note = f"{self.text('report.me')}: {self.report.differential.me_ratio.formula}"
        return Table("", tuple(map(self.text, heads)), tuple(rows), note)

    def _value(self, result: Observation, digits: int, unit: str = "") -> tuple[str, str, str, str]:
        """Value, interval, reference range and flag of a result."""
        if result.value is None or isinstance(result.value, str):
            return self.text("report.not-measured"), "", "", ""
        has_interval = result.low is not None and result.high is not None
        interval = f"{self._number(result.low, digits)} – {self._number(result.high, digits)}" if has_interval else NONE
        found = self._ranges.reference(self.report, result)
        span = f"{self._number(found.low)} – {self._number(found.high)}" if found else ""
        flag = found.flag if found and found.flag != "N" else ""
        return f"{self._number(result.value, digits)}{unit}", interval, span, flag

    def _findings(self) -> Iterator[str]:
        report = self.report
        if report.megakaryocytes is not None:
            yield f"{self.text('report.megakaryocytes')}: {report.megakaryocytes}"
        if report.megakaryocyte_assessment:
            yield self._assessment("report.megakaryocyte-assessment", report.megakaryocyte_assessment)
        if report.cellularity:
            yield self._assessment("report.cellularity", report.cellularity)

    def _assessment(self, key: str, found: MegakaryocyteAssessment | Cellularity) -> str:
        remark = f"; {found.remark}" if found.remark else ""
        return f"{self.text(key)}: {self.text(f'grade.{found.grade}')}{remark}"

    def _comment(self) -> Iterator[Section]:
        if self.report.comment:
            yield Section(self.text("report.comment"), self.report.comment.splitlines())

    def _correction(self, replaced: Report | None) -> Iterator[Section]:
        """Why the report was corrected, and what it changes."""
        if self.report.correction is None:
            return
        tables = []
        if replaced is not None:
            changed = compare(replaced, self.report, same_specimen=True)
            rows = [self._class_change(each, replaced) for each in changed.classes if each.changed]
            rows += [(self.text(f"change.{name}"), *self._finding(name, replaced)) for name in changed.findings]
            heads = tuple(map(self.text, ("print.result", "report.before", "report.now")))
            tables = [Table(self.text("report.changes"), heads, tuple(rows), "")] if rows else []
        yield Section(self.text("report.correction"), self.report.correction.splitlines(), tables)

    def _class_change(self, change: ClassChange, replaced: Report) -> tuple[str, str, str]:
        before, now = (self._count(each, change.code) for each in (replaced, self.report))
        return self._class(change.code, change.name), before, now

    def _count(self, report: Report, code: str) -> str:
        found = report.differential
        percent = {each.code: each.percent for each in found.classes}.get(code)
        counts = {each.code: each.count for each in found.classes} | {each.code: each.count for each in found.excluded}
        count = counts.get(code, 0)
        return str(count) if percent is None else f"{count} ({self._number(percent, 1)} %)"

    def _finding(self, name: str, replaced: Report) -> tuple[str, str]:
        before, now = (self._finding_of(name, each) for each in (replaced, self.report))
        return before, now

    def _finding_of(self, name: str, report: Report) -> str:
        if name == "me_ratio":
            value = report.differential.me_ratio.value
            return NONE if value is None else self._number(value, 2)
        found = getattr(report, name)
        if isinstance(found, MegakaryocyteAssessment | Cellularity):
            return "; ".join(filter(None, (self.text(f"grade.{found.grade}"), found.remark)))
        return NONE if found is None else str(found)

    def _method(self) -> Iterator[str]:
        found = self.report.differential
        yield self.text("report.read", read=found.read_by_person, cells=found.cells)
        if found.waiting_review:
            yield self.text("print.waiting", count=found.waiting_review)
        if self.report.signed_below_target or found.to_go:
            yield self.text("print.below-target", counted=found.counted, target=found.target_cells)
        for model in self.report.models:
            yield f"{self.text('about.model')}: {model.name} {model.version}, SHA-256 {model.sha256}"

    def _class(self, code: str, name: str) -> str:
        return self._texts.get(f"class.{code}", name)

    def _lineage(self, name: str) -> str:
        return self._texts.get(f"lineage.{name}", name)

    def _number(self, value: float | None, digits: int | None = None) -> str:
        if value is None:
            return NONE
        word = f"{value:g}" if digits is None else f"{value:.{digits}f}"
        return word.replace(".", ",") if self._is_continental else word

    def _day(self, day: date) -> str:
        return f"{day:%d.%m.}{day.year}" if self._is_continental else day.isoformat()

    def _moment(self, moment: datetime) -> str:
        local = moment.astimezone(self._zone)
        return f"{self._day(local.date())} {local:%H:%M %Z}"
