"""A report as a PDF: the content of the HTML report on A4 pages; the same bytes for the same content.

reportlab (BSD) sets the pages: pure Python, where programs that print HTML need system libraries or a browser. The
font is DejaVu Sans, in `fonts/` and embedded: it has the letters of Europe and many others. Letters of East Asia name a
standard font of the PDF format (ISO 32000-1, 9.7.5.2, Adobe's character collections), which the reader's program has.
Letters that no font has, and scripts from right to left, which reportlab would set in the wrong order and without their
joined forms, are replaced by words that say so, and a notice is added.
"""

import io
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import hypot
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from PIL import Image as Picture
from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import inch, mm
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.pdfbase.pdfmetrics import registerFont, registerFontFamily
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import Flowable, Image, KeepTogether, Paragraph, SimpleDocTemplate, Spacer
from reportlab.platypus import Table as Grid

from model.report.page import DPI, EmbeddedImage, Page, Section, Table
from model.report.scripts import composed, map_texts, replace_unprintable

MARGIN = 16 * mm
WIDTH = A4[0] - 2 * MARGIN
#: Small images in a row.
SMALL_COLUMNS = 6
#: In a table: a longer word is broken, and a longer text cut off, so that a row fits on a page.
LONGEST_WORD, LONGEST_CELL = 40, 300
#: Characters of a text that is kept on one line if there is room.
UNWRAPPED = 34
#: Width of a character and of a bold one, and padding of a cell, in points.
LETTER, BOLD_LETTER, PADDING = 4.25, 5.0, 6.0

_FONTS = Path(__file__).with_name("fonts")
_FONT, _BOLD = "DejaVuSans", "DejaVuSans-Bold"
_HAN = "\u3000-\u303f\u3400-\u9fff\uf900-\ufaff\uff00-\uffef"
#: Font of the PDF format, by the letters that it has; the first that matches. Han beside kana is Japanese.
_EAST_ASIAN = {
    "HYSMyeongJo-Medium": "[\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]+",
    "HeiseiMin-W3": f"[{_HAN}]*[\u3040-\u30ff][\u3040-\u30ff{_HAN}]*",
    "STSong-Light": f"[{_HAN}]+",
}
_EAST_ASIAN_RUNS = re.compile("|".join(f"({letters})" for letters in _EAST_ASIAN.values()))
_TEXT = ParagraphStyle("text", fontName=_FONT, fontSize=9, leading=12.5, spaceAfter=4)
_CELL = ParagraphStyle("cell", parent=_TEXT, fontSize=6.8, leading=8.8, spaceAfter=0)
_SMALL = ParagraphStyle("small", parent=_CELL, rightIndent=6)
_HEAD = ParagraphStyle("head", parent=_CELL, fontName=_BOLD)
_NOTE = ParagraphStyle(
    "note", parent=_TEXT, fontSize=7.5, leading=10, spaceBefore=3, textColor=colors.HexColor("#555555")
)
_FOOTER = ParagraphStyle("footer", parent=_TEXT, fontSize=7, leading=7, spaceAfter=0)
_TITLE = ParagraphStyle("title", parent=_TEXT, fontName=_BOLD, fontSize=17, leading=21, spaceAfter=8)
_SECTION = ParagraphStyle(
    "section", parent=_TEXT, fontName=_BOLD, fontSize=13, leading=17, spaceBefore=14, spaceAfter=5, keepWithNext=1
)
_CAPTION = ParagraphStyle("caption", parent=_TEXT, fontName=_BOLD, spaceBefore=6, spaceAfter=2, keepWithNext=1)
_NOTICE = ParagraphStyle(
    "notice", parent=_TEXT, fontName=_BOLD, backColor=colors.HexColor("#fff3d6"), borderPadding=5, spaceAfter=10
)
_LINES = [
    ("LINEBELOW", (0, 0), (-1, -1), 0.4, colors.HexColor("#cccccc")),
    ("VALIGN", (0, 0), (-1, -1), "TOP"),
    ("LEFTPADDING", (0, 0), (-1, -1), 0),
    ("RIGHTPADDING", (0, 0), (-1, -1), 5),
    ("TOPPADDING", (0, 0), (-1, -1), 2),
    ("BOTTOMPADDING", (0, 0), (-1, -1), 2),
]


