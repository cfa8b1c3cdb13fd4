"""Check that a TIFF holds one picture, in its first directory.

Smaller copies of it, as the levels of a pyramid, are allowed. Refused: several pages, a preview before the picture, and
stacks with all planes in one directory.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from math import prod

from model.formats.errors import UndecodablePicture, UnsupportedPicture
from model.formats.tiff_directory import MAX_DIRECTORIES, Directory, Tag, directory_at
from model.formats.tiff_metadata import description, imagej_lines, ome_xml

_REDUCED, _MASK = 1, 4
_RAW = 1
_IMAGEJ_PLANES = re.compile(r"^(images|channels|slices|frames)=(\d{1,9})\s*$", re.MULTILINE)
_TIFFFILE_SHAPE = re.compile(r'\{"shape": \[(\d{1,9}(?:, ?\d{1,9}){1,7})\], .{0,200}?"axes": "([A-Z]{2,8})"')
_AXES_OF_A_PLANE = "YXSC"  # S are samples, C the channels of colour, which are samples too
_OME_PIXELS = re.compile(r"<(?:\w+:)?Pixels\b[^<>]*>")
_OME_SIZE = re.compile(r"""\b(SizeZ|SizeC|SizeT)\s*=\s*["'](\d{1,9})["']""")


def check_one_picture(chain: Sequence[Directory]) -> None:
    """Check that the first directory is the only picture.

    Raises:
        UnsupportedPicture: several pages, a preview first, or a stack.
    """
    main, *further = chain
    kind = main.number(Tag.NEW_SUBFILE_TYPE, 0)
    children = [directory_at(main, at) for at in main.numbers(Tag.SUB_IFDS)[:MAX_DIRECTORIES]]
    if kind & (_REDUCED | _MASK) or main.number(Tag.SUBFILE_TYPE, 1) == 2:
        raise UnsupportedPicture(_PREVIEW)
    if any(_pixels(child) > _pixels(main) for child in (*further, *children)):
        raise UnsupportedPicture(_PREVIEW)
    if not all(map(_is_reduced, (*further, *children))):
        if _is_whole_slide(main):
            raise UnsupportedPicture("a whole-slide scan; crop one cell and send it as a picture")
        raise UnsupportedPicture("a TIFF of several pages; send each page as a separate picture")
    _check_stack(main)
    if main.number(Tag.COMPRESSION, _RAW) == _RAW:
        _check_hidden_planes(chain, children)


_PREVIEW = "a TIFF that starts with a preview, as camera raw files do; develop it and send a TIFF of one picture"


def _pixels(directory: Directory) -> int:
    return directory.number(Tag.IMAGE_WIDTH, 0) * directory.number(Tag.IMAGE_LENGTH, 0)


def _is_reduced(directory: Directory) -> bool:
    return bool(directory.number(Tag.NEW_SUBFILE_TYPE, 0) & _REDUCED) or directory.number(Tag.SUBFILE_TYPE, 1) == 2


def _is_whole_slide(main: Directory) -> bool:
    return Tag.NDPI in main.entries or description(main).startswith("Aperio")


def _check_stack(main: Directory) -> None:
    planes = max(_described_planes(main), main.number(Tag.IMAGE_DEPTH, 1), _metamorph_planes(main))
    if planes > 1:
        raise UnsupportedPicture(f"a TIFF stack of {planes} planes; send each plane as a separate picture")


def _metamorph_planes(main: Directory) -> int:
    entry = main.entries.get(Tag.METAMORPH_UIC2)
    return entry.count if entry else 1


def _described_planes(main: Directory) -> int:
    """Number of planes that ImageJ, OME-XML or tifffile declares; the samples of a pixel are one plane."""
    samples = max(1, main.number(Tag.SAMPLES_PER_PIXEL, 1))
    if lines := imagej_lines(main):
        counts = {name: int(count) for name, count in _IMAGEJ_PLANES.findall(lines)}
        planes = counts.pop("images", 0) or prod(counts.values())
        in_depth_or_time = max(counts.get("slices", 1), counts.get("frames", 1)) > 1
        return 1 if planes == samples and not in_depth_or_time else planes
    if found := _TIFFFILE_SHAPE.match(description(main)):
        return _tifffile_planes([int(size) for size in found[1].split(",")], found[2])
    return max((_ome_planes(pixels, samples) for pixels in _OME_PIXELS.findall(ome_xml(main))), default=1)


def _tifffile_planes(shape: list[int], axes: str) -> int:
    """By the axes' names: tifffile stores a stack of three or four planes as the samples of one RGB picture."""
    named = zip(axes, shape, strict=False)
    return prod(size for axis, size in named if axis not in _AXES_OF_A_PLANE)


def _ome_planes(pixels: str, samples: int) -> int:
    size = {name: int(count) for name, count in _OME_SIZE.findall(pixels)}
    return size.get("SizeZ", 1) * size.get("SizeT", 1) * -(-size.get("SizeC", 1) // samples)


def _check_hidden_planes(chain: Sequence[Directory], children: Sequence[Directory]) -> None:
    """Refuse an uncompressed file with another plane after the first directory's pixels; zero padding is allowed."""
    main = chain[0]
    plane = _bytes_of_plane(main)
    offsets = main.numbers(Tag.STRIP_OFFSETS) or main.numbers(Tag.TILE_OFFSETS)
    sizes = main.numbers(Tag.STRIP_BYTE_COUNTS) or main.numbers(Tag.TILE_BYTE_COUNTS) or (plane,)
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
        raise UnsupportedPicture(
            "a TIFF with more planes than its directory lists; send each plane as a separate picture"
        )


def _metadata(main: Directory) -> Iterator[Directory]:
    for tag in (Tag.EXIF_IFD, Tag.GPS_IFD, Tag.INTEROPERABILITY_IFD):
        for at in main.numbers(tag)[:1]:
            with suppress(UndecodablePicture):  # unreadable metadata does not matter for the pixels
                yield directory_at(main, at)


def _bytes_of_plane(directory: Directory) -> int:
    """The size in bytes of the uncompressed pixels of a directory."""
    if directory.numbers(Tag.TILE_BYTE_COUNTS):
        return sum(directory.numbers(Tag.TILE_BYTE_COUNTS))
    bits = directory.number(Tag.BITS_PER_SAMPLE, 1) * directory.number(Tag.SAMPLES_PER_PIXEL, 1)
    return (directory.number(Tag.IMAGE_WIDTH, 0) * bits + 7) // 8 * directory.number(Tag.IMAGE_LENGTH, 0)


def _bytes_of_pixels(directory: Directory) -> int:
    return sum(directory.numbers(Tag.STRIP_BYTE_COUNTS)) + sum(directory.numbers(Tag.TILE_BYTE_COUNTS))


def _bytes_of_tags(directory: Directory) -> int:
    return 12 * len(directory.entries) + sum(entry.size for entry in directory.entries.values() if entry.size > 8)
