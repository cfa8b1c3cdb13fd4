"""Reports as PDF: texts in any script."""

import io
import re
import subprocess
import sys
from typing import cast

import pytest
from pypdf import PdfReader
from pypdf.generic import DictionaryObject

from model.report.page import Page, Section, Table
from model.report.pdf import Sheet, render_pdf

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


def test_every_page_has_its_number_and_the_watermark_and_the_bytes_are_the_same() -> None:
    rows = tuple((f"row {number}", "text") for number in range(120))
    page = Page("Title", "Notice", [("a", "b")], [Section("", [], [Table("", ("one", "two"), rows, "")])], "")
    sheet = Sheet(head="Laboratory", foot="Foot", numbering="{page} / {pages}", watermark="DRAFT", fact_columns=2)
    content = render_pdf(page, sheet)
    texts = [each.extract_text() for each in PdfReader(io.BytesIO(content)).pages]
    assert len(texts) > 1
    for number, text in enumerate(texts, 1):
        assert f"{number} / {len(texts)}" in text and "DRAFT" in text and "Foot" in text
    assert ["Laboratory" in text for text in texts] == [True] + [False] * (len(texts) - 1)
    assert render_pdf(page, sheet) == content


def test_it_needs_no_matplotlib() -> None:
    code = "import sys, model.report.pdf; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "name",
    [
        "כהן, דוד",
        "الأحمد, محمد",
        "ܝܘܚܢܢ",
        "सिंह, अमित",
        "สมชาย",
        "\U0001f9ec",
        "\u202egnp.x",  # a mark that turns the direction of what follows
    ],
)
def test_a_name_that_cannot_be_set_is_replaced_and_never_turned_round(name: str) -> None:
    table = Table("", ("class", name), ((name, "12"),), "")
    page = Page(
        "Title", "Research use only", [("Patient", name)], [Section("", [f"Said by {name} (P-1)"], [table])], ""
    )
    sheet = Sheet(foot=f"{name} · BM-1", unprintable="[not shown]", unprintable_notice="Look at the number.")
    text = re.sub(r"\s+", " ", PdfReader(io.BytesIO(render_pdf(page, sheet))).pages[0].extract_text())
    shown = "[not shown]gnp.x" if "gnp" in name else "[not shown]"
    assert text.count(shown) == 5
    assert f"Said by {shown} (P-1)" in text and f"{shown} · BM-1" in text
    assert "Look at the number." in text
    assert not any(letter in text for letter in name if not letter.isascii())


def test_letters_with_accents_of_their_own_are_set_as_one_and_nothing_is_said() -> None:
    page = Page("Title", "Notice", [("Patient", "Mu\u0308ller, Zoe\u0308 Łoś Ωβ 山田 −½ “”")], [], "")
    text = PdfReader(io.BytesIO(render_pdf(page))).pages[0].extract_text()
    assert "Müller, Zoë Łoś" in text
    assert "cannot" not in text
