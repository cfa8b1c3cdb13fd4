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
from model.formats.tiff_directory import Directory, Tag, classic
from model.formats.tiff_metadata import declared_scales

_PLACES = (Tag.STRIP_OFFSETS, Tag.STRIP_BYTE_COUNTS, Tag.TILE_OFFSETS, Tag.TILE_BYTE_COUNTS)
_KEPT = (Tag.IMAGE_LENGTH, Tag.COMPRESSION, Tag.ROWS_PER_STRIP, Tag.TILE_WIDTH, Tag.TILE_LENGTH, *_PLACES)
_RAW, _WHITE_IS_ZERO, _SEPARATE, _DIFFERENCES = 1, 0, 2, 2
_PREMULTIPLIED, _ALPHA = 1, 2
_MAX_SAMPLES = 5  # CMYK and one more
#: PhotometricInterpretation → mode without alpha.
_MODES = {_WHITE_IS_ZERO: "L", 1: "L", 2: "RGB", 5: "CMYK"}
#: Raw, LZW, deflate (two numbers), PackBits, zstd; and those of them that use the predictor.
_COMPRESSIONS, _PREDICTED = {1, 5, 8, 32773, 32946, 50000}, {5, 8, 32946, 50000}


def deep_picture(main: Directory, bits: int) -> Image.Image:
    """The picture with 8 bits a sample, not premultiplied.

    Raises:
        PictureError: an unsupported layout, unknown brightness, or damaged data.
    """
    mode = _MODES.get(main.number(Tag.PHOTOMETRIC, 0))
    count = main.number(Tag.SAMPLES_PER_PIXEL, 1)
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
    if main.number(Tag.PHOTOMETRIC, 0) == _WHITE_IS_ZERO:
        pixels[..., :colours] = 255 - pixels[..., :colours]
    height, width, _ = pixels.shape
    shown = mode + "A" * len(alpha)
    return Image.frombuffer(shown, (width, height), np.ascontiguousarray(pixels), "raw", shown, 0, 1)


def _straight(samples: NDArray[np.uint16], opaque: int) -> NDArray[np.uint16]:
    """Samples with colours divided by alpha, the last sample."""
    alpha = samples[..., -1:].astype(np.uint32)
    colours = samples[..., :-1].astype(np.uint32) * opaque // np.maximum(alpha, 1)
    return np.concatenate([np.minimum(colours, opaque), alpha], axis=2).astype(np.uint16)


def _check_layout(main: Directory, bits: int, mode: str | None, count: int) -> None:
    if bits not in (12, 16) or len(set(main.numbers(Tag.BITS_PER_SAMPLE))) > 1:
        raise UnsupportedPicture(f"a TIFF of {bits}-bit samples; save it with unsigned samples of 8 or 16 bits")
    colours = len(mode or "")
    if mode is None or not colours <= count <= _MAX_SAMPLES or main.number(Tag.FILL_ORDER, 1) != 1:
        raise UnsupportedPicture(f"a TIFF of {bits}-bit samples in an unsupported layout; save it as 8-bit RGB or grey")
    if mode == "CMYK" and {_PREMULTIPLIED, _ALPHA} & set(main.numbers(Tag.EXTRA_SAMPLES)):
        raise UnsupportedPicture("a TIFF of CMYK with an alpha channel; save it as RGB")
    predictor = main.number(Tag.PREDICTOR, 1)
    packed_otherwise = bits == 12 and (Tag.TILE_WIDTH in main.entries or predictor != 1)
    if main.number(Tag.COMPRESSION, 1) not in _COMPRESSIONS or predictor not in (1, _DIFFERENCES) or packed_otherwise:
        raise UnsupportedPicture(
            f"a TIFF of {bits}-bit samples in an unsupported compression; save it with LZW or deflate"
        )


def _alpha(main: Directory, count: int, colours: int) -> tuple[list[int], bool]:
    """The index of the alpha sample, if there is one, and whether colours are premultiplied by it."""
    extra = main.numbers(Tag.EXTRA_SAMPLES)
    if not extra and colours == 3 and count == 4:  # as Pillow reads 8-bit samples without this tag
        return [3], False
    for place, kind in enumerate(extra[: count - colours], colours):
        if kind in (_PREMULTIPLIED, _ALPHA):
            return [place], kind == _PREMULTIPLIED
    return [], False


def _samples(main: Directory, bits: int, count: int) -> NDArray[np.uint16]:
    """All samples (H, W, C) in this machine's byte order."""
    if main.number(Tag.PLANAR_CONFIGURATION, 1) != _SEPARATE or count == 1:
        return _plane(main, bits, count, {})
    planes = []
    for plane in range(count):
        places: dict[int, tuple[int, ...]] = {}
        for tag in set(_PLACES) & main.entries.keys():
            numbers = main.numbers(tag)
            each, odd = divmod(len(numbers), count)
            if odd or not each:
                raise UndecodablePicture("the TIFF data is damaged: its planes have different numbers of strips")
            places[tag] = numbers[plane * each : (plane + 1) * each]
        planes.append(_plane(main, bits, 1, places))
    return np.concatenate(planes, axis=2)


