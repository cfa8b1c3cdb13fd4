"""The results of a run: one Parquet file per part, written atomically. A part is done if its file exists."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from service.scoring.ray.plan import Plan
from service.scoring.ray.store import OutputFolder, StoreError
from service.scoring.tables import Columns, FailedPicture, ScoredPicture, write_parquet

SUMMARY = "_done.json"
_PREFIX, _SUFFIX = "part-", ".parquet"
_PLAN_DIGEST, _PROBLEMS = b"marrowlens.plan", b"marrowlens.problems"
_FOOTER_THREADS = 8


@dataclass(frozen=True, slots=True)
class FinishedPart:
    """A part with a file of results."""

    number: int
    pictures: int
    problems: int


def part_name(part: int) -> str:
    """The file name of a part. Names sort in the order of the parts, up to a million parts."""
    return f"{_PREFIX}{part:06d}{_SUFFIX}"


def write_part(
    out: OutputFolder,
    plan: Plan,
    part: int,
    columns: Columns,
    rows: Iterable[ScoredPicture | FailedPicture],
    problems: int,
) -> None:
    """Write the file of a part. Idempotent.

    Raises:
        StoreError: it cannot be written.
    """
    content = BytesIO()
    write_parquet(content, columns, rows, {_PLAN_DIGEST.decode(): plan.digest, _PROBLEMS.decode(): str(problems)})
    out.write(part_name(part), content.getvalue())


def finished_parts(out: OutputFolder, plan: Plan) -> Iterator[FinishedPart]:
    """The parts that are done, from the footers of their files.

    Raises:
        StoreError: a file that is not part of this plan, or cannot be read.
    """
    names = sorted(name for name in out.names() if not name.startswith("_"))
    with ThreadPoolExecutor(_FOOTER_THREADS) as pool:
        yield from pool.map(lambda name: _read_footer(out, plan, name), names)


def _read_footer(out: OutputFolder, plan: Plan, name: str) -> FinishedPart:
    number = name.removeprefix(_PREFIX).removesuffix(_SUFFIX)
    address = f"{out.address}/{name}"
    if not number.isdecimal() or name != part_name(int(number)):
        raise StoreError(address, "is not a file of a run; move it away")
    try:
        with out.open(name) as file:
            footer = pq.read_metadata(file)
    except StoreError as error:
        if not isinstance(error.__cause__, pa.ArrowInvalid):
            raise
        raise StoreError(address, "is damaged; remove it and run the same command again") from error
    notes = footer.metadata or {}
    if notes.get(_PLAN_DIGEST) != plan.digest.encode() or footer.num_rows != plan.size_of(int(number)):
        raise StoreError(address, "belongs to another run; choose another --out")
    return FinishedPart(int(number), footer.num_rows, int(notes[_PROBLEMS]))


def write_summary(out: OutputFolder, plan: Plan, problems: int) -> None:
    """Write the summary that marks a complete run, and remove temporary files.

    Raises:
        StoreError: it cannot be written.
    """
    summary = {
        "pictures": plan.pictures,
        "problems": problems,
        "repeated": plan.repeated,
        "skipped": plan.skipped,
        "parts": plan.parts,
    }
    out.remove_unfinished()
    out.write(SUMMARY, orjson.dumps(summary, option=orjson.OPT_INDENT_2))
