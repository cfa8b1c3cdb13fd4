"""Two people at one specimen, in two browsers: nothing is overwritten unseen."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import xss_texts
from conftest import Draw
from lab_page import (
    LOADED,
    TILE,
    WHO,
    Lab,
    at,
    key_of,
    pictures,
    served_lab,
)
from playwright.sync_api import Browser, Locator, Page, Route, expect


@pytest.fixture(scope="module")
def lab(artefact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with served_lab(artefact, tmp_path_factory.mktemp("lab")) as started:
        yield started


def test_two_people_read_one_specimen_and_nobody_overwrites(browser: Browser, lab: Lab, draw: Draw) -> None:
    specimen = lab.specimen(pictures(draw, 4, 100))
    mine, theirs = _other_codes(lab, specimen)
    with at(browser, lab, f"lab/{specimen}") as visited:
        page = visited.page
        _stop_clock(page)  # the page does not see the other person's readings before the own ones are sent
        page.select_option("#sort", "added")
        page.select_option("#reason", index=1)
        for place in (1, 2, 4):
            lab.read(specimen, place, theirs)
        _select(page, 1, 2, 3)  # cells 1 and 2 are read by both, cell 3 by one
        page.keyboard.press(key_of(page, mine))
        rows = page.locator("#merge-list li")
        expect(rows).to_have_count(2)
        expect(rows.first).to_contain_text("read by m.muster")
        rows.first.locator("input[value=own]").check()
        rows.last.locator("input[value=other]").check()
        page.click("#merge-dialog button")
        for place, code in ((1, mine), (2, theirs), (3, mine)):
            expect(_tile(page, place).locator(".tile-class .code")).to_have_text(code)
        page.clock.resume()
        lab.read(specimen, 2, mine)
        expect(_tile(page, 2)).to_contain_text(mine)  # seen without an action
        visited.forget_refused_requests(409)
    readings = lab.http.get(f"/specimens/{specimen}/cells/1").json()["readings"]
    assert [(each["by"], each["to_code"]) for each in readings] == [("m.muster", theirs), (WHO, mine)]
    assert [each["code"] for each in lab.cells(specimen)] == [mine, mine, mine, theirs]


def test_a_reading_is_kept_where_another_browser_changes_or_removes_the_cell(
    browser: Browser, lab: Lab, draw: Draw
) -> None:
    specimen = lab.specimen(pictures(draw, 3, 150))
    before = [each["code"] for each in lab.cells(specimen)]
    theirs, _ = _other_codes(lab, specimen)
    with at(browser, lab, f"lab/{specimen}") as own, at(browser, lab, f"lab/{specimen}", who="m.muster") as other:
        _stop_clock(own.page)
        for page in (own.page, other.page):
            page.wait_for_selector(f"#review{LOADED}")
        _change_and_remove(other.page, theirs)
        own.page.keyboard.press("Control+a")
        own.page.keyboard.press("Control+Enter")  # cell 1 has another class meanwhile, and cell 3 is removed
        _choose_own(own.page)
        expect(own.page.locator("#alert")).to_contain_text("removed cells that you have read: 3")
        expect(own.page.locator(TILE)).to_have_count(2)
        for page in (own.page, other.page):
            for place in (1, 2):
                expect(_tile(page, place)).to_contain_text(f"✓ {WHO}")
        lab.remove(specimen, 2)
        own.page.keyboard.press("Control+a")
        own.page.keyboard.press("Control+Enter")
        expect(own.page.locator("#alert")).to_contain_text("removed cells that you have read: 2")
        expect(own.page.locator(TILE)).to_have_count(1)
        own.forget_refused_requests(409)
        own.forget_refused_requests(404)
    assert [each["code"] for each in lab.cells(specimen)] == before[:1]
    readings = lab.http.get(f"/specimens/{specimen}/cells/1").json()["readings"]
    assert [each["by"] for each in readings] == ["m.muster", WHO, WHO]


def test_a_reading_that_waits_is_of_what_the_person_saw(browser: Browser, lab: Lab, draw: Draw) -> None:
    """The first reading's refusal shows the page both changes of the other person; the person has seen neither."""
    specimen = lab.specimen(pictures(draw, 2, 170))
    before = lab.cells(specimen)[0]["code"]
    theirs, _ = _other_codes(lab, specimen)
    with at(browser, lab, f"lab/{specimen}") as visited:
        page = visited.page
        _stop_clock(page)
        for place in (1, 2):
            lab.read(specimen, place, theirs)
        held: list[Route] = []
        page.route("**/readings", lambda route: held.append(route), times=1)
        for place in (1, 2):
            _tile(page, place).locator(".tile-body").click()
            page.keyboard.press("Control+Enter")
        held[0].continue_()
        for place, whose in ((1, "own"), (2, "other")):
            expect(page.locator("#merge-list legend")).to_have_text(f"Cell {place}")
            page.check(f"#merge-list input[value={whose}]")
            page.click("#merge-dialog button")
        expect(_tile(page, 1)).to_contain_text(f"✓ {WHO}")
        expect(_tile(page, 2)).to_contain_text("✓ m.muster")
        visited.forget_refused_requests(409)
    assert [each["code"] for each in lab.cells(specimen)] == [before, theirs]


