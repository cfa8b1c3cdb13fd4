"""JSON of ordinary and hostile clients: ambiguous JSON is rejected, and parsing never takes seconds."""

import codecs
import json
from typing import Any

import orjson
import pytest
from cpu_cost import costs_less_than
from hypothesis import given
from hypothesis import strategies as st

from service.api.uploads.json_text import MAX_OBJECT_MEMBERS, read_json
from service.errors import MalformedBody

MANY = 10**6
MIB = 1024 * 1024
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)


@given(value=VALUES, indent=st.none() | st.integers(0, 4))
def test_what_is_written_is_read(value: Any, indent: int | None) -> None:
    text = json.dumps(value, indent=indent, separators=(" , ", " : "), ensure_ascii=False)
    try:
        expected = orjson.loads(text.encode("utf-8", "surrogatepass"))
    except orjson.JSONDecodeError:  # a surrogate that stands alone
        return
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"):
        if len(text) > 1 or "-le" not in encoding and "-be" not in encoding:
            assert read_json(text.encode(encoding), max_members=MANY) == expected


@pytest.mark.parametrize(
    "text",
    [
        '{"image":"a","image":"b"}',
        '{"image":"a","\\u0069mage":"b"}',
        '{"image" :"a", "name":"x", "image"\t:\n"b"}',
        '{"inputs":[{"name":"image","name":"image"}]}',
        '{"a":{"b":{"c":1,"c":1}}}',
        '[0,{"a":1,"a":2}]',
        '[[0],[[{"a":1,"a":2}]]]',
        '{"note":"\\":","a":1,"a":2}',
    ],
)
def test_a_name_twice_in_one_object_is_refused(text: str) -> None:
    with pytest.raises(MalformedBody, match="twice"):
        read_json(text.encode(), max_members=MANY)


def test_what_only_looks_like_a_name_twice() -> None:
    for value in ({"note": '":' * 40, "a": 1}, {'":': 1, "a": '"a":'}, [0, {"a": 1}, {"a": 2}], {"a": {"a": {"a": 1}}}):
        assert read_json(json.dumps(value).encode(), max_members=MANY) == value


HOSTILE = {
    "deep": b"[" * 4 * MIB,
    "deep objects": b'{"a":' * (4 * MIB // 5),
    "empty lists": b"[" + b"[]," * (4 * MIB // 3) + b"[]]",
    "empty objects": b"[" + b"{}," * (4 * MIB // 3) + b"{}]",
    "members": b"{" + b",".join(b'"%d":0' % at for at in range(400_000)) + b"}",
    "members of one name": b"{" + b'"a":0,' * (4 * MIB // 6) + b'"a":0}',
    "objects": b"[" + b'{"a":0},' * (4 * MIB // 8) + b"0]",
    "a huge number": b"[" + b"9" * 4 * MIB + b"]",
    "a huge exponent": b"[1e" + b"9" * 4 * MIB + b"]",
    "not a number": b"[NaN]",
    "infinity": b'{"a":-Infinity}',
    "half a surrogate": b'["\\ud800"]',
    "nothing": b"",
    "a NUL": b"[0]\0",
    "no UTF-8": b'["\xff"]',
    "half of UTF-16": codecs.BOM_UTF16_LE + b"[",
    "two values": b"[0][0]",
    "a comma too many": b"[0,]",
    "a comment": b"[0] // one",
    "quotes of another kind": b"{'a':0}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_cannot_be_read_is_refused_at_once(name: str) -> None:
    with costs_less_than(100), pytest.raises(MalformedBody):
        read_json(HOSTILE[name], max_members=50_000)


def test_an_object_has_a_bounded_number_of_members() -> None:
    allowed = {f"a{at}": at for at in range(MAX_OBJECT_MEMBERS)}
    assert read_json(json.dumps([allowed] * 9).encode(), max_members=MANY) == [allowed] * 9
    for value in (allowed | {"b": 1}, [0, allowed | {"b": 1}]):
        with pytest.raises(MalformedBody, match="an object of 65 members"):
            read_json(json.dumps(value).encode(), max_members=MANY)


DATA: dict[str, list[Any]] = {
    "black pictures": [[[[0, 0, 0]] * 64] * 64] * 120,
    "flat": [0] * (2 * MIB),
    "rows": [[0, 0, 0]] * (MIB // 2),
    "text": ["A" * 4 * MIB],
    "floats": [1.5] * MIB,
}


@pytest.mark.parametrize("data", DATA.values(), ids=DATA)
def test_data_of_megabytes_is_read(data: list[Any]) -> None:
    text = orjson.dumps({"data": data})
    assert read_json(text, max_members=10) == {"data": data}
