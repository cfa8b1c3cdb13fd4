"""What a person has done is kept when the page is left, the connection is lost, or a button is clicked twice."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import visit
from conftest import Draw
from lab_page import LOADED, TILE, Lab, at, pictures, served_lab
from playwright.sync_api import Browser, Route, expect
from serving import served, zipped

from service.web.pages import STATIC


@pytest.fixture(scope="module")
def lab(artefact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with served_lab(artefact, tmp_path_factory.mktemp("lab")) as started:
        yield started


def hold(route: Route) -> None:
    """Keep a request back until the route ends."""


@pytest.mark.slow
def test_readings_on_their_way_are_stored_before_a_link_is_followed(browser: Browser, lab: Lab, draw: Draw) -> None:
    specimen = lab.specimen(pictures(draw, 4, 20_000))
    with at(browser, lab, f"lab/{specimen}") as visited:
        page = visited.page
        page.wait_for_selector(f"#review{LOADED}")
        page.route("**/readings", hold)
        page.locator(f"{TILE} .tile-body").first.focus()
        for _ in range(4):
            page.keyboard.press("Control+Enter")
        expect(page.locator("#filter-only [data-count=all]")).to_have_text("4")
        page.click(".tabs a:last-child")
        page.unroute("**/readings")
        page.wait_for_selector(f"#report{LOADED}")
    assert [cell["read_by"] for cell in lab.cells(specimen)] == ["Dr. A. Beispiel"] * 4


@pytest.mark.slow
def test_a_comment_being_written_is_not_lost_by_going_back(browser: Browser, lab: Lab, draw: Draw) -> None:
    specimen = lab.specimen(pictures(draw, 2, 20_100))
    with at(browser, lab, f"lab/{specimen}/report") as visited:
        page = visited.page
        page.wait_for_selector(f"#report{LOADED}")
        page.click("#comment")
        page.keyboard.type("Important.")
        page.evaluate("history.back()")
        expect(page.locator("#comment")).to_have_value("Important.")
        assert visited.faults == ["dialog: "]  # the browser has asked, and the person stays
        visited.faults.clear()
        page.click(".tabs a:first-child")  # a link stores it first
        page.wait_for_selector(f"#review{LOADED}")
    assert lab.http.get(f"/specimens/{specimen}").json()["comment"] == "Important."


@pytest.mark.slow
def test_a_double_click_signs_once_and_says_nothing_else(browser: Browser, lab: Lab, draw: Draw) -> None:
    specimen = lab.specimen(pictures(draw, 2, 20_200))
    with at(browser, lab, f"lab/{specimen}/report") as visited:
        page = visited.page
        page.wait_for_selector(f"#report{LOADED}")
        if page.locator("#accept_unread").count():
            page.check("#accept_unread")
        page.dblclick("#sign")
        expect(page.locator("#sign-state")).to_have_text("Signed.")
        expect(page.locator("#versions > li")).to_have_count(1)
        expect(page.locator("#alert")).to_be_hidden()
        page.fill("#amend-reason", "again")
        page.dblclick("#amend-form button")
        expect(page.locator("#sign-state")).to_contain_text("again")
        expect(page.locator("#alert")).to_be_hidden()


@pytest.mark.slow
def test_a_service_that_ends_in_the_middle_is_said_and_nothing_waits(browser: Browser, artefact: Path) -> None:
    picture = min((STATIC / "examples").glob("*.jpg"), key=lambda path: path.stat().st_size).read_bytes()
    archive = zipped([(f"{n}.jpg", picture) for n in range(600)])
    with served(artefact, through=["env"]) as service:  # a process of its own, so that its end closes the port
        service.wait_listening()
        with visit(browser, service.url) as visited:
            page = visited.page
            page.set_input_files("#files", [{"name": "cells.zip", "mimeType": "application/zip", "buffer": archive}])
            page.wait_for_selector(".tile > button")
            service.process.kill()
            page.wait_for_selector("#results[aria-busy=false]")
            expect(page.locator("#alert")).to_contain_text("cannot be reached")
            expect(page.locator(".tile-wait")).to_have_count(0)
            assert all("net::ERR_" in fault for fault in visited.faults), visited.faults
            visited.faults.clear()
