"""Clients that open, fill and sign specimens over HTTP, with retries, and the expected content of each report."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

PICTURES = 30
#: Every tenth specimen is amended and signed again.
AMENDED = 10
PATIENCE_S = 300.0
_ACTOR = {"X-Acting-User": "dr.beispiel"}
#: Not counted, whatever their number.
_EXCLUDED = {"ART", "KSC", "NIF", "OTH"}


class UncountedPictures(Exception):
    """The model puts all pictures into classes that are not counted, so no specimen can be signed."""

    def __init__(self, codes: Sequence[str]) -> None:
        found = ", ".join(sorted(set(codes)))
        super().__init__(
            f"all {len(codes)} pictures are of classes that are not counted ({found}); use another --model"
        )


@dataclass(slots=True)
class SigningClients:
    """Clients that open, fill and sign specimens over HTTP and retry while the service is down.

    They wait for the killing task to allow the next specimens, so that kills happen while they work.

    Raises:
        UncountedPictures: no specimen could be signed.
    """

    url: str
    codes: list[str]
    files: list[bytes]
    signed: int = 0
    allowed: int = 0
    turn: asyncio.Condition = field(default_factory=asyncio.Condition)
    retries: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        if all(code in _EXCLUDED for code in self.codes):
            raise UncountedPictures(self.codes)

    async def reach(self, signed: int, then_allowed: int) -> None:
        """Wait until a number of specimens is signed; then allow those up to `then_allowed`."""
        async with self.turn:
            await self.turn.wait_for(lambda: self.signed >= signed)
            self.allowed = then_allowed
            self.turn.notify_all()

    async def begin(self, number: int) -> None:
        """Wait until the specimen with this number may be opened."""
        async with self.turn:
            await self.turn.wait_for(lambda: number <= self.allowed)

    async def whole(self, client: httpx.AsyncClient, number: int) -> None:
        """Take one specimen from opening to its last signature."""
        specimen = await self._opened(client, number)
        places = chosen(number, self.codes)
        files = [("images", (f"{at}.png", self.files[at], "image/png")) for at in places]
        await self._insist(client, "POST", f"/specimens/{specimen}/cells", files=files)
        await self._sign(client, specimen, 1)
        if number % AMENDED == 0:
            await self._amend(client, specimen)
            await self._sign(client, specimen, 2)
        async with self.turn:
            self.signed += 1
            self.turn.notify_all()

    async def look(self, client: httpx.AsyncClient, specimen: str) -> Any:
        return (await self._insist(client, "GET", f"/specimens/{specimen}")).json()

    async def _opened(self, client: httpx.AsyncClient, number: int) -> str:
        body = {"number": f"BM-{number:05}", "patient": {"identifier": f"P-{number:05}", "family": "Muster^|\\Ä"}}
        opened = await self._insist(client, "POST", "/specimens", json=body)
        if opened.status_code == 201:
            return str(opened.json()["id"])
        found = await self._insist(client, "GET", f"/specimens?number={body['number']}")
        return str(found.json()["specimens"][0]["id"])

    async def _sign(self, client: httpx.AsyncClient, specimen: str, version: int) -> None:
        while (current := await self.look(client, specimen))["reports"] < version:
            body = {"revision": current["revision"], "accept_unread": True, "accept_below_target": True}
            await self._insist(client, "POST", f"/specimens/{specimen}/sign", json=body)

    async def _amend(self, client: httpx.AsyncClient, specimen: str) -> None:
        while (current := await self.look(client, specimen))["state"] == "signed":
            body = {"revision": current["revision"], "reason": "a second look"}
            await self._insist(client, "POST", f"/specimens/{specimen}/amend", json=body)

    async def _insist(self, client: httpx.AsyncClient, method: str, path: str, **more: Any) -> httpx.Response:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    answer = await client.request(method, f"{self.url}{path}", headers=_ACTOR, **more)
                    if answer.status_code < 500 and answer.status_code != 429:
                        return answer
                    self.retries[f"status {answer.status_code}"] += 1
                except httpx.TransportError:
                    self.retries["no answer"] += 1
                await asyncio.sleep(0.05)


def chosen(number: int, codes: Sequence[str]) -> list[int]:
    """Pictures of a specimen, by its number: 3 to 8, at least one of them counted."""
    drawn = random.Random(number)
    while True:
        places = drawn.sample(range(PICTURES), drawn.randint(3, 8))
        if any(codes[at] not in _EXCLUDED for at in places):
            return places


def expected(number: int, codes: Sequence[str]) -> dict[str, float]:
    """Expected percentages by class, calculated from the pictures."""
    counts = Counter(codes[at] for at in chosen(number, codes) if codes[at] not in _EXCLUDED)
    return {code: round(100 * count / counts.total(), 1) for code, count in counts.items()}
