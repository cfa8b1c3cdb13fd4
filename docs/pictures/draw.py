"""Draw docs/pictures/answer.png: the example cell and its maps, as the bundled model answers.

python docs/pictures/draw.py        (from the repository root, in the environment of `make test`)
"""

import base64
from io import BytesIO
from pathlib import Path

from fastapi.testclient import TestClient
from PIL import Image, ImageDraw, ImageFont

from service.app import create_app
from service.config.settings import Settings
from service.runtime.session import open_session

CELL = Path("examples/cell.png")
TILE, GAP, CAPTION = 220, 10, 26  # pixels


def panels() -> list[tuple[str, Image.Image]]:
    """The cell, the overlay of each attention scale, and of the evidence for the first class, each with a caption."""
    with TestClient(create_app(Settings(), open_session()), base_url="http://localhost") as client:
        query = {"maps": "attention,evidence", "map_format": "overlay", "top_k": 1}
        answer = client.post("/classify", params=query, files={"image": CELL.read_bytes()}).json()
    first = answer["evidence"][0]
    shown = [("drawn cell", Image.open(CELL))]
    shown += [(f"attention {scale['kernel']}", _picture(scale["png"])) for scale in answer["attention"]["scales"]]
    return [
        *shown,
        (f"evidence for {first['code']}, {answer['prediction']['probability']:.0%}", _picture(first["png"])),
    ]


def _picture(png: str) -> Image.Image:
    return Image.open(BytesIO(base64.b64decode(png)))


def sheet(shown: list[tuple[str, Image.Image]]) -> Image.Image:
    """The panels side by side on white."""
    width = len(shown) * (TILE + GAP) - GAP
    paper = Image.new("RGB", (width, TILE + CAPTION), "white")
    pen, font = ImageDraw.Draw(paper), ImageFont.load_default(size=15)
    for number, (caption, picture) in enumerate(shown):
        left = number * (TILE + GAP)
        paper.paste(picture.convert("RGB").resize((TILE, TILE), Image.Resampling.BICUBIC), (left, 0))
        pen.text((left, TILE + 5), caption, fill="black", font=font)
    return paper


if __name__ == "__main__":
    sheet(panels()).save(Path(__file__).with_name("answer.png"), optimize=True)
