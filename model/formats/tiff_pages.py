"""Which picture of a TIFF file is the one that a person sees: the first, and it must be the only one.

Smaller copies of it (the levels of a pyramid) are not further pictures. Refused: pages, a preview that stands before
the picture, and stacks whose planes share one directory.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from math import prod

from model.formats.errors import UndecodablePicture, UnsupportedPicture
from model.formats.tiff_directory import MAX_DIRECTORIES, Directory, directory_at
from model.formats.tiff_metadata import description, imagej_lines, ome_xml

_SUBFILE_TYPE, _OLD_SUBFILE_TYPE = 254, 255
_WIDTH, _LENGTH, _BITS, _COMPRESSION, _SAMPLES = 256, 257, 258, 259, 277
_STRIPS, _TILES = 273, 324
_STRIP_SIZES, _TILE_SIZES = 279, 325
_SUB_DIRECTORIES, _EXIF, _GPS, _INTEROPERABILITY = 330, 34665, 34853, 40965
_IMAGE_DEPTH, _METAMORPH_PLANES, _NDPI = 32997, 33629, 65420
_REDUCED, _MASK = 1, 4
_RAW = 1
_IMAGEJ_PLANES = re.compile(r"^(images|channels|slices|frames)=(\d{1,9})\s*$", re.MULTILINE)
_TIFFFILE_SHAPE = re.compile(r'\{"shape": \[(\d{1,9}(?:, ?\d{1,9}){1,7})\], .{0,200}?"axes": "([A-Z]{2,8})"')
_AXES_OF_A_PLANE = "YXSC"  # S are samples, C the channels of colour, which are samples too
_OME_PIXELS = re.compile(r"<(?:\w+:)?Pixels\b[^<>]*>")
_OME_SIZE = re.compile(r"""\b(SizeZ|SizeC|SizeT)\s*=\s*["'](\d{1,9})["']""")


def check_one_picture(chain: Sequence[Directory]) -> None:
    """Refuse a file of which the first directory is not the picture, or not all of it.

    Raises:
        UnsupportedPicture: several pages, a preview first, or a stack.
    """
    main, *further = chain
    kind = main.number(_SUBFILE_TYPE, 0)
    children = [directory_at(main, at) for at in main.numbers(_SUB_DIRECTORIES)[:MAX_DIRECTORIES]]
    if kind & (_REDUCED | _MASK) or main.number(_OLD_SUBFILE_TYPE, 1) == 2:
        raise UnsupportedPicture(_PREVIEW)
    if any(_pixels(child) > _pixels(main) for child in (*further, *children)):
        raise UnsupportedPicture(_PREVIEW)
    if not all(map(_is_reduced, (*further, *children))):
        if _is_whole_slide(main):
            raise UnsupportedPicture("a scan of a whole slide; cut out one cell and send it as a picture")
        raise UnsupportedPicture("a TIFF of several pages; send each page as a picture of its own")
    _check_stack(main)
    if main.number(_COMPRESSION, _RAW) == _RAW:
        _check_hidden_planes(chain, children)


_PREVIEW = (
    "a TIFF whose first picture is a preview (as in camera raw files), not the picture itself; develop it and send a "
    "TIFF of one picture"
)


def _pixels(directory: Directory) -> int:
    return directory.number(_WIDTH, 0) * directory.number(_LENGTH, 0)


def _is_reduced(directory: Directory) -> bool:
    return bool(directory.number(_SUBFILE_TYPE, 0) & _REDUCED) or directory.number(_OLD_SUBFILE_TYPE, 1) == 2


def _is_whole_slide(main: Directory) -> bool:
    return _NDPI in main.entries or description(main).startswith("Aperio")


def _check_stack(main: Directory) -> None:
    planes = max(_described_planes(main), main.number(_IMAGE_DEPTH, 1), _metamorph_planes(main))
    if planes > 1:
        raise UnsupportedPicture(f"a TIFF stack of {planes} planes; send each plane as a picture of its own")


def _metamorph_planes(main: Directory) -> int:
    entry = main.entries.get(_METAMORPH_PLANES)
    return entry.count if entry else 1


def _described_planes(main: Directory) -> int:
    """The planes that ImageJ, OME-XML or tifffile declares; the samples of one pixel are one plane."""
    samples = max(1, main.number(_SAMPLES, 1))
    if lines := imagej_lines(main):
        counts = {name: int(count) for name, count in _IMAGEJ_PLANES.findall(lines)}
        planes = counts.pop("images", 0) or prod(counts.values())
        in_depth_or_time = max(counts.get("slices", 1), counts.get("frames", 1)) > 1
        return 1 if planes == samples and not in_depth_or_time else planes
    if found := _TIFFFILE_SHAPE.match(description(main)):
        return _tifffile_planes([int(size) for size in found[1].split(",")], found[2])
    return max((_ome_planes(pixels, samples) for pixels in _OME_PIXELS.findall(ome_xml(main))), default=1)


def _tifffile_planes(shape: list[int], axes: str) -> int:
    """By the names of axes: a stack of three or four planes is stored as the samples of one RGB picture."""
    named = zip(axes, shape, strict=False)
    return prod(size for axis, size in named if axis not in _AXES_OF_A_PLANE)


def _ome_planes(pixels: str, samples: int) -> int:
    size = {name: int(count) for name, count in _OME_SIZE.findall(pixels)}
    return size.get("SizeZ", 1) * size.get("SizeT", 1) * -(-size.get("SizeC", 1) // samples)


def _check_hidden_planes(chain: Sequence[Directory], children: Sequence[Directory]) -> None:
    """Refuse a raw file that holds another plane behind the pixels of its first directory; zeros at the end do not."""
    main = chain[0]
    plane = _bytes_of_plane(main)
    offsets = main.numbers(_STRIPS) or main.numbers(_TILES)
    sizes = main.numbers(_STRIP_SIZES) or main.numbers(_TILE_SIZES) or (plane,)
    end = max(
        (offset + min(size or plane, plane) for offset, size in zip(offsets, sizes, strict=False)),
        default=len(main.data),
    )
    padded = not main.data[-plane:].strip(b"\0")
    behind = len(main.data.rstrip(b"\0") if padded else main.data) - end
    if not plane or behind < plane:
        return
    named = sum(_bytes_of_pixels(directory) for directory in (*chain[1:], *children))
    named += sum(_bytes_of_tags(directory) for directory in (*chain, *children, *_metadata(main)))
    if behind - named >= plane:
        raise UnsupportedPicture("a TIFF with more planes than its directory names; send each as a picture of its own")


def _metadata(main: Directory) -> Iterator[Directory]:
    for tag in (_EXIF, _GPS, _INTEROPERABILITY):
        for at in main.numbers(tag)[:1]:
            with suppress(UndecodablePicture):  # metadata that cannot be read says nothing of the pixels
                yield directory_at(main, at)


def _bytes_of_plane(directory: Directory) -> int:
    """The bytes of the uncompressed pixels that a directory names."""
    if directory.numbers(_TILE_SIZES):
        return sum(directory.numbers(_TILE_SIZES))
    bits = directory.number(_BITS, 1) * directory.number(_SAMPLES, 1)
    return (directory.number(_WIDTH, 0) * bits + 7) // 8 * directory.number(_LENGTH, 0)


def _bytes_of_pixels(directory: Directory) -> int:
    return sum(directory.numbers(_STRIP_SIZES)) + sum(directory.numbers(_TILE_SIZES))


def _bytes_of_tags(directory: Directory) -> int:
    return 12 * len(directory.entries) + sum(entry.size for entry in directory.entries.values() if entry.size > 8)
