"""What sign-in writes to the log: how somebody signed in, and no name, key, code or token."""

import logging
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from issuer import AUDIENCE, CLIENT_ID, CLIENT_SECRET, issuer
from keys import entry, keys_file
from serving import client
from session_client import Browser

KEY = "mlk_canary-key"


def test_no_secret_or_name_reaches_the_log(artefact: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "service")
    keys = keys_file(tmp_path, entry(KEY, "front", ["specimens"], acts_for_others=True))
    with issuer() as issuing:
        issuing.person = {"sub": "canary-subject", "preferred_username": "canary.token", "roles": ["doctor"]}
        settings = {
            "keys_file": keys,
            "oidc_issuer": issuing.url,
            "oidc_audience": AUDIENCE,
            "oidc_client_id": CLIENT_ID,
            "oidc_client_secret": CLIENT_SECRET,
            "oidc_roles": "doctor=sign",
            "public_url": "http://localhost",
        }
        with client(artefact, **settings) as http:
            browser = Browser(http)
            path = browser.to_issuer("/sign-in?method=issuer&next=/canary-next")
            browser.open(path)
            browser.open(path)  # refused: already completed
            browser.submit("/sign-in/key", key=KEY, name="canary.named")
            browser.submit("/sign-in/key", key="mlk_canary-wrong", name="canary.named")
            secrets = [*parse_qs(urlsplit(path).query)["code"], *parse_qs(urlsplit(path).query)["state"]]
            secrets += [browser.session()["csrf_token"], *http.cookies.values(), CLIENT_SECRET]
    assert "Signed in by issuer" in caplog.text and "Signed in by key" in caplog.text
    assert "Sign-in refused: sign-in-failed" in caplog.text
    assert [each for each in ("canary", *secrets) if each in caplog.text] == []
