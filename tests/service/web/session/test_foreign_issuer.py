"""Sign-in at a certified issuer that nobody here wrote: oidc-provider, by its own pages."""

import html
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx
import pytest
from checkout import PEERS
from serving import client, refused
from session_client import Browser
from starlette.testclient import TestClient

from stress.laboratory.cast import NODE

CALLBACK = "http://localhost/sign-in/callback"


@pytest.fixture(scope="module")
def issuer_url() -> Iterator[str]:
    assert (PEERS / "node_modules").is_dir(), "npm ci --prefix tests/peers"
    command = [str(NODE), str(PEERS / "oidc-issuer.mjs"), CALLBACK]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            listening, port = process.stdout.readline().split()
            assert listening == "listening"
            yield f"http://localhost:{port}"
        finally:
            process.kill()


@pytest.fixture(scope="module")
def service(artefact: Path, issuer_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    settings = {
        "oidc_issuer": issuer_url,
        "oidc_audience": "marrowlens",
        "oidc_client_id": "marrowlens-browser",
        "oidc_client_secret": "s3cret",
        "oidc_roles": "lab-doctor=review+sign",
        "public_url": "http://localhost",
        "lis": {"database": f"sqlite:///{tmp_path_factory.mktemp('lab') / 'lab.db'}"},
    }
    with client(artefact, **settings) as started:
        yield started


@pytest.fixture
def browser(service: TestClient) -> Browser:
    service.cookies.clear()
    return Browser(service)


def through_its_pages(web: httpx.Client, address: str) -> tuple[str, list[str]]:
    """Fill in the issuer's forms; its answer to the callback, and what it asked for: login, consent."""
    asked: list[str] = []
    answer = web.get(address)
    for _ in range(10):
        if answer.is_redirect:
            address = urljoin(str(answer.url), answer.headers["location"])
            if address.startswith(CALLBACK):
                back = urlsplit(address)
                return f"{back.path}?{back.query}", asked
            answer = web.get(address)
            continue
        [action] = re.findall('<form[^>]* action="([^"]+)"', answer.text)
        [prompt] = re.findall('name="prompt" value="([^"]+)"', answer.text)
        asked.append(prompt)
        form = {"prompt": prompt, "login": "m.muster", "password": "any"}
        answer = web.post(html.unescape(action), data=form)
    raise AssertionError(answer.text)


def test_a_person_signs_in_again_to_sign_and_signs_out(browser: Browser, issuer_url: str) -> None:
    with httpx.Client() as web:
        path, asked = through_its_pages(web, browser.open("/sign-in?next=/lab").headers["location"])
        assert asked == ["login", "consent"]
        assert browser.open(path).headers["location"] == "/lab"
        person = browser.session()["person"]
        assert (person["name"], person["roles"]) == ("m.muster", ["read", "review", "sign"])
        table = browser.client.app.state.sign_in.table  # type: ignore[attr-defined]
        now_s = table.clock()
        table.clock = lambda: now_s + 301
        signature = f"/specimens/{'0' * 32}/sign", {"revision": 1}
        refused(browser.send("POST", *signature), 401, "authentication-too-old")
        table.clock = lambda: now_s
        # The issuer knows the browser, and asks for the credentials again.
        path, asked = through_its_pages(web, browser.open("/sign-in?again=true").headers["location"])
        assert asked[0] == "login"
        assert browser.open(path).status_code == 303
        refused(browser.send("POST", *signature), 404, "unknown-specimen")
        at_issuer = browser.send("POST", "/sign-out").json()["issuer_sign_out"]
        assert at_issuer.startswith(f"{issuer_url}/session/end?")
        page = web.get(at_issuer)
        assert page.status_code == 200 and "op.logoutForm" in page.text, page.text
    refused(browser.open("/specimens"), 401, "unauthorised")


def test_it_refuses_a_code_without_the_verifier(browser: Browser) -> None:
    with httpx.Client() as web:
        path, _ = through_its_pages(web, browser.open("/sign-in").headers["location"])
    flow = browser.client.app.state.sign_in.code_flow  # type: ignore[attr-defined]
    [(state, pending)] = flow._store._records.items()
    flow._store.update(state, replace(pending, code_verifier="another" * 8))
    answer = browser.open(path)
    assert answer.status_code == 400 and "not accepted" in answer.text


def test_a_person_who_cancels_is_told(browser: Browser) -> None:
    with httpx.Client() as web:
        page = web.get(browser.open("/sign-in").headers["location"], follow_redirects=True)
        [cancel] = re.findall('href="([^"]+/abort)"', page.text)
        answer = web.get(urljoin(str(page.url), cancel))
        while not answer.headers.get("location", "").startswith(CALLBACK):
            answer = web.get(urljoin(str(answer.url), answer.headers["location"]))
    back = urlsplit(answer.headers["location"])
    answer = browser.open(f"{back.path}?{back.query}")
    assert answer.status_code == 400 and "refused the sign-in" in answer.text
