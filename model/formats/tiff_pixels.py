"""The pixels of a TIFF: 8-bit samples through Pillow and libtiff, and 12 or 16 bits a sample.

Pillow keeps 8 bits of deeper colours. So such a file is decoded as grey of the same bytes, three grey pixels for one of
RGB; predictor and planes are undone here. Read are grey, RGB and CMYK, with or without alpha, interleaved or in planes.
"""

from collections.abc import Iterable, Mapping
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from model.formats.errors import UndecodablePicture, UnsupportedPicture
from model.formats.sample_depth import to_8_bit
from model.formats.tiff_directory import Directory, classic
from model.formats.tiff_metadata import declared_scales

_WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
_STRIPS, _SAMPLES, _ROWS, _STRIP_SIZES, _PLANES, _PREDICTOR = 273, 277, 278, 279, 284, 317
_TILE_WIDTH, _TILE_LENGTH, _TILES, _TILE_SIZES, _EXTRA_SAMPLES = 322, 323, 324, 325, 338
_PLACES = (_STRIPS, _STRIP_SIZES, _TILES, _TILE_SIZES)
_KEPT = (_LENGTH, _COMPRESSION, _ROWS, _TILE_WIDTH, _TILE_LENGTH, *_PLACES)
_RAW, _WHITE_IS_ZERO, _SEPARATE, _DIFFERENCES = 1, 0, 2, 2
_PREMULTIPLIED, _ALPHA = 1, 2
_MAX_SAMPLES = 5  # CMYK and one more
#: PhotometricInterpretation → mode without alpha.
_MODES = {_WHITE_IS_ZERO: "L", 1: "L", 2: "RGB", 5: "CMYK"}
#: Raw, LZW, deflate (two numbers), PackBits, zstd; of these the predictor serves all but raw and PackBits.
_COMPRESSIONS, _PREDICTED = {1, 5, 8, 32773, 32946, 50000}, {5, 8, 32946, 50000}


def deep_picture(main: Directory, bits: int) -> Image.Image:
    """The picture with 8 bits a sample, not premultiplied.

    Raises:
        PictureError: a layout that is not read, brightness that cannot be told, or broken.
    """
    mode = _MODES.get(main.number(_PHOTOMETRIC, 0))
    count = main.number(_SAMPLES, 1)
    _check_layout(main, bits, mode, count)
    assert mode is not None
    samples = _samples(main, bits, count)
    colours = len(mode)  # L, RGB and CMYK have a letter a sample
    alpha, premultiplied = _alpha(main, count, colours)
    kept = [*range(colours), *alpha]
    full_scale, declared = (1 << bits) - 1, list(declared_scales(main))
    used = samples if len(kept) == count else samples[..., kept]
    if premultiplied:
        used = _straight(
            used, next((scale.high for scale in declared if used[..., -1].max() <= scale.high), full_scale)
        )
    pixels = to_8_bit(used, colours, declared, full_scale)
    if main.number(_PHOTOMETRIC, 0) == _WHITE_IS_ZERO:
        pixels[..., :colours] = 255 - pixels[..., :colours]
    height, width, _ = pixels.shape
    return Image.frombytes(mode + "A" * len(alpha), (width, height), pixels.tobytes())


def _straight(samples: NDArray[np.uint16], opaque: int) -> NDArray[np.uint16]:
    """Samples whose colours are no longer multiplied by the alpha behind them."""
    alpha = samples[..., -1:].astype(np.uint32)
    colours = samples[..., :-1].astype(np.uint32) * opaque // np.maximum(alpha, 1)
    return np.concatenate([np.minimum(colours, opaque), alpha], axis=2).astype(np.uint16)


def _check_layout(main: Directory, bits: int, mode: str | None, count: int) -> None:
    if bits not in (12, 16) or len(set(main.numbers(_BITS))) > 1:
        raise UnsupportedPicture(f"a TIFF of {bits}-bit samples; save it with unsigned samples of 8 or 16 bits")
    colours = len(mode or "")
    if mode is None or not colours <= count <= _MAX_SAMPLES or main.number(_FILL_ORDER, 1) != 1:
        raise UnsupportedPicture(f"a TIFF of an unusual layout of {bits}-bit samples; save it as 8-bit RGB or grey")
    if mode == "CMYK" and {_PREMULTIPLIED, _ALPHA} & set(main.numbers(_EXTRA_SAMPLES)):
        raise UnsupportedPicture("a TIFF of CMYK with an alpha channel; save it as RGB")
    predictor = main.number(_PREDICTOR, 1)
    packed_otherwise = bits == 12 and (_TILE_WIDTH in main.entries or predictor != 1)
    if main.number(_COMPRESSION, 1) not in _COMPRESSIONS or predictor not in (1, _DIFFERENCES) or packed_otherwise:
        raise UnsupportedPicture(f"a TIFF of {bits}-bit samples in an unusual compression; save it with LZW or deflate")


def _alpha(main: Directory, count: int, colours: int) -> tuple[list[int], bool]:
    """The place of the alpha sample, if there is one, and whether colours are multiplied by it already."""
    extra = main.numbers(_EXTRA_SAMPLES)
    if not extra and colours == 3 and count == 4:  # as Pillow reads 8-bit samples that say nothing
        return [3], False
    for place, kind in enumerate(extra[: count - colours], colours):
        if kind in (_PREMULTIPLIED, _ALPHA):
            return [place], kind == _PREMULTIPLIED
    return [], False


