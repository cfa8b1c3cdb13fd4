"""Names in the audit trail: look-alike names are refused, and each has the identity that it was verified by."""

import json
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from issuer import AUDIENCE, Issuer
from joserfc.jwk import RSAKey
from keys import bearer, entry, keys_file
from lab import open_request, use_cases, user
from serving import client, refused
from sqlalchemy import select
from starlette.testclient import TestClient
from typer.testing import CliRunner

from service.auth.api_keys import KeysFileError, read_keys
from service.auth.identity import MAX_NAME, InvalidName, checked_name
from service.cli.main import app as command_line
from service.lis.domain.report import Order, Patient
from service.lis.exchange.orders import IncomingOrder, MessageIdentity, OrderAction, OrderRefused, Peer
from service.lis.storage import audit
from service.lis.storage.tables import AuditHeadRow, AuditRow

FRONT, SCANNER = "mlk_front", "mlk_scanner"
#: Invalid name and the word that the problem must contain.
REFUSED = {
    "control": ("dr.\x07beispiel", "U+0007"),
    "C1 control": ("dr.\x85beispiel", "U+0085"),
    "line separator": ("dr.\u2028beispiel", "U+2028"),
    "paragraph separator": ("dr.\u2029beispiel", "U+2029"),
    "zero-width space": ("dr.\u200bbeispiel", "U+200B"),
    "zero-width joiner": ("dr.\u200dbeispiel", "U+200D"),
    "word joiner": ("dr.\u2060beispiel", "U+2060"),
    "byte order mark": ("\ufeffdr.beispiel", "U+FEFF"),
    "soft hyphen": ("dr.bei\u00adspiel", "U+00AD"),
    "right-to-left override": ("dr.\u202eleipsieb", "U+202E"),
    "isolate": ("dr.\u2066beispiel\u2069", "U+2066"),
    "Arabic letter mark": ("dr.\u061cbeispiel", "U+061C"),
    "tag": ("dr.beispiel\U000e0041", "U+E0041"),
    "variation selector": ("dr.beispiel\ufe0f", "U+FE0F"),
    "supplementary variation selector": ("dr.beispiel\U000e0100", "U+E0100"),
    "grapheme joiner": ("dr.bei\u034fspiel", "U+034F"),
    "Hangul filler": ("dr.beispiel\u3164", "U+3164"),
    "blank Braille": ("dr.\u2800beispiel", "U+2800"),
    "private use": ("dr.\ue000beispiel", "U+E000"),
    "unassigned": ("dr.\u0378beispiel", "U+0378"),
    "noncharacter": ("dr.\ufffebeispiel", "U+FFFE"),
    "full width": ("\uff44r.beispiel", "U+FF44"),
    "ligature": ("\ufb01lm", "U+FB01"),
    "no-break space": ("dr.\u00a0beispiel", "U+00A0"),
    "ideographic space": ("dr.\u3000beispiel", "U+3000"),
    "Ogham space": ("dr.\u1680beispiel", "U+1680"),
    "two spaces": ("dr.  beispiel", "two spaces in a row"),
    "decomposed": ("Mu\u0308ller", "normalization form C"),
    "am in two characters": ("อ\u0e4d\u0e32นาจ", "write U+0E33"),
    "combining at the start": ("\u0301beispiel", "combining mark"),
    "too long": ("x" * (MAX_NAME + 1), "201 characters"),
}
TAKEN = (
    "m.muster",
    "Dr. Jürgen Weiß",
    "検査技師",
    "Mª Ángeles O'Brien-Núñez",
    "อำนาจ",
    "د. مثال",
    "х.пример",
    "x" * MAX_NAME,
)


@pytest.fixture(scope="module")
def guarded(artefact: Path, issuing: Issuer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("guarded")
    front = entry(FRONT, "front", acts_for_others=True)
    path = keys_file(folder, front, entry(SCANNER, "scanner-1", ["specimens"]))
    settings = {"oidc_issuer": issuing.url, "oidc_audience": AUDIENCE, "keys_file": path}
    with client(artefact, **settings, lis={"database": f"sqlite:///{folder / 'lab.db'}"}) as started:
        yield started


def opened(http: TestClient, headers: Any, number: str) -> httpx.Response:
    return http.post("/specimens", json={"number": number, "patient": {"identifier": "1"}}, headers=headers)


def trail(http: TestClient, specimen: str) -> dict[str, Any]:
    [found] = http.get(f"/specimens/{specimen}/audit", headers=bearer(FRONT)).json()["entries"]
    return {**found, "identity": {name: value for name, value in found["identity"].items() if value is not None}}


def acting(name: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"Authorization", f"Bearer {FRONT}".encode()), (b"X-Acting-User", name)]


