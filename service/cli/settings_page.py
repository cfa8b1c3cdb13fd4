"""`docs/settings.md`, written from the settings: every name, its default, what it may be, what it does.

Knows the settings and Markdown. Nothing on the page is written anywhere else.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from service.config.auth import AuthSettings
from service.config.lis import LIS_PREFIX, LisSettings
from service.config.secret_files import SUFFIX
from service.config.settings import PREFIX, Settings

_TOP = """# Settings

Written by `marrowlens config docs`; a test finds it stale. All settings are read once, at the start, from the
environment. A name that begins with `MARROWLENS_` and is no setting is an error that names the nearest one.
`marrowlens config check` prints what is in force and where each value comes from, and tries the files that are named.

A secret may stand in a file instead: `NAME_FILE` names it, and `NAME` stays unset. The file has one line of UTF-8 text;
the end of the line is not part of the secret. It is read once, at the start, and refused where others may write it.

An empty value is as good as none. Where a default says nothing, the last column says what happens then.
"""


_BY_FORMAT = {"path": "path", "password": "secret"}
_BY_TYPE = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "`true`, `false`",
    "array": "names, with commas between",
    "object": "NAME=URI, with commas between",
    "null": "",
}
_BOUNDS = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}


def page() -> str:
    """The whole page."""
    own = [name for name in Settings.model_fields if name not in AuthSettings.model_fields and name != "lis"]
    schema, laboratory = Settings.model_json_schema(), LisSettings.model_json_schema()
    sections: tuple[tuple[str, str, Iterable[str], Mapping[str, Any]], ...] = (
        ("The service", PREFIX, own, schema),
        ("Access and TLS", PREFIX, AuthSettings.model_fields, schema),
        ("The laboratory", LIS_PREFIX, LisSettings.model_fields, laboratory),
    )
    return _TOP + "".join(f"\n## {title}\n\n{_table(prefix, names, of)}" for title, prefix, names, of in sections)


def _table(prefix: str, names: Iterable[str], schema: Mapping[str, Any]) -> str:
    rows = ["| variable | default | values | what |", "|---|---|---|---|"]
    for name in names:
        field = schema["properties"][name]
        variable, values = f"{prefix}{name.upper()}", _values(field)
        by_file = f". `{variable}{SUFFIX}`: a file that holds it" if values == "secret" else ""
        rows.append(f"| `{variable}` | {_default(field)} | {values} | {_cell(field['description'])}{by_file} |")
    return "\n".join(rows) + "\n"


def _default(field: Mapping[str, Any]) -> str:
    value = field.get("default")
    if value in (None, {}, [], ""):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{','.join(value) if isinstance(value, list) else value}`"


def _values(field: Mapping[str, Any]) -> str:
    return _cell(" or ".join(filter(None, (_kind(each) for each in field.get("anyOf", [field])))))


def _kind(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(f"`{each}`" for each in schema["enum"])
    words = _BY_FORMAT.get(schema.get("format", "")) or _BY_TYPE[schema["type"]]
    bounds = [f"{sign} {schema[key]:g}" for key, sign in _BOUNDS.items() if key in schema]
    return f"{words} {', '.join(bounds)}".strip()


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
