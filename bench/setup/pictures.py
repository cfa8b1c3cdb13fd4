"""The JPEGs sent to every server: real cells from a folder, otherwise drawn ones."""

import hashlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from training.drawn.morphology import MORPHOLOGIES
from training.drawn.painter import paint

COUNT = 64
SIDE_PIXELS = 250  # of the published pictures (Matek et al. 2021)
#: About 40 KB for a drawn cell, which is what a camera's JPEG of that size has.
QUALITY = 98


class NoPictures(Exception):
    """The folder contains no JPEG."""


def drawn(folder: Path, count: int = COUNT) -> list[bytes]:
    """Drawn cells of all classes in turn; cached in `folder`, because drawing takes longer than measuring a server."""
    folder.mkdir(parents=True, exist_ok=True)
    codes = list(MORPHOLOGIES)
    return [_drawn_once(folder, codes[number % len(codes)], number) for number in range(count)]


def _drawn_once(folder: Path, code: str, seed: int) -> bytes:
    path = folder / f"{code}-{seed}-q{QUALITY}.jpg"
    if not path.exists():
        out = BytesIO()
        Image.fromarray(paint(code, seed, SIDE_PIXELS).picture).save(out, "JPEG", quality=QUALITY, subsampling=0)
        path.write_bytes(out.getvalue())
    return path.read_bytes()


def real(folder: Path, count: int = COUNT) -> list[bytes]:
    """A number of JPEGs, evenly sampled from a folder and its subfolders.

    Raises:
        NoPictures: there are fewer.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if len(found) < count:
        raise NoPictures(f"{folder} holds {len(found)} JPEGs; {count} are needed")
    return [found[at].read_bytes() for at in np.linspace(0, len(found) - 1, count).astype(int).tolist()]


def sha256(pictures: Sequence[bytes]) -> str:
    """Hash of all pictures, in order."""
    return hashlib.sha256(b"".join(hashlib.sha256(picture).digest() for picture in pictures)).hexdigest()
