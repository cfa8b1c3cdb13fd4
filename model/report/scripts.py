"""Letters that a report cannot set: replaced by words that say so, never left out or set in the wrong order."""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

#: Bidirectional classes (Unicode, annex 9) of letters from right to left, and of marks that change the direction.
_RIGHT_TO_LEFT = frozenset({"R", "AL", "RLE", "RLO", "RLI", "LRE", "LRO", "LRI"})
_PLACE = "\0"
#: Neighbouring replaced letters, with the spaces and signs between them.
_RUN = re.compile(rf"{_PLACE}(?:[^\w{_PLACE}]*{_PLACE})*")

Content = TypeVar("Content")


def map_texts(content: Content, change: Callable[[str], str]) -> Content:
    """The content with each of its texts changed: a text, or dataclasses and sequences of texts (as tuples)."""
    mapped: Any = content
    if isinstance(content, str):
        mapped = change(content)
    elif isinstance(content, Sequence) and not isinstance(content, bytes):
        mapped = tuple(map_texts(each, change) for each in content)
    elif is_dataclass(content) and not isinstance(content, type):
        mapped = replace(
            content, **{each.name: map_texts(getattr(content, each.name), change) for each in fields(content)}
        )
    return mapped  # type: ignore[no-any-return]


def composed(text: str) -> str:
    """The text with each letter and its accents as one character, where Unicode has one."""
    return unicodedata.normalize("NFC", text)


def replace_unprintable(text: str, has_glyph: Callable[[str], bool], words: str) -> str:
    """The text with `words` in place of letters from right to left, and of letters without a glyph."""
    marked = "".join(each if _is_printable(each, has_glyph) else _PLACE for each in text)
    return _RUN.sub(lambda _: words, marked)


def _is_printable(letter: str, has_glyph: Callable[[str], bool]) -> bool:
    if letter.isspace():
        return True
    return unicodedata.bidirectional(letter) not in _RIGHT_TO_LEFT and has_glyph(letter)
