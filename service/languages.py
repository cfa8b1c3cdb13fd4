"""Texts for people in each language, on pages and in printed reports, and the language of a request.

The same JSON files are read here and by the page's modules (`static/page/texts.js`): one catalogue a language.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

TEXTS = Path(__file__).parent / "web" / "static" / "texts"
#: Languages by code, with their own names. The first is used if a browser accepts none of them.
LANGUAGES: Mapping[str, str] = {"en": "English", "de": "Deutsch"}
DEFAULT = next(iter(LANGUAGES))


@lru_cache
def load_texts(language: str) -> Mapping[str, str]:
    """The texts of one language by key."""
    texts: dict[str, str] = json.loads((TEXTS / f"{language}.json").read_text(encoding="utf-8"))
    return texts


def negotiate_language(accept_language: str) -> str:
    """The language with the highest weight in `Accept-Language` (RFC 9110, 12.5.4); of equal ones the first."""
    weights: dict[str, float] = {}
    for each in accept_language.split(","):
        tag, _, weight = each.partition(";q=")
        language = tag.strip().lower().partition("-")[0]
        if language in LANGUAGES:
            weights[language] = max(weights.get(language, 0.0), _weight(weight))
    best = max(weights, key=weights.__getitem__, default=DEFAULT)
    return best if weights.get(best, 0.0) > 0 else DEFAULT


def _weight(text: str) -> float:
    try:
        return float(text) if text.strip() else 1.0
    except ValueError:
        return 0.0
