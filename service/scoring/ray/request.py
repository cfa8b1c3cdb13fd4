"""What a run in parts is asked for: inputs, output, sizes. Plain data, imported with every `marrowlens score`."""

from dataclasses import dataclass
from enum import StrEnum

PART_SIZE = 2000


class Duplicates(StrEnum):
    """What is done about a key that the inputs hold more than once."""

    REFUSE = "refuse"
    FIRST = "first"


@dataclass(frozen=True, slots=True)
class Request:
    """Where pictures come from and their rows go. `part_size` None: as planned before, else PART_SIZE."""

    inputs: tuple[str, ...]
    out: str
    part_size: int | None = None
    duplicates: Duplicates = Duplicates.REFUSE
    key_column: str = "key"
    image_column: str = "image"


@dataclass(frozen=True, slots=True)
class Sizing:
    """On which cluster, by how many actors of which size; None: as fits."""

    address: str | None = None
    actors: int | None = None
    cpus: int | None = None
    gpus: float | None = None
