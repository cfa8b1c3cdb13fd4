"""Every key of a configuration and of a comparison as one Markdown page: docs/configuration.md.

Knows JSON Schema, which pydantic makes of the tables, and Markdown. Knows no key by name.
"""

from collections.abc import Iterator
from typing import Any

from training.compare.entries import Comparison
from training.config import Config, Strict

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


def _sections(kind: type[Strict]) -> Iterator[str]:
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
