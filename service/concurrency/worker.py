"""One of several processes that serve on one port: its number, and the folder that all of them share."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Worker:
    """Identity of a worker process. A worker that is started again keeps its index.

    Attributes:
        index: 0 to count - 1.
        leads: whether it starts with what only one worker runs: order listener, delivery, maintenance, drift.
        folder: files shared by all workers of this service; removed when it stops.
    """

    index: int
    count: int
    folder: Path
    leads: bool = False

    @property
    def metrics(self) -> Path:
        """Folder of the memory-mapped metrics."""
        return self.folder / "metrics"

    @property
    def counts(self) -> Path:
        """File of `shared_counts.SharedCounts`."""
        return self.folder / "counts"

    @property
    def token_buckets(self) -> Path:
        """File of `token_buckets.TokenBuckets`."""
        return self.folder / "token_buckets"

    def session_store(self, name: str) -> Path:
        """File of a `session_store.SharedStore`."""
        return self.folder / f"{name}.sqlite"

    def drift(self, index: int) -> Path:
        """File with the drift window of a worker."""
        return self.folder / f"drift-{index}.npz"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until no other worker is in such a block; one that is killed there leaves it."""
        with (self.folder / "alone").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
