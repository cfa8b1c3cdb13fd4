"""A report as one HTML file that needs nothing else: no network, no script, its pictures inside.

Knows headings, text, tables and pictures, and how they are set for a screen, for paper and for who listens to them.
Knows no run and no figure.

Jinja2 (BSD-3) fills the template: it escapes what it is given, and HTML stays out of Python.
"""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from training.evaluation.tables import Table


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture with its words; `small` ones stand side by side."""

    data: bytes
    media_type: str
    caption: str
    alt: str
    small: bool = False

    @property
    def source(self) -> str:
        """A data: URL that holds the picture."""
        return f"data:{self.media_type};base64,{b64encode(self.data).decode('ascii')}"


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands below it, in this order."""

    title: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """One report."""

    title: str
    notice: str  # what has to be known before anything is read
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    footer: str


def render(page: Page) -> str:
    """The page as HTML."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    template = files("training.report").joinpath("page.html.jinja").read_text(encoding="utf-8")
    return environment.from_string(template).render(page=page)
