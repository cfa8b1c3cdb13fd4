"""Every key of a configuration and of a comparison as one Markdown page: docs/configuration.md.

Knows JSON Schema, which pydantic makes of the tables, and Markdown. Knows no key by name.
"""

import shlex
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import tomlkit

from model.contract import CLASSES, CellClass, read_manifest
from training.compare.entries import Comparison
from training.config import Config, ConfigTable, read_config, validate_table

Schema = dict[str, Any]
Known = dict[str, Schema]  # what a $ref names

_HEAD = """# Configuration

Written by `marrowlens-train configuration --out docs/configuration.md`, from the code that reads the files; a test \
says when it is stale. An unknown key is an error that names the nearest. What is left out has the default; — has \
none and must be given.
"""
_COMPARISON = """# A comparison file

What `marrowlens-train compare` reads; [comparison.md](comparison.md) says how to write one."""
_BOUNDS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
    "multipleOf": "a multiple of {}",
    "minItems": "at least {}",
    "pattern": "`{}`",
}


def page() -> str:
    """The whole page."""
    parts = [_HEAD.rstrip(), *_sections(Config), _COMPARISON, *_sections(Comparison)]
    return "\n\n".join(parts) + "\n"


def _sections(kind: type[ConfigTable]) -> Iterator[str]:
    schema = kind.model_json_schema()
    yield from _table_and_below(schema, schema.get("$defs", {}), "", "## At the top")


def _table_and_below(schema: Schema, known: Known, path: str, heading: str) -> Iterator[str]:
    """The section of one table, then those of the tables in it."""
    rows = ["| key | type | default | what |", "|---|---|---|---|"]
    below: list[tuple[Schema, str, str]] = []
    for key, found in schema["properties"].items():
        inner = list(_tables(found, known, f"{path}.{key}".lstrip(".")))
        below += inner
        default = "" if inner else _default(found, required=key in schema.get("required", ()))
        rows.append(f"| `{key}` | {_type(found, known)} | {default} | {found.get('description', '')} |")
    yield "\n\n".join((heading, " ".join(schema.get("description", "").split()), "\n".join(rows)))
    for table, inner_path, title in below:
        yield from _table_and_below(table, known, inner_path, title)


def _tables(found: Schema, known: Known, path: str) -> Iterator[tuple[Schema, str, str]]:
    """The tables that a key may hold, each with its path and the heading of its section."""
    if "$ref" in found.get("items", {}):
        yield _of(found["items"], known), path, f"## `[[{path}]]`"
    elif "oneOf" in found:
        for one in found["oneOf"]:
            table = _of(one, known)
            yield table, path, f"## `[{path}]`, kind `{table['properties']['kind']['const']}`"
    elif "properties" in _of(found, known):
        yield _of(found, known), path, f"## `[{path}]`"


def _of(found: Schema, known: Known) -> Schema:
    return known[found["$ref"].rpartition("/")[2]] if "$ref" in found else found


def _type(found: Schema, known: Known) -> str:
    """What stands behind the =, with its bounds."""
    if any(_tables(found, known, "")):
        return "tables" if "items" in found else "table"
    if "anyOf" in found:  # a value or nothing; TOML has no nothing
        return _type(next(one for one in found["anyOf"] if one.get("type") != "null"), known)
    if "const" in found or "enum" in found:
        return " \\| ".join(f"`{_toml(one)}`" for one in found.get("enum", [found.get("const")]))
    if "prefixItems" in found:
        return f"list of {len(found['prefixItems'])}: {_type(found['prefixItems'][0], known)}"
    bounds = [words.format(found[key]) for key, words in _BOUNDS.items() if key in found]
    return ", ".join([_plain_type(found, known), *bounds])


def _plain_type(found: Schema, known: Known) -> str:
    if found.get("type") == "array":
        return f"list of {_type(found['items'], known)}"
    if found.get("type") == "object":
        values = found.get("additionalProperties")
        return f"table of {_type(values, known)}" if isinstance(values, dict) else "table"
    return "path" if found.get("format") == "path" else str(found["type"])


def _default(found: Schema, required: bool) -> str:
    if required:
        return "—"
    value = found.get("default")
    return "" if value is None else f"`{_toml(value)}`"


def _toml(value: Any) -> str:
    """A value as TOML has it, in a table's cell."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + "}"
    return f"[{', '.join(map(_toml, value))}]" if isinstance(value, list | tuple) else str(value)


def read_classes(source: Path | None) -> list[CellClass]:
    """The classes of an artefact (its .onnx or .json) or of a folder of class folders; without a source, the 21.

    A folder whose name is a code of the 21 is taken for that class; of any other only the name is known.

    Raises:
        ValueError: neither, or a folder name that cannot be a code.
        ArtefactError: the artefact's manifest cannot be read.
    """
    if source is None:
        return list(CLASSES)
    if source.suffix in (".onnx", ".json"):
        return list(read_manifest(source.with_suffix(".json")).classes)
    if not source.is_dir():
        raise ValueError(f"{source}: expected an artefact (.onnx) or a folder with one folder a class")
    names = sorted(entry.name for entry in source.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(names) < 2:
        raise ValueError(f"{source}: {len(names)} class folders; two are the least that can be told apart")
    known = {cell_class.code: cell_class for cell_class in CLASSES}
    return [known.get(name) or CellClass(code=name, name=name) for name in names]


def classes_toml(classes: Iterable[CellClass]) -> str:
    """`[[classes]]` tables, in logit order; what has its default is left out."""
    tables = tomlkit.aot()
    for cell_class in classes:
        tables.append(tomlkit.item(cell_class.model_dump(exclude_defaults=True)))
    return tomlkit.dumps({"classes": tables})


def read_with_overrides(path: Path, init: str | None) -> tuple[Config, str]:
    """A configuration and its text, `model.init` changed in both where `init` is given.

    Raises:
        ConfigError: see `read_config`.
    """
    config, text = read_config(path), path.read_text(encoding="utf-8")
    if init is None:
        return config, text
    document = tomlkit.parse(text)
    document.setdefault("model", tomlkit.table())["init"] = init
    text = tomlkit.dumps(document)
    return validate_table(Config, tomllib.loads(text), path), text


def command_arguments(path: Path, init: str | None) -> str:
    """The arguments that name this configuration to `marrowlens-train fit`."""
    return shlex.join([str(path)] if init is None else [str(path), "--init", init])