@pytest.mark.slow
def test_people_see_who_else_is_there_and_what_they_look_at(browser: Browser, lab: Lab, draw: Draw) -> None:
    specimen, name = lab.specimen(pictures(draw, 3, 190)), xss_texts()[1]
    with at(browser, lab, f"lab/{specimen}") as own, at(browser, lab, f"lab/{specimen}", who=name) as other:
        present = own.page.locator("#present")
        for page in (own.page, other.page):
            _stop_clock(page)
        _tile(other.page, 3).locator(".tile-body").click()
        _poll(other.page, own.page, other.page)
        expect(present.locator("li")).to_have_text(f"{name}, cell 3")
        expect(_tile(own.page, 3).locator(".tile-people")).to_have_text(f"{name} here")
        expect(other.page.locator("#present li")).to_have_text(WHO)
        other.page.keyboard.press("Enter")
        other.page.wait_for_selector('#detail-caption[data-map="evidence"]')
        other.page.keyboard.press("ArrowLeft")
        seen = other.page.inner_text("#detail-name").split()[1]
        _poll(other.page, own.page)
        expect(present.locator("li")).to_have_text(f"{name}, cell {seen}")
        other.page.goto(f"{lab.url}/lab")
        _poll(own.page)
        expect(present).to_be_hidden()
        expect(own.page.locator(".tile-people:visible")).to_have_count(0)


def _poll(*pages: Page) -> None:
    """Let the pages ask the service, one after the other."""
    for page in pages:
        with page.expect_response("**/revision"):
            page.clock.fast_forward(2000)


def _change_and_remove(page: Page, code: str) -> None:
    """Give cell 1 another class, and remove cell 3, by keys."""
    page.select_option("#reason", index=1)
    _tile(page, 1).locator(".tile-body").click()
    page.keyboard.press(key_of(page, code))
    expect(_tile(page, 1)).to_contain_text("✓ m.muster")
    _tile(page, 3).locator(".tile-body").click()
    page.keyboard.press("Delete")
    page.click("#remove-do")
    expect(page.locator("#remove-dialog")).to_be_visible()  # a reason is needed
    page.click("#remove-reasons button >> nth=0")
    page.keyboard.press("Enter")
    expect(page.locator(TILE)).to_have_count(2)


def _choose_own(page: Page) -> None:
    """In the dialogue of two readings: keys that were meant for the gallery choose nothing."""
    expect(page.locator("#merge-dialog")).to_be_visible()
    for key in ("Control+Enter", "Enter", "Escape", "Escape", "b"):
        page.keyboard.press(key)
    expect(page.locator("#merge-dialog")).to_be_visible()
    expect(page.locator("#merge-list input:checked")).to_have_count(0)
    page.check("#merge-list input[value=own]")
    page.keyboard.press("Enter")


def _other_codes(lab: Lab, specimen: str) -> list[str]:
    """Two classes that no cell of the specimen has."""
    present = {each["code"] for each in lab.cells(specimen)}
    return [code for code in ("BLA", "PMO", "MON", "MYB", "EOS", "LYT", "NGS") if code not in present][:2]


def _stop_clock(page: Page) -> None:
    page.clock.install()
    page.reload()
    page.wait_for_selector(f"#review{LOADED}")
    page.clock.pause_at(time.time() + 1)


def _tile(page: Page, place: int) -> Locator:
    return page.locator(f'{TILE}[data-place="{place}"]')


def _select(page: Page, *places: int) -> None:
    for place in places:
        _tile(page, place).locator(".tile-body").click(modifiers=["Control"])
