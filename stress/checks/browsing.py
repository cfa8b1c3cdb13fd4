"""Check `browsing`: ten thousand specimens of five hundred cells; times of listing, reading and signing.

Specimens are written directly to the tables, because HTTP would take too long.
"""

import asyncio
import json
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx

from model.contract import CLASSES
from service.lis.storage.database import Database
from stress.processes.process import serving
from stress.results import Result, Shown, Table

CELLS = 500
#: Any page of a list, and a report that is computed and queued.
PAGE_LIMIT_S, REPORT_LIMIT_S = 0.1, 0.05
ASKED = 200
SIGNED = 100
_WHO = {"X-Acting-User": "dr.beispiel"}
_MODEL = "ab" * 32
_NOW = "2026-05-04 09:15:02.000000"
_CODES = [cell_class.code for cell_class in CLASSES]


async def browsing(specimens: int, artefact: Path | None, shown: Shown, *, seed: int = 0) -> Result:
    """Run the check."""
    shown.total(specimens + 6 * ASKED + SIGNED)
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "lab.db"
        await asyncio.to_thread(_fill, file, specimens, shown)
        filled_s, size_bytes = time.monotonic() - began_s, _size(file)
        lis = {"lis_database": f"sqlite:///{file}", "lis_hl7_to": "127.0.0.1:9", "lis_deliver": "false"}
        with serving(Path(name), artefact, **lis) as process:
            await asyncio.to_thread(process.wait_listening)
            url = f"http://127.0.0.1:{process.port}"
            async with httpx.AsyncClient(base_url=url, headers=_WHO, timeout=60) as http:
                took = await _browse(http, specimens, random.Random(seed), shown)
                took |= await _sign(http, specimens, random.Random(seed), shown)
    said = (
        f"{specimens} specimens of {CELLS} cells each on SQLite: {size_bytes / 2**30:.1f} GiB, filled in "
        f"{filled_s:.0f} s. Over HTTP, one request at a time, at random positions. Required: any page of a list "
        f"in {1000 * PAGE_LIMIT_S:g} ms; a report of {CELLS} cells computed and queued for an HL7 receiver in "
        f"{1000 * REPORT_LIMIT_S:g} ms in the median, including the commit to disk and HTTP."
    )
    rows = [[what, str(len(times)), *_figures(times)] for what, times in took.items()]
    table = Table(["request", "n", "median, ms", "95 of 100, ms", "longest, ms"], rows)
    return Result("browsing", "Ten thousand specimens", said, [table], _faults(took), time.monotonic() - began_s)


def _faults(took: dict[str, list[float]]) -> list[str]:
    slow = [
        f"{what}: a page took {1000 * max(times):.0f} ms"
        for what, times in took.items()
        if what.startswith("list") and max(times) >= PAGE_LIMIT_S
    ]
    median_s = statistics.median(took["sign 500 cells"])
    return slow + ([f"signing took {1000 * median_s:.0f} ms in the median"] if median_s >= REPORT_LIMIT_S else [])


def _figures(times: list[float]) -> list[str]:
    ordered = sorted(times)
    return [
        f"{1000 * each:.1f}" for each in (statistics.median(ordered), ordered[int(0.95 * len(ordered))], ordered[-1])
    ]


async def _browse(
    http: httpx.AsyncClient, specimens: int, drawn: random.Random, shown: Shown
) -> dict[str, list[float]]:
    ids = await _ids(http, specimens, drawn)

    def anywhere() -> int:
        return drawn.randint(1, specimens)

    paths: dict[str, Callable[[], str]] = {
        "list: any page of 50": lambda: f"/specimens?before={anywhere()}",
        "list: any page of 50 open ones": lambda: f"/specimens?state=open&before={anywhere()}",
        "list: any page of 50 signed ones, few": lambda: f"/specimens?state=signed&before={anywhere()}",
        "list: by number": lambda: f"/specimens?number=BM-{anywhere()}",
        "list: the cells of one that wait": lambda: f"/specimens/{drawn.choice(ids)}/cells?only=waiting",
        "look at one": lambda: f"/specimens/{drawn.choice(ids)}",
    }
    took = {}
    for what, path in paths.items():
        took[what] = [await _timed(http, "GET", path()) for _ in range(ASKED)]
        shown.step(ASKED)
    return took


async def _sign(http: httpx.AsyncClient, specimens: int, drawn: random.Random, shown: Shown) -> dict[str, list[float]]:
    times = []
    for number in drawn.sample(range(1, specimens + 1), SIGNED):
        page = (await http.get(f"/specimens?number=BM-{number}")).json()
        [found] = page["specimens"]
        if found["state"] == "open":
            body = {"revision": found["revision"], "accept_unread": True, "accept_below_target": True}
            times.append(await _timed(http, "POST", f"/specimens/{found['id']}/sign", json=body))
        shown.step()
    return {"sign 500 cells": times}


async def _ids(http: httpx.AsyncClient, specimens: int, drawn: random.Random) -> list[str]:
    pages = [await http.get(f"/specimens?before={drawn.randint(2, specimens)}&limit=1") for _ in range(50)]
    return [each["id"] for page in pages for each in page.json()["specimens"]]


async def _timed(http: httpx.AsyncClient, method: str, path: str, **more: Any) -> float:
    began_s = time.perf_counter()
    answer = await http.request(method, path, **more)
    took_s = time.perf_counter() - began_s
    if answer.status_code != 200:
        raise RuntimeError(f"{path.split('?')[0]} answered {answer.status_code}")
    return took_s


def _fill(file: Path, specimens: int, shown: Shown) -> None:
    database = Database(f"sqlite:///{file}")
    database.migrate()
    database.close()
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        classes = json.dumps([cell_class.model_dump() for cell_class in CLASSES])
        connection.execute("INSERT INTO models VALUES (?, 'filled', '1.0.0', ?, '[]', '[]')", (_MODEL, classes))
        for number in range(1, specimens + 1):
            connection.execute(
                'INSERT INTO specimens (id, number, label, state, revision, patient, "order", target_cells, cells,'
                " reports, opened_at, digest_key) VALUES (?, ?, ?, ?, 2, ?, '{}', 500, ?, 0, ?, ?)",
                (
                    f"{number:032x}",
                    f"BM-{number}",
                    f"BM-{number}",
                    "signed" if number % 50 == 0 else "open",
                    json.dumps({"identifier": f"P-{number}"}),
                    CELLS,
                    _NOW,
                    f"{number:064x}",
                ),
            )
            connection.execute("INSERT INTO patient_numbers VALUES (?, ?)", (f"P-{number}", number))
            connection.executemany(
                "INSERT INTO cells (specimen, place, sha256, model, suggested, probability, top, code, version,"
                " added_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 1, ?)",
                _cells(number),
            )
            shown.step()
        connection.commit()


def _cells(specimen: int) -> Iterator[tuple[Any, ...]]:
    for place in range(1, CELLS + 1):
        digest = sha256(f"{specimen} {place}".encode()).hexdigest()
        code, second = _CODES[int(digest[:4], 16) % 21], _CODES[int(digest[4:8], 16) % 21]
        probability = 0.5 + int(digest[8:12], 16) / 0x20000
        top = json.dumps([[code, probability], [second, 1 - probability]])
        yield specimen, place, digest, _MODEL, code, probability, top, code, _NOW


def _size(file: Path) -> int:
    return sum(path.stat().st_size for path in file.parent.glob(f"{file.name}*"))
