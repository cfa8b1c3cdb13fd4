"""Pages and their files over HTTP: headers, languages, and texts in every language."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from keys import keys_file
from serving import client
from starlette.testclient import TestClient

from model.contract import CLASSES, read_manifest
from service.config.lis import LisSettings
from service.languages import LANGUAGES, load_texts, negotiate_language
from service.lis.storage.states import MessageState, State
from service.runtime.artifact import bundled_artefact
from service.web.pages import STATIC

TEMPLATES = STATIC.with_name("templates")
MODULES = sorted(STATIC.rglob("*.js"))
PLACEHOLDER = re.compile(r"\{(\w+)\}")
#: Keys that are written out in templates and modules; others are made of parts.
WRITTEN = re.compile(r"""\b(?:t|text|textOr)\(\s*["']([\w.-]+)["']""")


@pytest.fixture(scope="module")
def http(artefact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A service with a laboratory that asks for a key."""
    folder = tmp_path_factory.mktemp("keys")
    lis = LisSettings(database=f"sqlite:///{folder / 'lab.db'}")
    with client(artefact, keys_file=keys_file(folder), lis=lis) as started:
        yield started


def test_a_page_is_open_and_loads_only_this_services_files(http: TestClient) -> None:
    assert http.get("/about").headers["content-security-policy"] == http.get("/").headers["content-security-policy"]
    answer = http.get("/")
    assert answer.status_code == 200
    policy = dict(each.split(" ", 1) for each in answer.headers["content-security-policy"].split("; "))
    assert (
        policy["default-src"] == "'none'" and policy["frame-ancestors"] == "'none'" and policy["base-uri"] == "'none'"
    )
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == policy["form-action"] == "'self'"
    assert answer.headers["cache-control"] == "no-store"
    for inline in (r"<script(?![^>]*\bsrc=)", r"<style", r"\bon\w+=\"", r"\bstyle=\"", r"https?://(?!www\.w3\.org)"):
        assert not re.search(inline, answer.text), inline


def test_pages_of_the_laboratory_are_open_and_hold_no_data(http: TestClient) -> None:
    specimen = "7f" * 16
    for path in ("/lab", f"/lab/{specimen}", f"/lab/{specimen}/report"):
        answer = http.get(path)
        assert answer.status_code == 200 and answer.headers["cache-control"] == "no-store"
        assert answer.headers["content-security-policy"] == http.get("/").headers["content-security-policy"]
    for path in ("/lab/x", "/lab/<script>", f"/lab/{specimen}/other"):
        assert http.get(path).status_code in (404, 422)
    for path in ("/worklist", f"/specimens/{specimen}"):
        assert http.get(path).status_code == 401


@pytest.mark.parametrize(("language", "said"), [("en", "needs a laboratory"), ("de", "braucht ein Labor")])
def test_without_a_laboratory_its_pages_say_so_before_they_ask_for_a_name(
    artefact: Path, language: str, said: str
) -> None:
    with client(artefact) as http:
        for path in ("/lab", f"/lab/{'7f' * 16}", f"/lab/{'7f' * 16}/report"):
            answer = http.get(path, headers={"Accept-Language": language})
            assert answer.status_code == 404 and said in answer.text and "MARROWLENS_LIS_DATABASE=" in answer.text
            assert "person-dialog" not in answer.text and "<script" not in answer.text
            home = re.search(r'<p><a href="([^"]+)">', answer.text)
            assert home and http.get(str(answer.url.join(home[1]))).status_code == 200


def test_a_file_is_asked_for_again_and_sent_once(http: TestClient) -> None:
    answer = http.get("/static/page.css")
    assert answer.status_code == 200 and answer.headers["cache-control"] == "no-cache"
    again = http.get("/static/page.css", headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304 and not again.content
    assert http.get("/static/../pages.py").status_code in (401, 404)
    assert http.get("/static/%2e%2e/pages.py").status_code in (401, 404)


def test_the_language_follows_the_choice_then_the_browser(http: TestClient) -> None:
    assert http.get("/", headers={"Accept-Language": "fr, de;q=0.8"}).headers["content-language"] == "de"
    chosen = http.get("/?language=en", headers={"Accept-Language": "de"})
    assert chosen.headers["content-language"] == "en"
    assert "Path=/" in chosen.headers["set-cookie"] and "HttpOnly" in chosen.headers["set-cookie"]
    assert http.get("/", headers={"Accept-Language": "de"}).headers["content-language"] == "en"  # the cookie is sent
    http.cookies.clear()
    unknown = http.get("/?language=xx%0D%0ASet-Cookie:%20a=b", headers={"Accept-Language": "de"})
    assert unknown.headers["content-language"] == "de" and "set-cookie" not in unknown.headers


@pytest.mark.parametrize(
    ("accepted", "language"),
    [("", "en"), ("de-CH", "de"), ("en;q=0.5,de", "de"), ("de;q=0", "en"), ("de;q=x, en;q=0.1", "en"), ("*", "en")],
)
def test_accept_language_by_weight(accepted: str, language: str) -> None:
    assert negotiate_language(accepted) == language


def test_every_language_has_every_text_with_its_values() -> None:
    english = load_texts("en")
    for language in LANGUAGES:
        texts = load_texts(language)
        assert texts.keys() == english.keys()
        assert not [key for key, text in texts.items() if not text.strip()]
        assert {key: set(PLACEHOLDER.findall(text)) for key, text in texts.items()} == {
            key: set(PLACEHOLDER.findall(text)) for key, text in english.items()
        }
    assert {f"class.{each.code}" for each in CLASSES} <= english.keys()


def test_the_bundled_model_has_its_intended_use_in_every_language() -> None:
    written = read_manifest(bundled_artefact().with_suffix(".json")).intended_use
    shown = {language: load_texts(language)[f"manifest.{written}"] for language in LANGUAGES}
    assert shown["en"] == written and len(set(shown.values())) == len(LANGUAGES)


def test_the_bundled_model_has_its_limits_in_every_language() -> None:
    """By their English words; a limit of another model is shown in English, and the page says so."""
    limits = read_manifest(bundled_artefact().with_suffix(".json")).limits
    for language in LANGUAGES:
        shown = [load_texts(language).get(f"manifest.{written}") for written in limits]
        assert None not in shown and (language != "en" or shown == list(limits))


def test_every_state_has_its_words() -> None:
    known = load_texts("en").keys()
    for state in State:
        assert {f"state.{state}", f"report.state.{state}"} <= known
        assert state in (State.OPEN, State.AMENDING) or f"review.closed.{state}" in known
    assert {f"delivery.{state}" for state in MessageState} <= known
    assert {"delivery.dead.how", "delivery.held.how"} <= known


def test_every_text_that_a_page_asks_for_exists() -> None:
    known = load_texts("en").keys()
    forms = {key.rpartition(".")[0] for key in known if key.endswith((".one", ".other"))}
    for path in (*MODULES, *sorted(TEMPLATES.glob("*.html"))):
        asked = set(WRITTEN.findall(path.read_text(encoding="utf-8")))
        asked = {key for key in asked if not key.endswith(".")}  # the beginning of a key
        assert asked <= known | forms, path.name


def test_texts_hold_no_markup() -> None:
    for language in LANGUAGES:
        document = json.loads((STATIC / "texts" / f"{language}.json").read_text(encoding="utf-8"))
        assert all(isinstance(text, str) and "<" not in text for text in document.values())
