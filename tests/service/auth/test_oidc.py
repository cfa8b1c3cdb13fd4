"""Token verification: the issuer's keys are cached, rotated, and kept while the issuer does not answer."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from issuer import AUDIENCE, Issuer, issuer
from keys import bearer
from pydantic import ValidationError
from serving import async_client, refused

from service.auth.oidc import MAX_STALE_S, MIN_REFRESH_INTERVAL_S, IssuerKeys, TokenVerifier
from service.config.auth import AuthSettings
from service.errors import IssuerUnavailable, Unauthorised

CLAIMS = {"scope": "openid classify", "preferred_username": "m.muster"}


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def issuing() -> Iterator[Issuer]:
    with issuer() as started:
        yield started


def settings(issuing: Issuer, **more: Any) -> AuthSettings:
    return AuthSettings(oidc_issuer=issuing.url, oidc_audience=AUDIENCE, **more)


def tokens(issuing: Issuer, clock: Clock | None = None, **more: Any) -> TokenVerifier:
    chosen = settings(issuing, **more)
    return TokenVerifier(chosen, IssuerKeys(chosen, clock or Clock()))


async def test_the_issuer_is_asked_once_however_many_come(issuing: Issuer) -> None:
    found = tokens(issuing)
    callers = await asyncio.gather(*(found.verify(issuing.token(CLAIMS)) for _ in range(20)))
    assert {caller.name for caller in callers} == {"m.muster"}
    assert issuing.asked == 1


async def test_made_up_keys_do_not_make_the_service_ask_again_and_again(issuing: Issuer) -> None:
    clock = Clock()
    found, seen = tokens(issuing, clock), issuing.token(CLAIMS)
    await found.verify(seen)
    issuing.rotate("-2")
    for _ in range(50):
        with pytest.raises(Unauthorised):
            await found.verify(issuing.token(CLAIMS))
    assert issuing.asked == 1
    clock.now_s += MIN_REFRESH_INTERVAL_S
    assert (await found.verify(issuing.token(CLAIMS))).name == "m.muster"
    assert issuing.asked == 2
    with pytest.raises(Unauthorised):  # the old key is gone with the old set
        await found.verify(seen)


async def test_keys_are_fetched_anew_after_their_time(issuing: Issuer) -> None:
    clock = Clock()
    found = tokens(issuing, clock, oidc_jwks_max_age_s=60)
    await found.verify(issuing.token(CLAIMS))
    clock.now_s += 61
    await found.verify(issuing.token(CLAIMS))
    assert found._keys._refreshing is not None  # in the background, while the cached key is used
    await found._keys._refreshing
    assert issuing.asked == 2


async def test_an_issuer_that_falls_silent_shuts_nobody_out_for_a_day(issuing: Issuer) -> None:
    clock = Clock()
    found = tokens(issuing, clock, oidc_jwks_max_age_s=60)
    await found.verify(issuing.token(CLAIMS))
    issuing.silent = True
    clock.now_s += MAX_STALE_S - 1
    assert (await found.verify(issuing.token(CLAIMS))).name == "m.muster"
    clock.now_s += 2
    with pytest.raises(IssuerUnavailable):
        await found.verify(issuing.token(CLAIMS))
    issuing.silent = False
    clock.now_s += MIN_REFRESH_INTERVAL_S
    assert (await found.verify(issuing.token(CLAIMS))).name == "m.muster"


async def test_while_an_issuer_was_never_heard_tokens_are_503_and_keys_are_taken(
    issuing: Issuer, artefact: Path, tmp_path: Path
) -> None:
    from keys import entry, keys_file

    issuing.silent = True
    path = keys_file(tmp_path, entry("mlk_a", "a"))
    where = {"keys_file": path, "oidc_issuer": issuing.url, "oidc_audience": AUDIENCE}
    async with async_client(artefact, **where) as http:
        token = bearer(issuing.token(CLAIMS))
        answer = await http.get("/model", headers=token)
        refused(answer, 503, "issuer-unavailable")
        assert answer.headers["retry-after"] == "1"
        assert (await http.get("/model", headers=bearer("mlk_a"))).status_code == 200
        issuing.silent = False
        for _ in range(100_000):
            if (answer := await http.get("/model", headers=token)).status_code == 200:
                return
            refused(answer, 503, "issuer-unavailable")
        raise AssertionError("the issuer answers, and was not asked again")


async def test_clocks_may_be_off_by_the_leeway(issuing: Issuer) -> None:
    late = issuing.token(CLAIMS, lives_s=-20)
    assert (await tokens(issuing, oidc_leeway_s=30).verify(late)).name == "m.muster"
    with pytest.raises(Unauthorised, match="Token expired"):
        await tokens(issuing, oidc_leeway_s=10).verify(late)


@pytest.mark.parametrize(
    ("claims", "more", "scopes"),
    [
        ({"scope": "classify specimens openid"}, {}, {"classify", "specimens"}),
        ({"scp": ["classify"]}, {"oidc_scope_claim": "scp"}, {"classify"}),
        ({"roles": ["lab:admin", "classify"]}, {"oidc_scope_claim": "roles", "oidc_scope_prefix": "lab:"}, {"admin"}),
        ({"scope": {"classify": True}}, {}, set()),
        ({"scope": ["classify", 7, None]}, {}, {"classify"}),
        ({}, {}, set()),
    ],
)
async def test_scopes_are_read_from_the_claim(
    issuing: Issuer, claims: dict[str, Any], more: dict[str, Any], scopes: set[str]
) -> None:
    assert (await tokens(issuing, **more).verify(issuing.token(claims))).scopes == scopes


@pytest.mark.parametrize(
    ("claims", "name", "person"),
    [
        ({"preferred_username": "m.muster"}, "m.muster", True),
        ({}, "subject-1", False),
        ({"preferred_username": None}, "subject-1", False),
        ({"preferred_username": ""}, "subject-1", False),
    ],
)
async def test_who_is_named_is_a_person(issuing: Issuer, claims: dict[str, Any], name: str, person: bool) -> None:
    caller = await tokens(issuing).verify(issuing.token(claims))
    assert (caller.name, caller.person, caller.acts_for_others) == (name, person, False)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"oidc_issuer": "http://issuer.example", "oidc_audience": "a"}, "plain http"),
        ({"oidc_issuer": "https://issuer.example"}, "belong together"),
        ({"oidc_audience": "a"}, "belong together"),
        (
            {"oidc_issuer": "https://i.example", "oidc_audience": "a", "oidc_jwks_url": "http://i.example/k"},
            "plain http",
        ),
        ({"tls_cert": "a.pem"}, "belong together"),
        ({"tls_client_ca": "a.pem"}, "set MARROWLENS_TLS_CERT and MARROWLENS_TLS_KEY too"),
    ],
)
def test_settings_that_do_not_agree_are_refused(wrong: dict[str, str], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        AuthSettings(**wrong)  # type: ignore[arg-type]
