"""Draw the pictures of a whole specimen into a ZIP: 230 cells of a plausible adult marrow.

    .venv-serve-cpu/bin/python examples/drawn_specimen.py cells.zip

A computer draws these cells: a rehearsal of the laboratory's steps, which measures nothing.
"""

import io
import sys
import zipfile
from collections.abc import Iterator

from PIL import Image

from training.drawn.painter import paint

#: Cells of each class; one of each comes first, then a second of each, and so on.
CELLS = {
    "BLA": 4,
    "PMO": 8,
    "MYB": 20,
    "MMZ": 24,
    "NGB": 34,
    "NGS": 52,
    "EOS": 6,
    "EBO": 50,
    "LYT": 26,
    "MON": 4,
    "ART": 2,
}


def _codes() -> Iterator[str]:
    for turn in range(max(CELLS.values())):
        yield from (code for code, count in CELLS.items() if turn < count)


def main(path: str) -> None:
    """Write the ZIP."""
    with zipfile.ZipFile(path, "w") as archive:
        for number, code in enumerate(_codes(), 1):
            file = io.BytesIO()
            Image.fromarray(paint(code, number).picture).save(file, "JPEG", quality=92)
            archive.writestr(f"cell-{number:03}.jpg", file.getvalue())
    print(f"{path}: {sum(CELLS.values())} drawn cells")  # noqa: T201 (what it is for)


if __name__ == "__main__":
    main(sys.argv[1])
