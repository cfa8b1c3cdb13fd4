"""Names of classes in the data → codes: what an ordinary folder name may mean, and the lines to add to a source."""

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from model.contract import CLASSES
from training.config import closest

MAX_CODE = 32
#: Letters that have no accent to take off.
_SPELT_OUT = str.maketrans(
    {"ß": "ss", "ø": "o", "Ø": "O", "æ": "ae", "Æ": "Ae", "œ": "oe", "ł": "l", "Ł": "L", "đ": "d"}
)


def derived_code(name: str) -> str:
    """A valid code made from a name: accents are taken off, and other characters become `_`; "class" if none is left.

    `Erythroblast ortho ö` becomes `Erythroblast_ortho_o`.
    """
    plain = unicodedata.normalize("NFKD", name.translate(_SPELT_OUT)).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9.-]+", "_", plain).strip("_")[:MAX_CODE].rstrip("_") or "class"


def derived_codes(names: Iterable[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """Name → a code of its own; names that would share one are numbered."""
    codes: dict[str, str] = {}
    used = set(taken)
    for name in names:
        code, number = derived_code(name), 1
        while code in used:
            number += 1
            code = f"{derived_code(name)[: MAX_CODE - 4]}_{number}"
        used.add(code)
        codes[name] = code
    return codes


def likely_code(name: str, codes: Sequence[str]) -> str | None:
    """The code that a name probably means: one of the same words as a class of Matek et al., or a similar code."""
    words = set(re.findall(r"\w+", name.lower()))
    for cell_class in CLASSES:
        if cell_class.code in codes and words == set(re.findall(r"\w+", cell_class.name.lower())):
            return cell_class.code
    return next(iter(closest(name.upper(), codes) or closest(name, codes)), None)


def mapping_lines(codes: Mapping[str, str]) -> str:
    """The key `classes` of a source in TOML."""
    pairs = ", ".join(f"{json.dumps(name, ensure_ascii=False)} = {json.dumps(code)}" for name, code in codes.items())
    return f"classes = {{{pairs}}}"


def unknown_classes(names: Sequence[str], codes: Sequence[str]) -> str:
    """What to say about names that are no classes: all of them, and the mapping to paste."""
    likely = {name: code for name in names if (code := likely_code(name, codes))}
    derived = derived_codes((name for name in names if name not in likely), codes)
    listed = ", ".join(map(repr, names))
    of_list = ", ".join(codes)
    new = ""
    if derived:
        codes_of_new = ", ".join(derived.values())
        new = f"\nNew classes ({codes_of_new}) need a [[classes]] table too: `marrowlens-train classes FOLDER`"
    lines = mapping_lines({name: likely.get(name) or derived[name] for name in names})
    unknown = f"unknown class {listed}" if len(names) == 1 else f"{len(names)} unknown classes: {listed}"
    return (
        f"{unknown}; the class list has {of_list}. Map them with `classes` of the source (`evaluate`: --classes "
        f"NAME=CODE), or leave them out with `leave_out`. A guess to correct and paste:\n    {lines}{new}"
    )
