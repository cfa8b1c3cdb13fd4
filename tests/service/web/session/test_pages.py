"""The sign-in pages in Chromium: two windows, a session that ends in the middle, sign-out."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from keys import entry, keys_file
from playwright.sync_api import BrowserContext, Page, sync_playwright
from serving import served

DOCTOR = "mlk_doctor"
#: Sends a change as a page's module does; the answer's status and problem.
SEND = """async (token) => {
  const {csrf_token} = await (await fetch("/session")).json();
  const answer = await fetch("/sign-out", {method: "POST", headers: {"X-CSRF-Token": token ?? csrf_token}});
  return [answer.status, (await answer.json()).type?.split(":").pop()];
}"""
#: What a page does after a 401.
RENEW = """() => {
  window.renewed = import("/static/session/session.js").then(({signInAgain}) => signInAgain({again: true}));
}"""


@pytest.fixture
def context() -> Iterator[BrowserContext]:
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    arguments = ["--no-sandbox"] if os.getuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser.new_context()
        browser.close()


@pytest.fixture(scope="module")
def url(artefact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = keys_file(tmp_path_factory.mktemp("keys"), entry(DOCTOR, "m.muster", ["specimens"], person=True))
    with served(artefact, keys_file=str(path)) as service:
        service.wait_listening()
        yield service.url


def enter_key(page: Page) -> None:
    page.get_by_label("API key").fill(DOCTOR)
    page.get_by_role("button", name="Sign in with a key").click()


def test_a_session_that_ends_in_one_window_is_renewed_in_another(context: BrowserContext, url: str) -> None:
    faults: list[str] = []
    context.on("console", lambda message: faults.append(message.text) if "Content Security" in message.text else None)
    page, other = context.new_page(), context.new_page()
    page.goto(f"{url}/sign-in?next=/sign-in")
    enter_key(page)
    page.get_by_text("Signed in as m.muster").wait_for()
    other.goto(f"{url}/sign-in")
    assert other.evaluate(SEND) == [200, None], "the other window signs out"
    assert page.evaluate(SEND) == [401, "session-expired"]
    with context.expect_page() as opened:
        page.evaluate(RENEW)
    window = opened.value
    window.get_by_text("A signature needs a recent authentication").wait_for()
    with window.expect_event("close"):
        enter_key(window)
    token = page.evaluate("window.renewed.then((session) => session.csrf_token)")
    assert page.evaluate(SEND, token) == [200, None], "the first window goes on where it was"
    assert faults == []


def test_a_person_signs_out_on_the_page(context: BrowserContext, url: str) -> None:
    page = context.new_page()
    page.goto(f"{url}/sign-in?next=/sign-in")
    enter_key(page)
    [cookie] = context.cookies()
    assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == ("marrowlens-session", True, "Lax")
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url(lambda address: "/sign-in" not in address)
    page.goto(f"{url}/sign-in")
    assert page.get_by_text("Signed in as").count() == 0 and context.cookies() == []
