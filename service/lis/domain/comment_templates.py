"""The laboratory's templates for the comment of a report: a TOML file of names and texts with placeholders.

A template is filled with the specimen's numbers when a reader inserts it; the comment is then the reader's own text.
"""

import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model.regular_file import read_regular_file
from service.lis.domain.report import Line, SpecimenDifferential, Text

#: Placeholders without a class or lineage, and those with one after a dot.
_PLAIN: Final = ("cells", "counted", "target", "me_ratio", "me_low", "me_high", "megakaryocytes")
_OF_CLASS: Final = ("count", "share", "low", "high")
_PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")


class CommentTemplateError(Exception):
    """An invalid file of templates: its path, and what to change."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")


class CommentTemplate(BaseModel):
    """One template: its name in the list, and its text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Line
    text: Text

    def placeholders(self) -> list[str]:
        """The names in braces."""
        return _PLACEHOLDER.findall(self.text)


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    decimal_comma: bool = False
    not_measured: Line = "not measured"
    template: tuple[CommentTemplate, ...] = Field((), max_length=100)


@dataclass(frozen=True, slots=True)
class CommentTemplates:
    """The templates of a file; none without one."""

    file: _File = field(default_factory=_File)

    @classmethod
    def load(cls, path: Path | None) -> Self:
        """Read a laboratory's templates.

        Raises:
            CommentTemplateError: the file cannot be read or is invalid; the first error.
        """
        return cls() if path is None else cls(_checked(path, _read(path)))

    def unknown_codes(self, codes: Collection[str]) -> list[str]:
        """Classes in placeholders that are none of these codes."""
        named = [each for template in self.file.template for each in template.placeholders()]
        return sorted({name.partition(".")[2] for name in named if name.split(".")[0] in _OF_CLASS} - set(codes))

    def filled(self, found: SpecimenDifferential, megakaryocytes: int | None) -> list[CommentTemplate]:
        """The templates with the numbers of a specimen. What is not measured says so."""
        values = _values(found, megakaryocytes)
        return [
            each.model_copy(update={"text": _PLACEHOLDER.sub(lambda name: self._word(values.get(name[1])), each.text)})
            for each in self.file.template
        ]

    def _word(self, value: float | int | None) -> str:
        if value is None:
            return self.file.not_measured
        word = str(value) if isinstance(value, int) else f"{value:.1f}"
        return word.replace(".", ",") if self.file.decimal_comma else word


NO_TEMPLATES: Final = CommentTemplates()


def _values(found: SpecimenDifferential, megakaryocytes: int | None) -> Mapping[str, float | int | None]:
    """The value of each placeholder; None or absent if it is not measured."""
    ratio = found.me_ratio
    values: dict[str, float | int | None] = {
        "cells": found.cells,
        "counted": found.counted,
        "target": found.target_cells,
        "megakaryocytes": megakaryocytes,
        **({"me_ratio": ratio.value, "me_low": ratio.low, "me_high": ratio.high} if ratio.supported else {}),
    }
    for share in found.classes:
        if share.supported:
            values |= {f"count.{share.code}": share.count, f"share.{share.code}": share.percent}
            values |= {f"low.{share.code}": share.low, f"high.{share.code}": share.high}
    values |= {f"count.{share.code}": share.count for share in found.excluded}
    return values | {f"lineage.{each.lineage}": each.percent for each in found.lineages if each.supported}


def _read(path: Path) -> _File:
    try:
        return _File.model_validate(tomllib.loads(read_regular_file(path).decode("utf-8-sig")))
    except OSError as error:
        raise CommentTemplateError(path, f"cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CommentTemplateError(path, f"not valid TOML: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise CommentTemplateError(path, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _checked(path: Path, file: _File) -> _File:
    names = [each.name for each in file.template]
    for template in file.template:
        if names.count(template.name) > 1:
            raise CommentTemplateError(path, f"{template.name}: two templates have this name; rename one")
        if reason := _fault(template):
            raise CommentTemplateError(path, f"{template.name}: {reason}")
    return file


def _fault(template: CommentTemplate) -> str | None:
    if set("{}") & set(_PLACEHOLDER.sub("", template.text)):
        return "a brace without its partner; braces enclose a placeholder, such as {share.BLA}"
    return next((reason for each in template.placeholders() if (reason := _unknown(each))), None)


def _unknown(placeholder: str) -> str | None:
    name, dot, of = placeholder.partition(".")
    known: Sequence[str] = (*_OF_CLASS, "lineage") if dot else _PLAIN
    if name in known and bool(of) == bool(dot):
        return None
    nearest = get_close_matches(placeholder, (*_PLAIN, *(f"{each}.BLA" for each in _OF_CLASS), "lineage.erythroid"), 1)
    hint = f"did you mean {{{nearest[0]}}}?" if nearest else "see docs/lis.md"
    return f"unknown placeholder {{{placeholder}}}; {hint}"
