"""What a reader writes in the report: assessments, a comment from templates; PDF; the report before beside the new."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import xss_texts
from conftest import Draw
from lab_page import LOADED, Lab, at, pictures, press_until_focused, served_lab
from pdf_text import pages
from playwright.sync_api import Browser, Page, expect


@pytest.fixture(scope="module")
def lab(artefact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with served_lab(artefact, tmp_path_factory.mktemp("lab")) as started:
        yield started


def printed(page: Page, button: str) -> str:
    """The text of the PDF that a button saves."""
    with page.expect_download() as saved:
        page.click(button)
    return " ".join(pages(Path(saved.value.path()).read_bytes()))


def test_findings_are_written_signed_printed_and_amended(browser: Browser, lab: Lab, draw: Draw) -> None:
    specimen = lab.specimen(pictures(draw, 3, 9000))
    with at(browser, lab, f"lab/{specimen}/report") as visited:
        page = visited.page
        page.wait_for_selector(f"#report{LOADED}")
        expect(page.locator("#cellularity-remark")).to_be_disabled()
        page.fill("#megakaryocytes", "7")
        page.select_option("#megakaryocyte_assessment-grade", "reduced")
        page.fill("#megakaryocyte_assessment-remark", "small forms")
        page.select_option("#cellularity-grade", "increased")
        page.fill("#comment", "Mine.")
        page.select_option("#template", "Counted")
        page.click("#template-insert")
        expect(page.locator("#comment")).to_have_value("Mine.\n3 cells counted, 7 megakaryocytes.")
        page.keyboard.type(" Edited.")
        page.check("#accept_unread")
        page.click("#preview")  # what is typed is stored first
        expect(page.locator("#preview-report")).to_contain_text("7 megakaryocytes. Edited.")
        expect(page.locator("#preview-report")).to_contain_text("reduced; small forms")
        assert "NOT SIGNED" in printed(page, "#preview-pdf")
        page.click("#preview-close")
        page.click("#sign")
        expect(page.locator("#sign-state")).to_have_text("Signed.")
        expect(page.locator("#versions > li").first).to_contain_text("Delivered")
        expect(page.locator("#trail")).to_contain_text("assessment of the megakaryocytes")
        expect(page.locator("#trail")).to_contain_text("Signed version 1")
        text = printed(page, "#versions button")
        assert "Cellularity: increased" in text and "Mine. 3 cells counted" in text and "NOT SIGNED" not in text
        page.fill("#amend-reason", "looked again")
        page.click("#amend-form button")
        expect(page.locator("#comment")).to_have_value("Mine.\n3 cells counted, 7 megakaryocytes. Edited.")
        expect(page.locator("#previous-none")).to_be_visible()
        page.select_option("#cellularity-grade", "normal")
        row = page.locator("#previous-rows tr.is-changed")
        expect(row).to_contain_text("Cellularity")
        expect(row).to_contain_text("changed")
        expect(row.locator("td").nth(0)).to_have_text("increased")
        page.check("#accept_unread")
        page.click("#sign")
        expect(page.locator("#sign-state")).to_have_text("Signed.")
    sent = lab.receiver.received()[-1]["raw"]
    assert "|CELLULARITY^" in sent and "|normal|" in sent and "|reduced|" in sent


@pytest.mark.slow
def test_two_people_write_and_nobody_overwrites(browser: Browser, lab: Lab, draw: Draw) -> None:
    specimen = lab.specimen(pictures(draw, 2, 9100))
    with at(browser, lab, f"lab/{specimen}/report") as visited:
        page = visited.page
        page.wait_for_selector(f"#report{LOADED}")
        page.fill("#comment", "Mine.")
        body = {"revision": 2, "cellularity": {"grade": "reduced"}, "comment": "Theirs."}
        assert lab.http.patch(f"/specimens/{specimen}", json=body).status_code == 200
        expect(page.locator("#cellularity-grade")).to_have_value("reduced")  # of the other person, shown
        expect(page.locator("#comment")).to_have_value("Mine.")  # being written, kept
        page.check("#accept_unread")
        page.click("#sign")
        expect(page.locator("#sign-state")).to_have_text("Signed.")
    assert lab.http.get(f"/specimens/{specimen}/reports/1").json()["comment"] == "Mine."


@pytest.mark.slow
def test_the_patients_report_before_is_beside_the_new_one(browser: Browser, lab: Lab, draw: Draw) -> None:
    patient = {"identifier": "TWICE", "family": "Muster"}
    first = lab.specimen(pictures(draw, 2, 9200), number="FIRST", patient=patient)
    body = {"revision": 2, "accept_unread": True}
    assert lab.http.post(f"/specimens/{first}/sign", json=body).status_code == 200
    second = lab.specimen(pictures(draw, 3, 9210), patient=patient)
    with at(browser, lab, f"lab/{second}/report", locale="de-DE") as visited:
        page = visited.page
        page.wait_for_selector(f"#report{LOADED}")
        expect(page.locator("#previous-title")).to_contain_text("Verglichen mit dem Bericht derselben Person")
        expect(page.locator("#previous-specimen")).to_have_text("Probe FIRST")
        expect(page.locator("#previous-rows")).to_contain_text("M:E")


@pytest.mark.slow
def test_findings_with_markup_appear_as_text_and_are_written_with_the_keyboard(
    browser: Browser, lab: Lab, draw: Draw
) -> None:
    words = xss_texts()
    specimen = lab.specimen(pictures(draw, 2, 9300))  # none waits for review
    with at(browser, lab, f"lab/{specimen}/report") as visited:
        page = visited.page
        page.wait_for_selector(f"#report{LOADED}")
        press_until_focused(page, "#cellularity-grade")
        page.keyboard.type("reduced")
        page.keyboard.press("Tab")
        page.keyboard.type(words[0])
        press_until_focused(page, "#template")
        page.keyboard.type("<b>")  # the template of this name
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(page.locator("#comment")).to_have_value("Normal marrow.")
        page.keyboard.type(words[1])
        press_until_focused(page, "#preview")
        page.keyboard.press("Enter")
        for each in (f"reduced; {words[0]}", words[1]):
            expect(page.locator("#preview-report")).to_contain_text(each)
        assert words[1] in printed(page, "#preview-pdf")


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_axe_finds_nothing_serious_beside_a_report_before(
    browser: Browser, lab: Lab, draw: Draw, scheme: str, width: int
) -> None:
    specimen = lab.specimen(pictures(draw, 2, 9400 + width))
    body = {"revision": 2, "accept_unread": True}
    assert lab.http.post(f"/specimens/{specimen}/sign", json=body).status_code == 200
    assert lab.http.post(f"/specimens/{specimen}/amend", json={"revision": 3, "reason": "again"}).status_code == 200
    body = {"revision": 4, "cellularity": {"grade": "normal"}}
    assert lab.http.patch(f"/specimens/{specimen}", json=body).status_code == 200
    options = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}, "bypass_csp": True}
    with at(browser, lab, f"lab/{specimen}/report", **options) as visited:
        visited.page.wait_for_selector(f"#report{LOADED}")
        expect(visited.page.locator("#previous-rows tr.is-changed")).to_have_count(1)
        assert visited.serious_findings() == []