@dataclass(frozen=True, slots=True)
class Sheet:
    """What is on every page, and how the first one begins.

    `head` is above the title, `foot` replaces the title at the foot. `numbering` has the places {page} and {pages}.
    `unprintable` replaces letters that cannot be set; then `unprintable_notice` is above the content.
    """

    head: str = ""
    foot: str = ""
    numbering: str = "page {page} of {pages}"
    watermark: str = ""
    unprintable: str = "[cannot be shown]"
    unprintable_notice: str = "This PDF cannot show the letters of some texts."
    language: str = "en"
    fact_columns: int = 1


def render_pdf(page: Page, sheet: Sheet = Sheet()) -> bytes:  # immutable
    """The page as a PDF, A4."""
    page, sheet = _printable(page, sheet)
    out = io.BytesIO()
    template = SimpleDocTemplate(
        out,
        pagesize=A4,
        leftMargin=MARGIN,
        rightMargin=MARGIN,
        topMargin=MARGIN,
        bottomMargin=MARGIN,
        title=page.title,
        lang=sheet.language,
        invariant=1,
    )

    def furnish(canvas: Canvas, _: SimpleDocTemplate) -> None:
        if sheet.watermark:
            _draw_watermark(canvas, sheet.watermark)
        foot = _paragraph(sheet.foot or page.title, _FOOTER)
        foot.wrapOn(canvas, WIDTH * 0.8, A4[1])
        foot.drawOn(canvas, MARGIN, 9 * mm)

    with _LOCK:
        _fonts()
        template.build(
            list(_flowables(page, sheet)),
            onFirstPage=furnish,
            onLaterPages=furnish,
            canvasmaker=_numbered(sheet.numbering),
        )
    return out.getvalue()


def _numbered(numbering: str) -> type[Canvas]:
    """A canvas that writes the page numbers at the end, when their total is known."""

    class Numbered(Canvas):  # type: ignore[misc]  # reportlab has no types
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.pages: list[dict[str, Any]] = []

        def showPage(self) -> None:  # reportlab's name
            self.pages.append(dict(self.__dict__))
            self._startPage()

        def save(self) -> None:
            for number, drawn in enumerate(self.pages, 1):
                self.__dict__.update(drawn)
                self.setFont(_FONT, 7)
                words = numbering.format(page=number, pages=len(self.pages))
                self.drawRightString(A4[0] - MARGIN, 9 * mm, words)
                super().showPage()
            super().save()

    return Numbered


#: reportlab registers fonts for the whole process.
_LOCK = threading.Lock()


@cache
def _fonts() -> tuple[TTFont, TTFont]:
    """The embedded fonts, once all are registered."""
    embedded = TTFont(_FONT, str(_FONTS / f"{_FONT}.ttf")), TTFont(_BOLD, str(_FONTS / f"{_BOLD}.ttf"))
    for font in (*embedded, *map(UnicodeCIDFont, _EAST_ASIAN)):
        registerFont(font)
    registerFontFamily(_FONT, normal=_FONT, bold=_BOLD, italic=_FONT, boldItalic=_BOLD)
    return embedded


def _printable(page: Page, sheet: Sheet) -> tuple[Page, Sheet]:
    """Page and sheet with words in place of letters that no font has or that are written from right to left."""
    with _LOCK:
        glyphs = [font.face.charToGlyph for font in _fonts()]

    def has_glyph(letter: str) -> bool:
        return all(ord(letter) in found for found in glyphs) or _EAST_ASIAN_RUNS.match(letter) is not None

    wanted = map_texts((page, sheet), composed)
    shown, around = map_texts(wanted, lambda text: replace_unprintable(text, has_glyph, sheet.unprintable))
    if (shown, around) != wanted:
        shown = replace(shown, notice=f"{shown.notice} {sheet.unprintable_notice}")
    return shown, around


def _draw_watermark(canvas: Canvas, words: str) -> None:
    canvas.saveState()
    canvas.setFont(_BOLD, min(64, 64 * 0.8 * hypot(*A4) / canvas.stringWidth(words, _BOLD, 64)))
    canvas.setFillColor(colors.HexColor("#e4e4e4"))
    canvas.translate(A4[0] / 2, A4[1] / 2)
    canvas.rotate(45)
    canvas.drawCentredString(0, 0, words)
    canvas.restoreState()


def _paragraph(text: str, look: ParagraphStyle = _TEXT) -> Paragraph:
    return Paragraph(_markup(text), look)