def _samples(main: Directory, bits: int, count: int) -> NDArray[np.uint16]:
    """All samples, (H, W, C), in this machine's byte order."""
    if main.number(_PLANES, 1) != _SEPARATE or count == 1:
        return _plane(main, bits, count, {})
    planes = []
    for plane in range(count):
        places = {}
        for tag in set(_PLACES) & main.entries.keys():
            numbers = main.numbers(tag)
            each, odd = divmod(len(numbers), count)
            if odd or not each:
                raise UndecodablePicture("the TIFF data is broken: its planes have different numbers of strips")
            places[tag] = numbers[plane * each : (plane + 1) * each]
        planes.append(_plane(main, bits, 1, places))
    return np.concatenate(planes, axis=2)


def _plane(main: Directory, bits: int, count: int, places: dict[int, tuple[int, ...]]) -> NDArray[np.uint16]:
    width = main.number(_WIDTH, 0)
    wide = {_WIDTH: (width * count,), _BITS: (16,), _PHOTOMETRIC: (1,), **places}
    if bits == 12:
        wide |= {_WIDTH: (-(-width * count * 12 // 8),), _BITS: (8,)}
    tile = main.number(_TILE_WIDTH, 0)
    if tile:
        wide[_TILE_WIDTH] = (tile * count,)
    read = np.asarray(loaded(main, _KEPT, wide))
    samples = _unpacked(read)[:, : width * count] if bits == 12 else read.astype(np.uint16)
    pixels = samples.reshape(len(samples), width, count)
    if main.number(_PREDICTOR, 1) == _DIFFERENCES and main.number(_COMPRESSION, 1) in _PREDICTED:
        for left in range(0, width, tile or width):
            part = pixels[:, left : left + (tile or width)]
            np.cumsum(part, axis=1, dtype=np.uint16, out=part)
    return pixels


def _unpacked(rows: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """12-bit samples, two in three bytes, the upper bits first; rows begin at a byte."""
    triples = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 3))).astype(np.uint16).reshape(len(rows), -1, 3)
    pairs = np.stack([triples[..., 0] << 4 | triples[..., 1] >> 4, triples[..., 1] % 16 << 8 | triples[..., 2]], axis=2)
    return pairs.reshape(len(rows), -1)


def loaded(main: Directory, tags: Iterable[int], changes: Mapping[int, tuple[int, ...]]) -> TiffImageFile:
    """The picture that these tags of a directory describe, some of them changed.

    Raises:
        UnsupportedPicture: Pillow knows no picture of such samples.
        UndecodablePicture: the strips or tiles lie outside the file or do not cover the picture.
    """
    _check_inside(main)
    try:
        picture = TiffImageFile(BytesIO(classic(main, tags, changes)))
    except SyntaxError as error:
        if str(error) == "unknown pixel mode":
            raise UnsupportedPicture("a TIFF of an unusual pixel layout; save it as 8-bit RGB or grey") from error
        raise
    _check_cover(picture)
    picture.load()
    return picture


def _check_inside(main: Directory) -> None:
    """Refuse strips and tiles that go on behind the end of the file, and more of them than the picture has."""
    offsets = main.numbers(_TILES) or main.numbers(_STRIPS)
    planes = main.number(_SAMPLES, 1) if main.number(_PLANES, 1) == _SEPARATE else 1
    if len(offsets) > planes * _strips_of_plane(main):  # Pillow would decode each of them, over the others
        raise UndecodablePicture("the TIFF data is broken: it has more strips than the picture")
    if main.number(_COMPRESSION, _RAW) == _RAW:
        sizes = _raw_sizes(main, len(offsets))
    else:
        sizes = list(main.numbers(_TILE_SIZES) or main.numbers(_STRIP_SIZES))
    ends = [offset + size for offset, size in zip(offsets, sizes, strict=False)]
    if len(sizes) < len(offsets) or max(ends, default=0) > len(main.data):
        raise UndecodablePicture("the TIFF data is broken or cut off: its strips go on behind the end of the file")


def _strips_of_plane(main: Directory) -> int:
    width, height = main.number(_WIDTH, 0), main.number(_LENGTH, 0)
    if tile := main.number(_TILE_WIDTH, 0):
        return -(-width // tile) * -(-height // max(1, main.number(_TILE_LENGTH, 0)))
    return -(-height // max(1, main.number(_ROWS, height)))


def _raw_sizes(main: Directory, count: int) -> list[int]:
    """The bytes of each uncompressed strip or tile."""
    bits = main.number(_BITS, 1) * (1 if main.number(_PLANES, 1) == _SEPARATE else main.number(_SAMPLES, 1))
    if main.number(_TILE_WIDTH, 0):
        return [(main.number(_TILE_WIDTH, 0) * bits + 7) // 8 * main.number(_TILE_LENGTH, 0)] * count
    row, height = (main.number(_WIDTH, 0) * bits + 7) // 8, main.number(_LENGTH, 0)
    rows = max(1, min(main.number(_ROWS, height), height))
    starts = range(0, height, rows)
    return [row * min(rows, height - starts[strip % len(starts)]) for strip in range(count)]


def _check_cover(picture: TiffImageFile) -> None:
    if picture.tile[0].codec_name == "libtiff":  # which counts for itself
        return
    width, height = picture.size
    planes = len(picture.getbands()) if picture.tag_v2.get(_PLANES, 1) == _SEPARATE else 1
    corners = [tile.extents or (0, 0, width, height) for tile in picture.tile]
    if sum((right - left) * (low - top) for left, top, right, low in corners) < width * height * planes:
        raise UndecodablePicture("the TIFF data is incomplete: its strips do not cover the picture")
