"""Sign-in in a real browser: a session that ends in the middle of a review, signing, sign-out, accessibility."""

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from browser import Visit, visit
from keys import bearer, entry, keys_file
from playwright.sync_api import Browser, Page, expect
from serving import served

KEY, SECOND = "mlk_doctor", "mlk_second"
LOADED = "#review[aria-busy=false]"
TILE = "#gallery .tile"


@pytest.fixture(scope="module")
def url(artefact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("lab")
    settings = {
        "keys_file": str(
            keys_file(
                folder,
                entry(KEY, "m.muster", ["classify", "specimens"], person=True),
                entry(SECOND, "e.beispiel", ["specimens"], person=True),
            )
        ),
        "lis_second_reader": "true",
        "lis_review_below": "1",  # each unread cell waits
        "lis_database": f"sqlite:///{folder / 'lab.db'}",
        "lis_pictures": str(folder / "pictures"),
    }
    with served(artefact, **settings) as service:
        service.wait_listening()
        yield service.url


@pytest.fixture(scope="module")
def specimen(url: str, draw: Callable[[int], bytes]) -> str:
    """A specimen with four cells."""
    with httpx.Client(base_url=url, headers=bearer(KEY), timeout=60) as http:
        body = {"number": "BM-1", "patient": {"identifier": "P-1"}, "target_cells": 1}
        found: str = http.post("/specimens", json=body).json()["id"]
        files = [("images", (f"{at}.png", draw(at))) for at in range(4)]
        assert http.post(f"/specimens/{found}/cells", files=files).status_code == 200
    return found


def enter_key(page: Page, key: str = KEY) -> None:
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in with a key").click()


def sign_in(page: Page, url: str, path: str, key: str = KEY) -> None:
    page.goto(f"{url}/sign-in?next={path}")
    enter_key(page, key)
    page.wait_for_url(f"{url}{path}")


def end_session(visited: Visit, url: str) -> None:
    """End the session at the service. The browser keeps the cookie, as when a session was idle for too long."""
    [cookie] = visited.page.context.cookies()
    with httpx.Client(base_url=url, cookies={cookie["name"]: cookie["value"]}) as http:
        token = http.get("/session").json()["csrf_token"]
        assert http.post("/sign-out", headers={"X-CSRF-Token": token}).status_code == 200


def sign_in_in_another_window(visited: Visit, why: str) -> None:
    """Answer the dialog, and sign in in the window that opens."""
    dialog = visited.page.locator("#session-dialog")
    expect(dialog).to_contain_text(why)
    with visited.page.context.expect_page() as opened:
        dialog.get_by_role("button", name="Sign in").click()
    with opened.value.expect_event("close"):
        enter_key(opened.value)
    visited.forget_refused_requests(401)


def test_a_session_that_ends_in_a_review_loses_nothing(browser: Browser, url: str, specimen: str) -> None:
    with visit(browser, url) as visited:
        page = visited.page
        sign_in(page, url, f"/lab/{specimen}")
        page.wait_for_selector(LOADED)
        expect(page.locator("header.bar")).to_contain_text("m.muster")
        tile = page.locator(TILE).first
        now = tile.locator(".tile-class .code").inner_text().strip()
        other = "BLA" if now != "BLA" else "PMO"
        end_session(visited, url)
        tile.locator(".tile-body").click()
        page.select_option("#reason", index=1)
        page.select_option("#give", other)
        sign_in_in_another_window(visited, "Your session has ended")
        expect(tile.locator(".tile-class .code")).to_have_text(other)
        expect(tile).to_contain_text("✓ m.muster")  # shown when the service has stored the class
        expect(page.locator("#filter-only [data-count=changed]")).to_have_text("1")
        with httpx.Client(base_url=url, headers=bearer(KEY)) as http:
            cells = http.get(f"/specimens/{specimen}/cells").json()["cells"]
        assert [(cell["code"], cell["read_by"]) for cell in cells if cell["version"] > 1] == [(other, "m.muster")]
        for status in (401, 403):  # of what the page asked for in the background without a session
            visited.forget_refused_requests(status)


def test_two_people_confirm_and_sign(browser: Browser, url: str, specimen: str) -> None:
    path = f"/lab/{specimen}/report"
    with visit(browser, url) as signer, visit(browser, url) as second:
        sign_in(signer.page, url, path)
        expect(signer.page.locator("#second-reading-state")).to_contain_text("No second reader")
        sign_in(second.page, url, path, SECOND)
        second.page.get_by_role("button", name="Confirm all cells as second reader").click()
        expect(second.page.locator("#second-reading-state")).to_contain_text("Confirmed by e.beispiel")
        expect(second.page.locator("#trail")).to_contain_text("Confirmed as second reader")
        second.page.check("#accept_unread")
        second.page.click("#sign")
        expect(second.page.locator("#alert")).to_contain_text("The second reader cannot sign")
        second.forget_refused_requests(409)
        signer.page.reload()
        signer.page.check("#accept_unread")
        signer.page.click("#sign")
        expect(signer.page.locator("#sign-state")).to_have_text("Signed.")


def test_a_page_without_a_session_asks_for_one(browser: Browser, url: str, specimen: str) -> None:
    assert specimen
    with visit(browser, f"{url}/lab?state=all") as visited:
        sign_in_in_another_window(visited, "This needs a person who has signed in")
        expect(visited.page.locator("#rows")).to_contain_text("BM-1")


def test_a_person_signs_out(browser: Browser, url: str) -> None:
    with visit(browser, url) as visited:
        page = visited.page
        sign_in(page, url, "/lab")
        [cookie] = page.context.cookies()
        assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == ("marrowlens-session", True, "Lax")
        page.get_by_role("button", name="Sign out").click()
        page.wait_for_url(f"{url}/")
        expect(page.get_by_role("link", name="Sign in")).to_be_visible()
        assert page.context.cookies() == []


@pytest.mark.slow
def test_the_sign_in_page_has_no_serious_finding_and_is_translated(browser: Browser, url: str) -> None:
    with visit(browser, f"{url}/sign-in", bypass_csp=True) as visited:
        assert visited.serious_findings() == []
    with visit(browser, f"{url}/sign-in", locale="de-DE") as visited:
        expect(visited.page.locator("h1")).to_have_text("Anmelden")
        visited.page.get_by_label("API-Schlüssel").fill("mlk_wrong")
        visited.page.get_by_role("button", name="Mit Schlüssel anmelden").click()
        expect(visited.page.get_by_role("alert")).to_contain_text("Unknown, expired or revoked API key")
        visited.forget_refused_requests(401)
