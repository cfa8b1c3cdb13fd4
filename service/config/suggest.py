"""The name that somebody probably meant."""

import difflib
from collections.abc import Iterable


def closest_match(name: str, known: Iterable[str]) -> str:
    """Of the known names the one most like this one."""
    return difflib.get_close_matches(name, sorted(known), n=1, cutoff=0)[0]
