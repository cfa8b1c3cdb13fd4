"""What a run began with and who taught it, and what follows: whom to name, on which terms, which figures are too good.

Knows what is written beside weights, and split lists. Knows no tensors and no network.
"""

import hashlib
import io
import re
from pathlib import Path, PurePosixPath

from model import csv_file
from model.contract import ArtefactError
from training.config import Config, ConfigError
from training.fit.weight_files import IMAGENET, InitialError, Known, known_of
from training.run import Ancestor

#: What terms ask of whoever passes weights on, each more than the one before; the most that a licence names counts.
TERMS = (
    r"\bCC0\b|public domain",
    r"\bMIT\b|\bBSD\b|\bApache\b",
    r"\bCC[ -]BY\b",
    r"\bCC[ -]BY[ -]SA\b|\bA?GPL",
    r"\bCC[ -]BY[ -](NC|ND)\b|non-?commercial",
)


def ancestors_of(config: Config, split: str) -> tuple[Ancestor, ...]:
    """The weights that `model.init` names and those of the teachers, held against the test block.

    Args:
        split: the text of the run's split.csv.
    """
    named = [(config.model.init, "Begun with the weights of")] if config.model.init else []
    named += [(str(teacher), "Taught by") for teacher in config.distil.teachers]
    return tuple(_ancestor(source, config.model.variant, how, split) for source, how in named)


def laxer(licence: str, theirs: str) -> bool:
    """Whether a licence asks less than that of the weights it stands on; one that is not known asks the most."""
    kept = bool(theirs) and theirs in licence
    return not kept and _asks(licence, unknown=len(TERMS)) < _asks(theirs, unknown=len(TERMS))


def _asks(licence: str, unknown: int) -> int:
    named = [at for at, terms in enumerate(TERMS) if re.search(terms, licence, re.IGNORECASE)]
    return max(named, default=unknown)


def _ancestor(source: str, variant: str, how: str, split: str) -> Ancestor:
    try:
        known = known_of(source, variant)
    except (InitialError, ConfigError, ArtefactError):  # an export of a run that did not write down what it found
        named = f"{how} {Path(source).name}, which was not at hand when this was written: its licence is not known."
        return Ancestor(attribution=(named,), licence="", limit=_limit(how, Path(source).name, None, 0))
    named = (
        f"{how} {known.title} (sha256 {_sha256(known.path)}); their licence: {known.licence or 'not written there'}."
    )
    names, tested = _learned_from(known), _names(split, {"test"})
    seen = None if names is None else sum(name in names for name in tested)
    limit = "" if source == IMAGENET else _limit(how, known.title, seen, len(tested))
    return Ancestor(attribution=(named, *known.attribution), licence=known.licence, limit=limit, seen=seen or 0)


def _limit(how: str, title: str, seen: int | None, tested: int) -> str:
    begun = f"{how} {title}"
    if seen is None:
        return f"{begun}, of which it is not known what it learned from: that may be pictures of the test block."
    if seen:
        return (
            f"{begun}, which learned from {seen} of the {tested} test pictures, by their file names: the figures "
            "are too good, and say nothing of new pictures."
        )
    return (
        f"{begun}, which learned from none of the {tested} test pictures, by their file names; copies under other "
        "names, and what stands behind it in turn, were not looked for."
    )


def _learned_from(known: Known) -> set[str] | None:
    return None if known.split is None else set(_names(known.split, {"train", "calibration"}))


def _names(split: str, blocks: set[str]) -> list[str]:
    """File names, without folders: another copy of a data set may lie in others."""
    rows = csv_file.reader(io.StringIO(split))
    return [PurePosixPath(row["file"]).name for row in rows if row["block"] in blocks]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
