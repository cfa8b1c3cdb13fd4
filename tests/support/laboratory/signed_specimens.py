"""A specimen ordered by HL7, read and signed over HTTP, and the secrets that must not leave it."""

from collections.abc import Callable
from typing import Any

import hl7
import hl7.mllp
import httpx
from conftest import Draw

WHO = {"X-Acting-User": "dr.beispiel"}


#: Every number, name and date of the order's patient.
SECRETS = ("100234", "Muster", "Erika", "19640812", "1964-08-12", "M26-0042")


async def ordered(port: int, *messages: str) -> list[str]:
    """What python-hl7's client hears for each message."""
    reader, writer = await hl7.mllp.open_hl7_connection("127.0.0.1", port)
    answers = []
    for message in messages:
        writer.writemessage(hl7.parse(message))
        await writer.drain()
        answers.append(str(await reader.readmessage()))
    writer.close()
    await writer.wait_closed()
    return answers


def until(http: httpx.Client, path: str, holds: Callable[[Any], bool]) -> Any:
    """What a route answers once it holds; every question is answered, so nothing needs to sleep."""
    for _ in range(20_000):
        found = http.get(path).json()
        if holds(found):
            return found
    raise AssertionError(f"{path} still says {found}")


def signed(http: httpx.Client, draw: Draw, number: str = "M26-0042") -> str:
    [summary] = http.get(f"/specimens?number={number}").json()["specimens"]
    specimen: str = summary["id"]
    files = [("images", (f"{n}.png", draw(n), "image/png")) for n in range(6)]
    assert http.post(f"/specimens/{specimen}/cells", files=files).json()["added"] == 6
    wish = {"revision": 2, "accept_unread": True, "accept_below_target": True}
    assert http.post(f"/specimens/{specimen}/sign", json=wish).status_code == 200
    return specimen


def state(specimen: Any) -> list[str]:
    return [message["state"] for version in specimen["versions"] for message in version["messages"]]
