"""The results of a run: one Parquet file a part, there whole or not at all; a part is done when its file is there.

Knows names, footers and rows. Knows no pictures, no model and no Ray.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from service.scoring.ray.errors import StoreError
from service.scoring.ray.plan import Plan
from service.scoring.ray.store import Folder
from service.scoring.tables import Columns, Refused, Scored, write_parquet

DONE = "_done.json"
_PREFIX, _SUFFIX = "part-", ".parquet"
_PLAN, _PROBLEMS = b"marrowlens.plan", b"marrowlens.problems"
_FOOTERS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Part:
    """One part that is done."""

    number: int
    pictures: int
    problems: int


def name_of(part: int) -> str:
    """The file of a part. Names sort as the parts do, up to a million of them."""
    return f"{_PREFIX}{part:06d}{_SUFFIX}"


def write(
    out: Folder, plan: Plan, part: int, columns: Columns, rows: Iterable[Scored | Refused], problems: int
) -> None:
    """Place a part's file. To place it again, from wherever, changes nothing.

    Raises:
        StoreError: it cannot be written
    """
    content = BytesIO()
    write_parquet(content, columns, rows, {_PLAN.decode(): plan.digest, _PROBLEMS.decode(): str(problems)})
    out.put(name_of(part), content.getvalue())


def finished(out: Folder, plan: Plan) -> Iterator[Part]:
    """The parts that are there, in no order; each file's footer is read.

    Raises:
        StoreError: a file that is no part of this plan, or cannot be read
    """
    names = sorted(name for name in out.names() if not name.startswith("_"))
    with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
        yield from pool.map(lambda name: _part(out, plan, name), names)


def _part(out: Folder, plan: Plan, name: str) -> Part:
    number = name.removeprefix(_PREFIX).removesuffix(_SUFFIX)
    address = f"{out.address}/{name}"
    if not number.isdecimal() or name != name_of(int(number)):
        raise StoreError(address, "is no file of a run; move it away")
    try:
        with out.open(name) as file:
            footer = pq.read_metadata(file)
    except StoreError as error:
        if not isinstance(error.__cause__, pa.ArrowInvalid):
            raise
        raise StoreError(address, "is damaged; remove it, and the run makes it again") from error
    notes = footer.metadata or {}
    if notes.get(_PLAN) != plan.digest.encode() or footer.num_rows != plan.size_of(int(number)):
        raise StoreError(address, "is of another run; choose another --out")
    return Part(int(number), footer.num_rows, int(notes[_PROBLEMS]))


def end(out: Folder, plan: Plan, problems: int) -> None:
    """Say beside the parts that all of them are there.

    Raises:
        StoreError: it cannot be written
    """
    said = {
        "pictures": plan.pictures,
        "problems": problems,
        "repeated": plan.repeated,
        "skipped": plan.skipped,
        "parts": plan.parts,
    }
    out.sweep()
    out.put(DONE, orjson.dumps(said, option=orjson.OPT_INDENT_2))
