"""Valid pictures in every accepted format, and their containers, drawn from a seed."""

import io
import tarfile
import zipfile
from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
BOUNDARY = "----stress"
Named = Sequence[tuple[str, bytes]]


@cache
def picture(seed: int, form: str = "JPEG", width: int = 80, height: int = 72) -> bytes:
    """One picture in one format, determined by the seed."""
    random = np.random.default_rng(seed)
    shade = random.integers(0, 192, 3)
    coarse = Image.fromarray((shade + random.integers(0, 64, (6, 6, 3))).astype(np.uint8))
    return encoded(coarse.resize((width, height), Image.Resampling.BILINEAR), form)


def encoded(drawn: Image.Image, form: str, **options: object) -> bytes:
    """A Pillow picture as a file's bytes."""
    file = io.BytesIO()
    drawn.save(file, form, **options)
    return file.getvalue()


def zipped(members: Named, method: int = zipfile.ZIP_STORED) -> bytes:
    """A ZIP of named members, in order."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members:
            archive.NameToInfo.clear()  # or zipfile would warn of a name that comes twice
            archive.writestr(name, data)
    return file.getvalue()


def tarred(members: Named) -> bytes:
    """A tar of named members, in order."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def form(field: str, members: Named, boundary: str = BOUNDARY) -> bytes:
    """The body of a multipart form: one file a member."""
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n'.encode()
        + b"Content-Type: application/octet-stream\r\n\r\n"
        + data
        + b"\r\n"
        for name, data in members
    ]
    return b"".join(parts) + f"--{boundary}--\r\n".encode()


def form_type(boundary: str = BOUNDARY) -> str:
    """The Content-Type that goes with `form`."""
    return f"multipart/form-data; boundary={boundary}"