def _plane(main: Directory, bits: int, count: int, places: dict[int, tuple[int, ...]]) -> NDArray[np.uint16]:
    width = main.number(Tag.IMAGE_WIDTH, 0)
    wide = {Tag.IMAGE_WIDTH: (width * count,), Tag.BITS_PER_SAMPLE: (16,), Tag.PHOTOMETRIC: (1,), **places}
    if bits == 12:
        wide |= {Tag.IMAGE_WIDTH: (-(-width * count * 12 // 8),), Tag.BITS_PER_SAMPLE: (8,)}
    tile = main.number(Tag.TILE_WIDTH, 0)
    if tile:
        wide[Tag.TILE_WIDTH] = (tile * count,)
    read = np.asarray(loaded(main, _KEPT, wide))
    samples = _unpacked(read)[:, : width * count] if bits == 12 else read.astype(np.uint16)
    pixels = samples.reshape(len(samples), width, count)
    if main.number(Tag.PREDICTOR, 1) == _DIFFERENCES and main.number(Tag.COMPRESSION, 1) in _PREDICTED:
        for left in range(0, width, tile or width):
            part = pixels[:, left : left + (tile or width)]
            np.cumsum(part, axis=1, dtype=np.uint16, out=part)
    return pixels


def _unpacked(rows: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """12-bit samples, packed two in three bytes, upper bits first; each row starts at a byte."""
    triples = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 3))).astype(np.uint16).reshape(len(rows), -1, 3)
    pairs = np.stack([triples[..., 0] << 4 | triples[..., 1] >> 4, triples[..., 1] % 16 << 8 | triples[..., 2]], axis=2)
    return pairs.reshape(len(rows), -1)


class _PixelFile(TiffImageFile):
    """A file with no metadata: `load` does not read its directory again to find some."""

    def load_end(self) -> None:
        return


def loaded(main: Directory, tags: Iterable[int], changes: Mapping[int, tuple[int, ...]]) -> TiffImageFile:
    """Decode the picture that these tags of a directory describe, with some values replaced.

    Raises:
        UnsupportedPicture: Pillow does not support this pixel layout.
        UndecodablePicture: strips or tiles are outside the file or do not cover the picture.
    """
    _check_inside(main)
    try:
        picture = _PixelFile(BytesIO(classic(main, tags, changes)))
    except SyntaxError as error:
        if str(error) == "unknown pixel mode":
            raise UnsupportedPicture("a TIFF of an unsupported pixel layout; save it as 8-bit RGB or grey") from error
        raise
    _check_cover(picture)
    picture.load()
    return picture


def _check_inside(main: Directory) -> None:
    """Check that strips and tiles are inside the file, and no more than the picture needs."""
    offsets = main.numbers(Tag.TILE_OFFSETS) or main.numbers(Tag.STRIP_OFFSETS)
    planes = main.number(Tag.SAMPLES_PER_PIXEL, 1) if main.number(Tag.PLANAR_CONFIGURATION, 1) == _SEPARATE else 1
    if len(offsets) > planes * _strips_of_plane(main):  # Pillow would decode all of them over each other
        raise UndecodablePicture("the TIFF data is damaged: it has more strips than the picture needs")
    if main.number(Tag.COMPRESSION, _RAW) == _RAW:
        sizes = _raw_sizes(main, len(offsets))
    else:
        sizes = list(main.numbers(Tag.TILE_BYTE_COUNTS) or main.numbers(Tag.STRIP_BYTE_COUNTS))
    ends = [offset + size for offset, size in zip(offsets, sizes, strict=False)]
    if len(sizes) < len(offsets) or max(ends, default=0) > len(main.data):
        raise UndecodablePicture("the TIFF data is damaged or cut off: its strips extend beyond the end of the file")


def _strips_of_plane(main: Directory) -> int:
    width, height = main.number(Tag.IMAGE_WIDTH, 0), main.number(Tag.IMAGE_LENGTH, 0)
    if tile := main.number(Tag.TILE_WIDTH, 0):
        return -(-width // tile) * -(-height // max(1, main.number(Tag.TILE_LENGTH, 0)))
    return -(-height // max(1, main.number(Tag.ROWS_PER_STRIP, height)))


def _raw_sizes(main: Directory, count: int) -> list[int]:
    """The size in bytes of each uncompressed strip or tile."""
    separate = main.number(Tag.PLANAR_CONFIGURATION, 1) == _SEPARATE
    bits = main.number(Tag.BITS_PER_SAMPLE, 1) * (1 if separate else main.number(Tag.SAMPLES_PER_PIXEL, 1))
    if tile := main.number(Tag.TILE_WIDTH, 0):
        return [(tile * bits + 7) // 8 * main.number(Tag.TILE_LENGTH, 0)] * count
    row, height = (main.number(Tag.IMAGE_WIDTH, 0) * bits + 7) // 8, main.number(Tag.IMAGE_LENGTH, 0)
    rows = max(1, min(main.number(Tag.ROWS_PER_STRIP, height), height))
    starts = range(0, height, rows)
    return [row * min(rows, height - starts[strip % len(starts)]) for strip in range(count)]


def _check_cover(picture: TiffImageFile) -> None:
    if picture.tile[0].codec_name == "libtiff":  # which checks this itself
        return
    width, height = picture.size
    planes = len(picture.getbands()) if picture.tag_v2.get(Tag.PLANAR_CONFIGURATION, 1) == _SEPARATE else 1
    corners = [tile.extents or (0, 0, width, height) for tile in picture.tile]
    if sum((right - left) * (low - top) for left, top, right, low in corners) < width * height * planes:
        raise UndecodablePicture("the TIFF data is incomplete: its strips do not cover the picture")
