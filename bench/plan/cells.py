"""One measurement (`Cell`), and the JSON-lines file that stores those of a run, so that a run can resume."""

import datetime
import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Refusals(_Line):
    """Answers with `Retry-After`."""

    count: int
    p50_ms: float
    p99_ms: float
    with_retry_after: int  # that carry the header as a whole number of seconds, 1 or more
    retry_after_s: float | None  # median of the header
    drain_s: float | None  # median of what was accepted and unanswered at that moment, over the goodput


class Cell(_Line):
    """One server under one workload in one round. Latencies are of answers with status 200."""

    model: str
    server: str
    workload: str
    round: int
    requests: int  # sent in the window, or due in it
    statuses: dict[str, int]  # "0": no answer; "open": none yet when the load ended
    checked: int  # pictures of answers that were held against the bare session
    wrong: int  # of these, those that differ
    offered_per_s: float | None  # of an open loop
    requests_per_s: float  # answered 200; of an open loop within the deadline
    pictures_per_s: float
    late: int  # answered 200 past the deadline
    mean_ms: float | None
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    refusals: Refusals | None
    lag_p99_ms: float | None  # of an open loop: sent after it was due
    generator_share: float | None  # of its own core, in a closed loop


class EngineTiming(_Line):
    """One engine at one batch size in one round."""

    engine: str
    setting: str
    batch: int
    round: int
    pictures_per_s: float


class OnePicture(_Line):
    """Decode and bare session.run, one picture after the other; and decoding alone, by this project, by Pillow, and to
    the full size by libjpeg-turbo."""

    one_picture_ms: float
    decode_ms: float
    pillow_ms: float
    turbo_ms: float
    round: int


class Sitting(_Line):
    """One call of the benchmark: its time, and the machine's load before it began."""

    date: datetime.date
    load_average: float  # of the last minute, in processes that run or want to


Line = Cell | EngineTiming | OnePicture | Sitting
KINDS: tuple[type[Line], ...] = (Cell, EngineTiming, OnePicture, Sitting)


class Ledger:
    """The JSON-lines file of a run. An incomplete last line (after a kill) is dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.lines: list[Line] = list(_read(path))
        # What was cut off would swallow the next line.
        path.write_text("".join(line.model_dump_json() + "\n" for line in self.lines), encoding="utf-8")

    def add(self, line: Line) -> None:
        """Append a line and flush it to disk."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line.model_dump_json() + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.lines.append(line)

    @property
    def cells(self) -> list[Cell]:
        return [line for line in self.lines if isinstance(line, Cell)]

    @property
    def timings(self) -> list[EngineTiming]:
        return [line for line in self.lines if isinstance(line, EngineTiming)]

    @property
    def one_picture(self) -> list[OnePicture]:
        return [line for line in self.lines if isinstance(line, OnePicture)]

    @property
    def sittings(self) -> list[Sitting]:
        return [line for line in self.lines if isinstance(line, Sitting)]

    def cell(self, model: str, server: str, workload: str, round: int) -> Cell | None:
        """The stored measurement, or None."""
        wanted = (model, server, workload, round)
        return next((c for c in self.cells if (c.model, c.server, c.workload, c.round) == wanted), None)

    def has_engine(self, engine: str, round: int) -> bool:
        """Whether the engine was timed in this round."""
        return any(timing.engine == engine and timing.round == round for timing in self.timings)


def _read(path: Path) -> Iterator[Line]:
    if not path.exists():
        return
    for text in path.read_text(encoding="utf-8").splitlines():
        for kind in KINDS:
            try:
                yield kind.model_validate_json(text)
                break
            except ValidationError:
                continue