def _markup(text: str) -> str:
    """The text in reportlab's markup, with a font that has its letters."""
    fonts = list(_EAST_ASIAN)

    def with_font(run: re.Match[str]) -> str:
        assert run.lastindex
        return f'<font name="{fonts[run.lastindex - 1]}">{run[0]}</font>'

    return _EAST_ASIAN_RUNS.sub(with_font, escape(text))


def _cell(text: str, look: ParagraphStyle) -> Paragraph:
    return _paragraph(text if len(text) <= LONGEST_CELL else f"{text[:LONGEST_CELL]}…", look)


def _flowables(page: Page, sheet: Sheet) -> Iterator[Flowable]:
    if sheet.head:
        yield _paragraph(sheet.head, _NOTE)
    yield _paragraph(page.title, _TITLE)
    yield _paragraph(page.notice, _NOTICE)
    if page.facts:
        yield _facts(page.facts, sheet.fact_columns)
    for section in page.sections:
        yield from _section(section)
    if page.footer:
        yield Spacer(1, 8)
        yield _paragraph(page.footer, _NOTE)


def _facts(facts: Sequence[tuple[str, str]], columns: int) -> Grid:
    """Names and texts, read down one column after the other."""
    height = -(-len(facts) // columns)
    cells = [[_cell(name, _HEAD), _cell(text, _CELL)] for name, text in facts]
    cells += [["", ""]] * (height * columns - len(cells))
    rows = [[cell for column in range(columns) for cell in cells[column * height + row]] for row in range(height)]
    name_share = 0.25 if columns == 1 else 0.35
    widths = [WIDTH / columns * share for _ in range(columns) for share in (name_share, 1 - name_share)]
    return Grid(rows, colWidths=widths, style=_LINES, hAlign="LEFT")


def _section(section: Section) -> Iterator[Flowable]:
    if section.title:
        yield _paragraph(section.title, _SECTION)
    for text in section.paragraphs:
        yield _paragraph(text)
    for table in section.tables:
        yield _paragraph(table.title, _CAPTION) if table.title else Spacer(1, 8)
        yield _grid(table)
        if table.note:
            yield _paragraph(table.note, _NOTE)
    for image in section.images:
        if not image.small:
            yield KeepTogether([Spacer(1, 4), _image(image), _paragraph(image.caption, _NOTE)])
    yield from _small([image for image in section.images if image.small])


def _grid(table: Table) -> Grid:
    """A table: no word is broken if there is room, and the rest of the width goes to long texts."""
    rows = [table.header, *table.rows]
    columns = range(len(table.header))
    least = [
        max(BOLD_LETTER * _longest_word(table.header[at]), *(LETTER * _longest_word(row[at]) for row in rows)) + PADDING
        for at in columns
    ]
    wanted = [max(LETTER * min(len(row[at]), UNWRAPPED) for row in rows) + PADDING for at in columns]
    more = [max(0.0, wide - narrow) for wide, narrow in zip(wanted, least, strict=True)]
    room = max(0.0, WIDTH - sum(least))
    factor = min(1.0, room / sum(more)) if sum(more) else 0.0
    widths = [narrow + factor * each for narrow, each in zip(least, more, strict=True)]
    if (total := sum(widths)) > WIDTH:
        widths = [width * WIDTH / total for width in widths]
    texts = [[_cell(cell, _CELL if number else _HEAD) for cell in row] for number, row in enumerate(rows)]
    return Grid(texts, colWidths=widths, style=_LINES, repeatRows=1, hAlign="LEFT")


def _longest_word(text: str) -> int:
    return min(max(map(len, text.split()), default=1), LONGEST_WORD)


def _image(image: EmbeddedImage, width: float = WIDTH) -> Image:
    """The image at its natural size, and never wider than this."""
    columns, rows = Picture.open(io.BytesIO(image.data)).size
    drawn = min(width, columns / DPI * inch)
    return Image(io.BytesIO(image.data), drawn, drawn * rows / columns)


def _small(images: list[EmbeddedImage]) -> Iterator[Flowable]:
    width = WIDTH / SMALL_COLUMNS
    for start in range(0, len(images), SMALL_COLUMNS):
        row = images[start : start + SMALL_COLUMNS]
        cells = [[_image(image, width - 8), _paragraph(image.caption, _SMALL)] for image in row]
        yield Grid([cells], colWidths=[width] * len(row), style=_LINES[1:], hAlign="LEFT")
