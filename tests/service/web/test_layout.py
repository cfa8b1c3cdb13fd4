"""Pages at any width, in print, and with texts from right to left."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import visit
from conftest import Draw
from lab_page import LOADED, Lab, at, pictures, served_lab
from playwright.sync_api import Browser, expect

PATIENT = {"identifier": "P-77", "authority": "בית חולים", "family": "כהן", "given": "דוד", "birth_date": "1964-08-12"}


@pytest.fixture(scope="module")
def lab(artefact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with served_lab(artefact, tmp_path_factory.mktemp("lab")) as started:
        yield started


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 980, 640, 320])  # 640: 1280 at a zoom of 200 %; 320: at 400 % (WCAG 1.4.10)
def test_no_page_scrolls_sideways(browser: Browser, lab: Lab, draw: Draw, width: int) -> None:
    specimen = lab.specimen(pictures(draw, 3, 40_000 + width), order={"placer_number": "A-1234567890"})
    with at(browser, lab, "", viewport={"width": width, "height": 700}, locale="de-DE") as visited:
        page = visited.page
        for path, loaded in (
            ("lab?state=all", "#rows tr"),
            (f"lab/{specimen}", f"#review{LOADED}"),
            (f"lab/{specimen}/report", f"#report{LOADED}"),
            ("about", f"#model{LOADED}"),
            ("", "#examples"),
        ):
            page.goto(f"{lab.url}/{path}")
            page.wait_for_selector(loaded)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path


@pytest.mark.slow
def test_the_print_begins_with_the_count_and_names_the_files(browser: Browser, lab: Lab) -> None:
    with visit(browser, lab.url, viewport={"width": 1280, "height": 800}) as visited:
        page = visited.page
        page.click("#examples")
        page.wait_for_selector(f"#results{LOADED}")
        expect(page.locator(".chart text").first).to_be_visible()
        lefts = page.locator(".chart text").evaluate_all("texts => texts.map((text) => text.getBBox().x)")
        assert min(lefts) >= 0
        page.emulate_media(media="print")
        count, name = page.locator(".count").bounding_box(), page.locator(".tile-file").first.bounding_box()
        assert count is not None and name is not None
        assert count["y"] + count["height"] <= name["y"] and name["width"] > 20


@pytest.mark.slow
def test_a_name_from_right_to_left_turns_nothing_beside_it(browser: Browser, lab: Lab, draw: Draw) -> None:
    specimen = lab.specimen(pictures(draw, 2, 41_000), patient=PATIENT)
    other = {b"X-Acting-User": "ד. לוי".encode()}
    with at(browser, lab, f"lab/{specimen}") as visited:
        page = visited.page
        page.wait_for_selector(f"#review{LOADED}")
        expect(page.locator("#specimen-patient")).to_have_text("כהן, דוד")
        data = page.inner_text("#specimen-data")
        assert data.startswith("P-77 (\u2068בית חולים\u2069) · born 12 Aug 1964")
        page.set_input_files("#files", [{"name": "\u202egnp.txt", "mimeType": "text/plain", "buffer": b"no picture"}])
        expect(page.locator("#problems bdi")).to_have_text("\u202egnp.txt")
        answer = lab.http.put(f"/specimens/{specimen}/presence/{'2e' * 16}", json={"place": 1}, headers=other)
        assert answer.status_code < 300, answer.text
        expect(page.locator("#present-list")).to_have_text("\u2068ד. לוי\u2069, cell 1")
        page.goto(f"{lab.url}/lab/{specimen}/report")
        page.wait_for_selector(f"#report{LOADED}")
        expect(page.locator("#trail tr td bdi").first).to_be_visible()
        page.check("#accept_unread") if page.locator("#accept_unread").count() else None
        page.click("#preview")
        expect(page.locator("#preview-report")).to_contain_text("כהן")
