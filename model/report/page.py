"""A report's content: tables, images and text. `model.report.html` and `model.report.pdf` write it."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass

#: Pixels of an embedded image in an inch.
DPI = 150


@dataclass(frozen=True, slots=True)
class Table:
    """A title, a header, rows of text, and a note on how to read them."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str


@dataclass(frozen=True, slots=True)
class EmbeddedImage:
    """An image with caption and alternative text; `small` ones are laid out side by side."""

    data: bytes
    media_type: str
    caption: str
    alt: str
    small: bool = False

    @property
    def source(self) -> str:
        """The image as a data: URL."""
        return f"data:{self.media_type};base64,{b64encode(self.data).decode('ascii')}"


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, then paragraphs, tables and images."""

    title: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[Table] = ()
    images: Sequence[EmbeddedImage] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """A report: title, notice, facts (name and text), sections, footer."""

    title: str
    notice: str  # shown above everything else
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    footer: str
