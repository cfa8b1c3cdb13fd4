"""Content negotiation: which of the forms that an answer has the client's `Accept` prefers (RFC 9110, 12.5.1).

Knows the header's grammar. Does not know the answers.
"""

import re
from collections.abc import Sequence

from service.errors import NotAcceptable

_WEIGHT = re.compile(r"[0-9](\.[0-9]*)?", re.ASCII)
_EXACT = 2


def preferred(accept: str | None, offered: Sequence[str]) -> str:
    """The form with the highest weight; of equal ones that which is named most exactly.

    Of forms that one range names it is the first offered, of forms that are each named by themselves the last: offer
    first what serves everybody, and last what has to be asked for. Without the header, or where it speaks of no form,
    it is the first: an answer that a client did not name serves it better than none.

    Raises:
        NotAcceptable: the header gives the weight 0 to what it speaks of, and speaks of every form.
    """
    ranges = [_range(each) for each in (accept or "").split(",") if each.strip()]
    found = [_weight(form, ranges) for form in offered]
    best = max(found)
    if best[0] > 0:
        equal = [form for form, each in zip(offered, found, strict=True) if each == best]
        return equal[-1 if best[1] == _EXACT else 0]
    unnamed = [form for form, (_, exactness) in zip(offered, found, strict=True) if exactness < 0]
    if not unnamed:
        raise NotAcceptable(offered)
    return unnamed[0]


def _range(text: str) -> tuple[str, float]:
    media_range, *parameters = (part.strip().lower() for part in text.split(";"))
    weight = 1.0
    for name, _, value in (each.partition("=") for each in parameters):
        if name.strip() == "q" and _WEIGHT.fullmatch(value.strip()):
            weight = min(float(value), 1.0)
    return media_range, weight


def _weight(form: str, ranges: Sequence[tuple[str, float]]) -> tuple[float, int]:
    """The weight of a form, by the range that names it most exactly, and how exactly; (0, -1) if none does."""
    names = ("*/*", f"{form.partition('/')[0]}/*", form)  # the last at `_EXACT`
    named = [(names.index(media_range), weight) for media_range, weight in ranges if media_range in names]
    if not named:
        return 0.0, -1
    exactness = max(exactness for exactness, _ in named)
    return max(weight for found, weight in named if found == exactness), exactness
