"""Time of decoding and resizing one cell by format, beside Pillow and libjpeg-turbo.

    python -m bench.timings.decoding --cells ../shared/cells/originals --rounds 60

Each cell is written in every accepted format. A round decodes all cells once with each decoder, alternately. Times are
CPU time of one thread; ratios are taken within a round, so that other programs disturb little. Prints a Markdown table.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image, ImageCms, ImageOps

from bench.setup.pictures import drawn, real
from model.formats.embedded_profile import SRGB_CURVE, Primaries, matrix_profile
from model.image import decode
from stress.clients.pictures import encoded
from stress.results import Table, machine

COUNT = 24
SIZE = 128
WARM_UP_ROUNDS = 3
_DISPLAY_P3 = matrix_profile(Primaries((0.68, 0.32), (0.265, 0.69), (0.15, 0.06)), SRGB_CURVE)
_SRGB = ImageCms.createProfile("sRGB")

Decoder = Callable[[bytes], object]
Change = Callable[[Image.Image], Image.Image]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of file: how a cell is written, and the steps that Pillow needs beside `open` for the same pixels."""

    write: Callable[[bytes, Image.Image], bytes]
    shown: Change = lambda picture: picture


def _saved(
    form: str, change: Change = lambda picture: picture, **options: Any
) -> Callable[[bytes, Image.Image], bytes]:
    return lambda _, cell: encoded(change(cell), form, **options)


def _turned_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def _deep(cell: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(ImageOps.autocontrast(cell.convert("L"))).astype(np.uint16) * 257)


def _upper_bytes(picture: Image.Image) -> Image.Image:
    return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))


def _in_srgb(picture: Image.Image) -> Image.Image:
    profile = ImageCms.ImageCmsProfile(BytesIO(picture.info["icc_profile"]))
    converted = ImageCms.profileToProfile(picture, profile, _SRGB, outputMode="RGB")
    assert converted is not None, "a new picture, because it is not converted in place"
    return converted


def _over_white(picture: Image.Image) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)


KINDS = {
    "JPEG": Kind(lambda data, _: data),
    "JPEG, quality 85": Kind(_saved("JPEG", quality=85)),
    "JPEG, progressive": Kind(_saved("JPEG", quality=85, progressive=True)),
    "JPEG, grey": Kind(_saved("JPEG", lambda cell: cell.convert("L"), quality=85)),
    "JPEG, CMYK": Kind(_saved("JPEG", lambda cell: cell.convert("CMYK"), quality=85)),
    "JPEG, EXIF orientation": Kind(_saved("JPEG", quality=85, exif=_turned_exif()), ImageOps.exif_transpose),
    "JPEG, sRGB profile": Kind(_saved("JPEG", quality=85, icc_profile=ImageCms.ImageCmsProfile(_SRGB).tobytes())),
    "JPEG, Display P3 profile": Kind(_saved("JPEG", quality=85, icc_profile=_DISPLAY_P3), _in_srgb),
    "JPEG, 1000 px": Kind(_saved("JPEG", lambda cell: cell.resize((1000, 1000)), quality=85)),
    "PNG": Kind(_saved("PNG")),
    "PNG, alpha": Kind(_saved("PNG", lambda cell: cell.convert("RGBA")), _over_white),
    "PNG, palette": Kind(_saved("PNG", lambda cell: cell.quantize(256))),
    "PNG, grey": Kind(_saved("PNG", lambda cell: cell.convert("L"))),
    "PNG, 16-bit grey": Kind(_saved("PNG", _deep), _upper_bytes),
    "TIFF": Kind(_saved("TIFF")),
    "TIFF, LZW": Kind(_saved("TIFF", compression="tiff_lzw")),
    "TIFF, deflate": Kind(_saved("TIFF", compression="tiff_adobe_deflate")),
    "TIFF, JPEG": Kind(_saved("TIFF", compression="jpeg", quality=85)),
    "TIFF, 16-bit grey": Kind(_saved("TIFF", _deep), _upper_bytes),
    "BMP": Kind(_saved("BMP")),
    "BMP, 32 bits": Kind(_saved("BMP", lambda cell: cell.convert("RGBA"))),
    "WebP": Kind(_saved("WEBP", quality=85)),
    "WebP, lossless": Kind(_saved("WEBP", lossless=True)),
    "WebP, alpha": Kind(_saved("WEBP", lambda cell: cell.convert("RGBA"), quality=85)),
}


def main() -> None:
    """Time every kind, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=Path, help="folder of JPEGs; default drawn cells")
    parser.add_argument("--rounds", type=int, default=30, help="timed rounds")
    arguments = parser.parse_args()
    cells = real(arguments.cells, COUNT) if arguments.cells else drawn(Path(".bench/cells"), COUNT)
    rows = [_row(name, _written(kind, cells), kind.shown, arguments.rounds) for name, kind in KINDS.items()]
    head = ["file", "KB", "marrowlens, ms", "Pillow, ms", "marrowlens / Pillow", "marrowlens / libjpeg-turbo"]
    print(f"{Table(head, rows).markdown()}\n\n{COUNT} cells, {SIZE} px, {arguments.rounds} rounds, {machine()}")  # noqa: T201


def _written(kind: Kind, cells: Sequence[bytes]) -> list[bytes]:
    return [kind.write(data, Image.open(BytesIO(data)).convert("RGB")) for data in cells]


def _row(name: str, files: Sequence[bytes], shown: Change, rounds: int) -> list[str]:
    decoders: list[Decoder] = [partial(decode, size=SIZE), partial(_by_pillow, shown=shown)]
    if name.startswith("JPEG"):
        decoders.append(partial(simplejpeg.decode_jpeg, colorspace="CMYK" if "CMYK" in name else "RGB"))
    times = np.array([[_cpu_ms(decoder, files) for decoder in decoders] for _ in range(rounds + WARM_UP_ROUNDS)])
    times = times[WARM_UP_ROUNDS:]
    ours, pillow = np.median(times[:, :2], axis=0)
    ratios = np.median(times[:, :1] / times[:, 1:], axis=0)
    size = np.mean([len(data) for data in files]) / 1000
    row = [name, f"{size:.0f}", f"{ours:.3f}", f"{pillow:.3f}", *(f"{ratio:.2f}" for ratio in ratios)]
    return row if len(decoders) > 2 else [*row, ""]


def _by_pillow(data: bytes, shown: Change) -> object:
    with Image.open(BytesIO(data)) as picture:
        return np.asarray(shown(picture).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def _cpu_ms(decoder: Decoder, files: Sequence[bytes]) -> float:
    began = time.thread_time()
    for data in files:
        decoder(data)
    return 1000 * (time.thread_time() - began) / len(files)


if __name__ == "__main__":
    main()