@pytest.mark.parametrize("kind", REFUSED)
def test_a_name_that_cannot_be_told_from_another_is_refused_wherever_it_comes_in(
    guarded: TestClient, issuing: Issuer, kind: str
) -> None:
    name, said = REFUSED[kind]
    answer = opened(guarded, acting(name.encode()), f"acting {kind}")
    detail = refused(answer, 422, "invalid-parameter").detail
    assert said in detail or (kind == "control" and "should match pattern" in detail)  # as the OpenAPI document says
    for claim in ("preferred_username", "sub"):
        value = name if claim == "preferred_username" or kind != "too long" else name + "x" * 55
        said_here = said if value == name else "256 characters"
        token = issuing.token({"scope": "specimens", claim: value})
        problem = refused(opened(guarded, bearer(token), f"{claim} {kind}"), 401, "unauthorised")
        assert said_here in problem.detail and claim in problem.detail and name not in problem.detail


@pytest.mark.parametrize("name", [" m.muster", "m.muster ", " ", "m.muster\u2003", 7, ["m"], True])
def test_a_tokens_name_is_taken_as_it_is_or_not_at_all(guarded: TestClient, issuing: Issuer, name: object) -> None:
    for claim in ("preferred_username", "sub"):
        answer = guarded.get("/model", headers=bearer(issuing.token({"scope": "classify", claim: name})))
        assert refused(answer, 401, "unauthorised")


@pytest.mark.parametrize("claim", ["preferred_username", "sub"])
def test_a_surrogate_without_its_pair_is_refused(guarded: TestClient, issuing: Issuer, claim: str) -> None:
    claims = {
        "iss": issuing.url,
        "aud": AUDIENCE,
        "sub": "1",
        "exp": int(time.time()) + 300,
        claim: "dr.\ud800beispiel",
    }
    signing = issuing.keys["plain"]
    assert isinstance(signing, RSAKey)
    token = jwt.encode(claims, signing.as_pem(private=True), "RS256", {"kid": signing.kid})
    answer = guarded.get("/model", headers=bearer(token))
    assert "U+D800" in refused(answer, 401, "unauthorised").detail


@pytest.mark.parametrize("sent", [b"a", b"b"])
def test_a_header_that_comes_twice_is_refused(guarded: TestClient, sent: bytes) -> None:
    answer = opened(guarded, [*acting(b"a"), (b"X-Acting-User", sent)], "twice")
    assert "more than once" in refused(answer, 422, "invalid-parameter").detail
    twice = [(b"Authorization", f"Bearer {key}".encode()) for key in (FRONT, SCANNER)]
    assert "Several Authorization" in refused(guarded.get("/model", headers=twice), 401, "unauthorised").detail


@pytest.mark.parametrize("name", TAKEN)
def test_names_of_people_are_taken_as_they_write_them(guarded: TestClient, issuing: Issuer, name: str) -> None:
    for number, headers in (
        (f"acting {name}", acting(name.encode())),
        (f"token {name}", bearer(issuing.token({"scope": "specimens", "preferred_username": name}))),
    ):
        answer = opened(guarded, headers, number[:200])
        assert answer.status_code == 201, answer.text
        assert trail(guarded, answer.json()["id"])["actor"] == name


def test_a_key_and_a_person_of_one_name_are_two_in_the_trail(guarded: TestClient, issuing: Issuer) -> None:
    person = issuing.token({"scope": "specimens", "preferred_username": "scanner-1", "sub": "f7c1"})
    machine = issuing.token({"scope": "specimens", "sub": "scanner-1"})
    ways = {
        "key": bearer(SCANNER),
        "person": bearer(person),
        "machine": bearer(machine),
        "named": acting(b"scanner-1"),
    }
    found = {
        kind: trail(guarded, opened(guarded, headers, f"as {kind}").json()["id"]) for kind, headers in ways.items()
    }
    assert {each["actor"] for each in found.values()} == {"scanner-1"}
    ids = {each.name: each.id for each in read_keys(guarded.app.state.app_state.settings.keys_file)}  # type: ignore[attr-defined]
    assert {kind: each["identity"] for kind, each in found.items()} == {
        "key": {"kind": "key", "key": "scanner-1", "key_id": ids["scanner-1"]},
        "person": {"kind": "token", "issuer": issuing.url, "subject": "f7c1"},
        "machine": {"kind": "token", "issuer": issuing.url, "subject": "scanner-1"},
        "named": {"kind": "named", "key": "front", "key_id": ids["front"]},
    }
    assert all("identity" not in each["details"] for each in found.values())


def test_people_of_one_name_are_told_apart_by_their_subject(guarded: TestClient, issuing: Issuer) -> None:
    names = [{"preferred_username": "m.muster", "sub": sub} for sub in ("1", "2")]
    headers = [bearer(issuing.token({"scope": "specimens", **each})) for each in names]
    found = [trail(guarded, opened(guarded, each, f"of {n}").json()["id"]) for n, each in enumerate(headers)]
    assert [(each["actor"], each["identity"]["subject"]) for each in found] == [("m.muster", "1"), ("m.muster", "2")]


