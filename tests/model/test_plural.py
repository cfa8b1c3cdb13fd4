"""Counts in sentences."""

import pytest

from model.plural import plural


@pytest.mark.parametrize(
    ("count", "noun", "several", "text"),
    [
        (0, "message", None, "0 messages"),
        (1, "message", None, "1 message"),
        (2, "expired picture", None, "2 expired pictures"),
        (1, "mismatch", "mismatches", "1 mismatch"),
        (3, "mismatch", "mismatches", "3 mismatches"),
    ],
)
def test_one_is_singular(count: int, noun: str, several: str | None, text: str) -> None:
    assert plural(count, noun, several) == text
