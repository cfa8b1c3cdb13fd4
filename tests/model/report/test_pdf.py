"""Reports as PDF: texts in any script."""

import io
from typing import cast

from pypdf import PdfReader
from pypdf.generic import DictionaryObject

from model.report.page import Page, Section, Table
from model.report.pdf import render_pdf

JAPANESE, CHINESE, KOREAN = "顆粒球をもつ骨髄の細胞", "骨髓细胞 <分类> & 报告", "골수 세포"


def test_letters_of_east_asia_have_a_font_and_stay_text() -> None:
    table = Table("Readers", ("reader", "note"), (("Müller", JAPANESE), ("Łoś Ωβ", KOREAN)), "")
    page = Page(CHINESE, "Research use only", [("laboratory", KOREAN)], [Section(JAPANESE, [CHINESE], [table])], "")
    (sheet,) = PdfReader(io.BytesIO(render_pdf(page))).pages
    text = sheet.extract_text().replace("\n", "")
    assert text.count(CHINESE) == 3  # title, paragraph, foot of the page
    assert text.count(JAPANESE) == 2
    assert text.count(KOREAN) == 2
    assert "Müller" in text and "Łoś Ωβ" in text
    fonts = cast(DictionaryObject, cast(DictionaryObject, sheet["/Resources"])["/Font"])
    names = {cast(DictionaryObject, font.get_object())["/BaseFont"] for font in fonts.values()}
    assert {"/STSong-Light", "/HeiseiMin-W3", "/HYSMyeongJo-Medium"} <= names
