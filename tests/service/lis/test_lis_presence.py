"""Who has a specimen open now: for all services of a laboratory, and only while they are there."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from keys import bearer, entry, keys_file
from lab import open_request, use_cases, user
from serving import client, refused
from sqlalchemy import text
from starlette.testclient import TestClient

from service.config.lis import LisSettings
from service.lis.presence import Presence
from service.lis.schemas import Look
from service.lis.use_cases import UseCases

PAGE, OTHER = "1f" * 16, "2e" * 16
PATIENT = {"identifier": "SECRET-100234", "family": "Canaryname"}


@pytest.fixture
def front(database_url: str) -> Iterator[UseCases]:
    with use_cases(database_url) as opened:
        yield opened


def present(front: UseCases, specimen: str) -> list[tuple[str, int | None, str | None]]:
    return [(each.name, each.place, each.code) for each in front.revision(specimen).present]


def test_a_page_is_present_where_it_is_until_it_leaves(front: UseCases) -> None:
    presence, (one, two) = Presence(front.database), [front.open(open_request(n), user("m.muster")).id for n in "ab"]
    presence.announce(one, PAGE, Look(), user("anna"))
    presence.announce(one, OTHER, Look(place=3), user("ben"))
    assert present(front, one) == [("anna", None, None), ("ben", 3, None)] and present(front, two) == []
    presence.announce(two, PAGE, Look(code="PMO"), user("anna"))
    assert (present(front, one), present(front, two)) == ([("ben", 3, None)], [("anna", None, "PMO")])
    presence.leave(OTHER, user("anna"))  # of another person
    assert present(front, one) == [("ben", 3, None)]
    presence.announce(one, OTHER, Look(), user("anna"))  # takes no page over
    presence.leave(OTHER, user("ben"))
    assert present(front, one) == [("anna", None, None)]


def test_a_silent_page_is_closed_and_forgotten(front: UseCases) -> None:
    presence, specimen = Presence(front.database), front.open(open_request(), user("m.muster")).id
    presence.announce(specimen, PAGE, Look(), user("anna"))
    presence.announce(specimen, OTHER, Look(), user("ben"))
    presence.forget_silent()
    assert len(present(front, specimen)) == 2
    with front.database.writing() as session:
        session.execute(text("UPDATE presences SET seen_at = '2026-01-01 00:00:00' WHERE person = 'anna'"))
    assert present(front, specimen) == [("ben", None, None)]
    presence.forget_silent()
    with front.database.reading() as session:
        assert session.execute(text("SELECT person FROM presences")).scalars().all() == ["ben"]


def test_two_services_show_the_same_people_and_log_none(
    artefact: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lis = LisSettings(database=f"sqlite:///{tmp_path / 'lab.db'}", audit_reads=True)
    with client(artefact, lis=lis) as one, client(artefact, lis=lis) as two:
        for http, name in ((one, "Anna Zorn"), (two, "Ben Zorn")):
            http.headers["X-Acting-User"] = name
        specimen = one.post("/specimens", json={"number": "BM-1", "patient": PATIENT}).json()["id"]
        at, before = f"/specimens/{specimen}", _trail(one, specimen)
        assert one.put(f"{at}/presence/{PAGE}", json={"place": 2}).status_code == 204
        assert two.put(f"{at}/presence/{OTHER}", json={"code": "BLA"}).status_code == 204
        seen = [http.get(f"{at}/revision").json() for http in (one, two)]
        assert seen[0] == seen[1] and seen[0]["revision"] == 1
        assert seen[0]["present"] == [
            {"name": "Anna Zorn", "page": PAGE, "place": 2},
            {"name": "Ben Zorn", "page": OTHER, "code": "BLA"},
        ]
        assert one.delete(f"{at}/presence/{PAGE}").status_code == 204
        assert [each["name"] for each in two.get(f"{at}/revision").json()["present"]] == ["Ben Zorn"]
        assert _trail(one, specimen) == before + 1  # the look at the trail itself
        refused(one.put(f"/specimens/{'0' * 32}/presence/{PAGE}", json={}), 404, "unknown-specimen")
        refused(one.put(f"{at}/presence/here", json={}), 422, "invalid-parameter")
        refused(one.put(f"{at}/presence/{PAGE}", json={"place": 0}), 422, "invalid-parameter")
        assert "Zorn" not in one.get("/metrics").text
    assert "Zorn" not in caplog.text and "SECRET" not in caplog.text


def _trail(http: TestClient, specimen: str) -> int:
    return len(http.get(f"/specimens/{specimen}/audit").json()["entries"])


def test_to_be_seen_needs_no_more_than_to_look(artefact: Path, tmp_path: Path) -> None:
    keys = keys_file(
        tmp_path,
        entry("mlk_" + "r" * 43, "reader", ["specimens"], person=True),
        entry("mlk_" + "d" * 43, "doctor", ["specimens"], person=True),
        entry("mlk_" + "c" * 43, "classifier", ["classify"]),
    )
    roles = tmp_path / "roles.toml"
    roles.write_text('[[person]]\nname = "reader"\nroles = ["read"]\n[[person]]\nname = "doctor"\nroles = ["review"]\n')
    roles.chmod(0o600)
    lis = LisSettings(database=f"sqlite:///{tmp_path / 'lab.db'}")
    with client(artefact, keys_file=keys, roles_file=roles, lis=lis) as http:
        doctor, reader, classifier = (bearer("mlk_" + letter * 43) for letter in "drc")
        specimen = http.post("/specimens", json={"number": "1", "patient": PATIENT}, headers=doctor).json()["id"]
        at = f"/specimens/{specimen}/presence/{PAGE}"
        assert http.put(at, json={}, headers=reader).status_code == 204
        assert http.delete(at, headers=reader).status_code == 204
        refused(http.put(at, json={}, headers=classifier), 403, "forbidden")
        refused(http.put(at, json={}), 401, "unauthorised")
        refused(http.get("/reference-cells/BLA", headers=classifier), 403, "forbidden")
        assert http.get("/reference-cells/BLA", headers=reader).status_code == 200
