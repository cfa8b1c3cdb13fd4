"""One of several processes that serve on one port: its number, and the folder that all of them share."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Worker:
    """Identity of a worker process. A worker that is started again keeps its index.

    Attributes:
        index: 0 to count - 1.
        folder: files shared by all workers of this service; removed when it stops.
    """

    index: int
    count: int
    folder: Path

    @property
    def metrics(self) -> Path:
        """Folder of the memory-mapped metrics."""
        return self.folder / "metrics"

    @property
    def counts(self) -> Path:
        """File of `shared_counts.SharedCounts`."""
        return self.folder / "counts"
