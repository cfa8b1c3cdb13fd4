"""Pictures that were sent to a specimen, as what is written down of them. Knows no storage and no model."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Suggestion:
    """What the model says of one picture: the most probable classes, the first first."""

    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class SentCell:
    """One picture that was sent. Without a suggestion when it was seen to be there already."""

    sha256: str
    key: str | None
    suggestion: Suggestion | None
