"""Segments and fields as text. Pure, no I/O.

Knows positions and delimiters. Does not know what any segment means. `Encoded` is text in which everything free is
escaped already: mypy lets nothing else into a segment.
"""

from collections.abc import Iterable, Mapping
from typing import NewType

from service.lis.exchange.hl7.escaping import escape

Encoded = NewType("Encoded", str)

EMPTY = Encoded("")


def text(value: str | int | float | None) -> Encoded:
    """One value as a whole field; nothing when there is none."""
    return EMPTY if value is None else Encoded(escape(str(value)))


def components(*values: str | None) -> Encoded:
    """Values as the components of a field; absent ones at the end are left away."""
    return Encoded("^".join(text(value) for value in values).rstrip("^"))


def repetitions(values: Iterable[Encoded]) -> Encoded:
    """Fields as the repetitions of one."""
    return Encoded("~".join(values))


def segment(name: str, fields: Mapping[int, Encoded]) -> str:
    """A segment from its fields by their number, those that are empty at its end left away. MSH counts from MSH-3."""
    last = max((number for number, value in fields.items() if value), default=0)
    first, head = (3, r"MSH|^~\&") if name == "MSH" else (1, name)
    return "|".join([head, *(fields.get(number, EMPTY) for number in range(first, last + 1))])


def message(segments: Iterable[str]) -> str:
    """Segments as a message: each ends with a carriage return and nothing else."""
    return "".join(f"{each}\r" for each in segments)
