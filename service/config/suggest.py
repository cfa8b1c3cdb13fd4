"""Did-you-mean suggestions."""

import difflib
from collections.abc import Iterable


def closest_match(name: str, known: Iterable[str]) -> str:
    """The known name most similar to this one."""
    return difflib.get_close_matches(name, sorted(known), n=1, cutoff=0)[0]
