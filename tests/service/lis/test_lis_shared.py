"""Two services and several signers on one laboratory, with a database that fails and returns."""

import asyncio
import json
from pathlib import Path

import httpx
import pytest
from conftest import Draw
from databases import Postgres, postgres
from serving import async_client, client, refused

from service.config.lis import LisSettings

WHO = {"X-Acting-User": "m.muster"}
PATIENT = {"identifier": "100234"}


@pytest.fixture
def lab(tmp_path: Path) -> LisSettings:
    return LisSettings(database=f"sqlite:///{tmp_path / 'lab.db'}")


async def test_of_many_who_sign_at_once_one_wins(artefact: Path, lab: LisSettings, draw: Draw) -> None:
    async with async_client(artefact, lis=lab) as http:
        http.headers.update(WHO)
        made = await http.post("/specimens", json={"number": "BM-1", "patient": PATIENT})
        specimen = made.json()["id"]
        await http.post(f"/specimens/{specimen}/cells", files={"images": draw(1)})
        wish = {"revision": 2, "accept_unread": True, "accept_below_target": True}
        signatures = [http.post(f"/specimens/{specimen}/sign", json=wish) for _ in range(8)]
        more = [http.post(f"/specimens/{specimen}/cells", files={"images": draw(n)}) for n in range(2, 6)]
        answers = await asyncio.gather(*signatures, *more)
        signed = [answer for answer in answers[:8] if answer.status_code == 200]
        assert len(signed) <= 1
        stands = (await http.get(f"/specimens/{specimen}")).json()
        if signed:
            assert signed[0].json()["differential"]["cells"] == 1
            assert {answer.status_code for answer in answers} == {200, 409}
            assert stands["cells"] == 1
        else:  # the first cell came before every signature: all of them had seen another specimen
            assert {answer.status_code for answer in answers[:8]} == {409}
            assert (stands["cells"], stands["versions"]) == (5, [])


def test_a_database_that_is_gone_is_a_503_and_comes_back(artefact: Path, draw: Draw) -> None:
    with postgres() as server, client(artefact, lis=LisSettings(database=server.new_database())) as http:
        http.headers.update(WHO)
        specimen = http.post("/specimens", json={"number": "BM-1", "patient": PATIENT}).json()["id"]
        server.kill()
        gone = http.get(f"/specimens/{specimen}")
        refused(gone, 503, "storage-unavailable")
        assert gone.headers["retry-after"] == "1"
        refused(http.post("/specimens", json={"number": "BM-2", "patient": PATIENT}), 503, "storage-unavailable")
        assert http.post("/classify", files={"image": draw(1)}).status_code == 200
        server.start()
        assert http.get(f"/specimens/{specimen}").json()["number"] == "BM-1"
        sent = http.post(f"/specimens/{specimen}/cells", files={"images": draw(1)})
        assert sent.json()["added"] == 1


async def test_two_services_share_one_database(artefact: Path, postgres_server: Postgres, draw: Draw) -> None:
    lis = LisSettings(database=postgres_server.new_database())
    async with async_client(artefact, lis=lis) as one, async_client(artefact, lis=lis) as other:
        for http in (one, other):
            http.headers.update(WHO)

        async def open_by(http: httpx.AsyncClient) -> int:
            return (await http.post("/specimens", json={"number": "BM-1", "patient": PATIENT})).status_code

        assert sorted(await asyncio.gather(open_by(one), open_by(other))) == [201, 409]
        [found] = (await other.get("/specimens?number=BM-1")).json()["specimens"]
        path = f"/specimens/{found['id']}/cells"
        both = [http.post(path, files={"images": draw(n)}) for n in range(6) for http in (one, other)]
        answers = [answer.json() for answer in await asyncio.gather(*both)]
        assert sum(answer["added"] for answer in answers) == 6
        assert (await one.get(f"/specimens/{found['id']}")).json()["cells"] == 6


@pytest.mark.parametrize("text", ["a\x00b", "\ud800", "\x1b[2J"])
def test_text_that_no_database_keeps_is_refused_by_either(artefact: Path, database_url: str, text: str) -> None:
    with client(artefact, lis=LisSettings(database=database_url)) as http:
        http.headers.update(WHO)
        body = json.dumps({"number": text, "patient": PATIENT})
        typed = {"Content-Type": "application/json"}
        assert http.post("/specimens", content=body, headers=typed).status_code in (400, 422)
        made = http.post("/specimens", json={"number": "BM-1", "patient": PATIENT}).json()
        ended = json.dumps({"revision": 1, "reason": text})
        path = f"/specimens/{made['id']}/cancel"
        assert http.post(path, content=ended, headers=typed).status_code in (400, 422)
        if "\ud800" not in text:
            assert http.get("/specimens", params={"number": text}).status_code in (200, 422)