def test_a_person_does_not_empty_the_bucket_of_a_key_of_his_name(
    artefact: Path, issuing: Issuer, tmp_path: Path
) -> None:
    path = keys_file(tmp_path, entry(SCANNER, "scanner-1", rate_per_s=0.001, burst=2))
    where = {"keys_file": path, "oidc_issuer": issuing.url, "oidc_audience": AUDIENCE}
    token = bearer(issuing.token({"scope": "classify", "preferred_username": "scanner-1"}))
    with client(artefact, **where, rate_per_s=0.001, rate_burst=2) as http:
        assert [http.get("/model", headers=token).status_code for _ in range(3)] == [200, 200, 429]
        assert [http.get("/model", headers=bearer(SCANNER)).status_code for _ in range(3)] == [200, 200, 429]


def test_where_authentication_is_off_the_trail_says_that_the_name_was_only_claimed(
    artefact: Path, tmp_path: Path
) -> None:
    with client(artefact, lis={"database": f"sqlite:///{tmp_path / 'lab.db'}"}) as http:
        specimen = opened(http, {"X-Acting-User": "m.muster"}, "BM-1").json()["id"]
        assert trail(http, specimen)["identity"] == {"kind": "claimed"}


def test_key_names_that_differ_only_in_case_are_refused(tmp_path: Path) -> None:
    path = keys_file(tmp_path, entry("mlk_a", "Scanner-1"), entry("mlk_b", "scanner-1"))
    with pytest.raises(KeysFileError, match="Scanner-1 and scanner-1 differ in upper and lower case only"):
        read_keys(path)


def test_the_command_makes_no_such_key(tmp_path: Path) -> None:
    path = keys_file(tmp_path, entry("mlk_a", "scanner-1"))
    before = path.read_bytes()
    words = ["keys", "new", "Scanner-1", "--scope", "classify", "--file", str(path)]
    done = CliRunner().invoke(command_line, words)
    assert (done.exit_code, "differ in upper and lower case only" in done.stderr) == (2, True)
    assert path.read_bytes() == before


def test_orders_stand_under_what_was_verified_and_what_the_message_claims_stands_beside_it(database_url: str) -> None:
    order = IncomingOrder(OrderAction.NEW, "BM-1", Patient(identifier="1"), Order())
    with use_cases(database_url) as front:
        for sender in ("S" * 5000, "LIS\u200b|LAB", "LIS\u202e|LAB"):
            with pytest.raises(OrderRefused, match="the sender"):
                front.take_orders(MessageIdentity(Peer("192.0.2.10"), sender, "1", "0" * 64), [order])
        assert front.take_orders(MessageIdentity(Peer("192.0.2.10", "CN=lis"), "LIS|LAB", "1", "0" * 64), [order])
        [specimen] = front.list(None, None, None, 9).specimens
        [found] = front.audit_trail(specimen.id).entries
        assert found.actor == "order from CN=lis" and found.identity is not None
        verified = {"certificate": "CN=lis", "address": "192.0.2.10"}
        assert found.identity.details() == {"kind": "message", "sender": "LIS|LAB", **verified}


def test_rows_of_earlier_versions_still_verify_and_can_be_read(database_url: str) -> None:
    with use_cases(database_url) as front:
        specimen = front.open(open_request(), user("m.muster")).id
        with front.database.writing() as session:  # as 0.1.0 wrote it
            head = session.scalars(select(AuditHeadRow)).one()
            row = AuditRow(number=2, at="2026-05-04T08:30:00+00:00", actor="m.muster", action="change")
            row.specimen_id, row.details = specimen, json.dumps({"fields": ["order"], "revision": 2}, sort_keys=True)
            row.hash = audit._hash(row, head.hash)
            session.add(row)
            head.number, head.hash = 2, row.hash
        _, found = front.audit_trail(specimen).entries
        assert (found.actor, found.identity) == ("m.muster", None)
        assert found.details == {"fields": ["order"], "revision": 2}
        with front.database.reading() as session:
            assert audit.verify(session)[1] == []


@example("\u0e33")
@given(st.text(st.characters(), max_size=30))
def test_every_name_that_is_taken_is_one_visible_line_in_one_form(text: str) -> None:
    try:
        name = checked_name(text, "the name")
    except InvalidName as error:
        assert len(str(error)) < 200
        return
    assert name == text == " ".join(text.split()) and len(name.splitlines()) == 1 and name.isprintable()
    assert name.encode().decode() == unicodedata.normalize("NFC", name)
    plain = name.translate(str.maketrans("", "", "ªº\u0e33\u0eb3"))  # Mª, and the vowel am of Thai and Lao
    assert unicodedata.normalize("NFKC", plain) == plain
