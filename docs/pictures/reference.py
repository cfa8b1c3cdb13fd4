"""Draw service/lis/drawn_cells: the reference cells of each class where a laboratory has no others.

python docs/pictures/reference.py        (from the repository root, in the environment of `make test`)
"""

from pathlib import Path

from PIL import Image

from model.contract import CLASSES
from training.drawn.painter import paint

FOLDER = Path("service/lis/drawn_cells")
CELLS, SIZE, QUALITY = 4, 112, 80


def main() -> None:
    """Draw every picture anew."""
    for cell_class in CLASSES:
        folder = FOLDER / cell_class.code
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(1, CELLS + 1):
            picture = Image.fromarray(paint(cell_class.code, 100 + number, 250).picture)
            picture.resize((SIZE, SIZE), Image.Resampling.LANCZOS).save(folder / f"{number}.jpg", quality=QUALITY)


if __name__ == "__main__":
    main()
