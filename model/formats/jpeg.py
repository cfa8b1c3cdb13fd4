"""JPEG files: decoding that refuses incomplete or damaged data (ITU-T T.81 and T.86).

libjpeg fills missing data with grey and only warns. Here every warning is an error: none of 11,779 real cells causes
one. What libjpeg does not notice is checked by the markers: a missing end, missing scans, and line ends changed by a
transfer in text mode.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from model.formats.errors import PictureError, UndecodablePicture, UnsupportedPicture

#: Each scan of a progressive JPEG needs a pass over all blocks. Cameras and editors write about ten.
MAX_SCANS = 100
#: A colour profile needs up to 255 segments, and extended XMP one for each 64 KB.
MAX_SEGMENTS = 4096
#: Scans of this many bytes contain each of the 256 values: all of 11,758 real cells, and 1 - 3e-5 of random bytes.
MIN_BYTES_FOR_LINE_ENDS = 4096

# Least side of the picture in sides of the wanted square, and the scale in eighths. Real cells then differ by at most
# 0.8 levels in the mean from those decoded in full (docs/decisions/0019). Only these scales have SIMD code in
# libjpeg-turbo: 5/8 to 7/8 take longer than 8/8, and 3/8 longer than 4/8.
_SCALES = ((16, 1), (6, 2), (2.5, 4))

_HOLE = bytes(32)  # real cells have at most 5 zeros in a row
_DHT, _SOI, _EOI, _SOS, _DNL, _APP0, _APP1, _APP2 = 0xC4, 0xD8, 0xD9, 0xDA, 0xDC, 0xE0, 0xE1, 0xE2
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_BARE = {0x01, *range(0xD0, 0xD8)}  # TEM and RSTn: markers without a segment
_BASELINE, _EXTENDED, _PROGRESSIVE = 0xC0, 0xC1, 0xC2
_FRAMES = {
    _BASELINE: None,
    _EXTENDED: None,
    _PROGRESSIVE: None,
    0xC3: "a lossless JPEG",
    **dict.fromkeys((0xC5, 0xC6, 0xC7, 0xDE), "a hierarchical JPEG"),
    **dict.fromkeys((0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF), "an arithmetic-coded JPEG"),
    0xF7: "a JPEG-LS picture",
}
# The end of entropy-coded data: a marker that is neither a stuffed byte, a fill byte nor RSTn.
_NEXT_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_FILL = re.compile(rb"\xff{2,}")
_BARE_LINE_FEED = re.compile(rb"[^\r]\n")
_CUT_OFF = "the JPEG data is cut off: {}; send the whole file again"
_DAMAGED = "the JPEG data is damaged: {}; send the file again, unchanged"


class Segment(NamedTuple):
    """A marker, the span of its parameters, and the end of the entropy-coded data after it (scans only)."""

    marker: int
    start: int
    end: int
    scan_end: int


class Component(NamedTuple):
    """One colour component of a frame: its identifier and sampling factors."""

    identifier: int
    across: int
    down: int


@dataclass(frozen=True, slots=True)
class Frame:
    """The frame header (SOF)."""

    progressive: bool
    width: int
    height: int
    components: tuple[Component, ...]


def segments(data: bytes) -> Iterator[Segment]:
    """The segments up to the end marker; data after it is ignored.

    Raises:
        UndecodablePicture: the end marker is missing, or bytes lie between two segments.
    """
    at = 2
    for _ in range(MAX_SEGMENTS):
        head = data[at : at + 4]
        if len(head) < 2:
            raise UndecodablePicture(_CUT_OFF.format("its end marker is missing"))
        marker = head[1]
        if head[0] != 0xFF or marker in (0, _SOI):
            raise UndecodablePicture(_DAMAGED.format("extra bytes between two segments"))
        if marker == _EOI:
            return
        if marker in _BARE:
            at += 2
            continue
        if marker == 0xFF and (fill := _FILL.match(data, at)):
            at = fill.end() - 1
            continue
        end = at + 2 + int.from_bytes(head[2:], "big")
        if len(head) < 4 or end < at + 4 or end > len(data):
            raise UndecodablePicture(_CUT_OFF.format("a segment is longer than the file"))
        after = _scan_end(data, end) if marker == _SOS else end
        yield Segment(marker, at + 4, end, after)
        at = after
    raise UndecodablePicture(f"a JPEG of more than {MAX_SEGMENTS} segments")


def _scan_end(data: bytes, start: int) -> int:
    found = _NEXT_MARKER.search(data, start)
    if found is None:
        raise UndecodablePicture(_CUT_OFF.format("its end marker is missing"))
    return found.start()


def _frame(marker: int, header: bytes) -> Frame:
    if name := _FRAMES[marker]:
        raise UnsupportedPicture(f"{name}; send a Huffman-coded JPEG of 8 bits (baseline or progressive)")
    if len(header) < 6 or len(header) != 6 + 3 * header[5]:
        raise UndecodablePicture(_DAMAGED.format("its frame header has the wrong length"))
    if header[0] != 8:
        raise UnsupportedPicture(f"a {header[0]}-bit JPEG; send 8 bits a sample, or a 16-bit PNG or TIFF")
    height, width, count = int.from_bytes(header[1:3], "big"), int.from_bytes(header[3:5], "big"), header[5]
    if height == 0:
        raise UnsupportedPicture("a JPEG with its height after the first scan (DNL); save it again")
    if count not in (1, 3, 4):
        raise UnsupportedPicture(f"a JPEG of {count} components; send grey, RGB or CMYK")
    fields = (header[at : at + 2] for at in range(6, len(header), 3))
    components = tuple(Component(identifier, factors >> 4, factors & 15) for identifier, factors in fields)
    return Frame(marker == _PROGRESSIVE, width, height, components)


def scale_for(frame: Frame, side: int) -> int:
    """The scale at which a picture for a square of `side` pixels is decoded: 1, 2, 4 or 8 eighths."""
    shorter: float = min(frame.width, frame.height)
    if len(frame.components) > 1 and shorter >= _SCALES[-1][0] * side:
        shorter *= _chroma_share(frame.components)
    return next((scale for least, scale in _SCALES if shorter >= least * side), 8)


def _chroma_share(components: tuple[Component, ...]) -> float:
    """Least share of the picture's samples along a side, if libjpeg does not decode chroma at a larger scale.

    It decodes twice as many eighths of chroma of half the width and half the height (4:2:0), but not of chroma
    subsampled in one direction only (4:2:2, 4:4:0, 4:1:1).
    """
    across, down = max(part.across for part in components), max(part.down for part in components)
    if all(part.across * down == part.down * across for part in components):
        return 1
    return min(min(part.across / across, part.down / down) for part in components)


@dataclass(frozen=True, slots=True)
class Layout:
    """The frame of a complete JPEG, and all its segments."""

    frame: Frame
    segments: tuple[Segment, ...]


def read_layout(data: bytes, accept: Callable[[Frame], object]) -> Layout:
    """Read the segments of a file in one pass, and check that it is complete.

    Args:
        data: the file.
        accept: called with the frame header, before what follows it is read; raises if the picture is not wanted.

    Raises:
        UnsupportedPicture: an unsupported JPEG process.
        UndecodablePicture: cut off, damaged, or too many scans.
    """
    frame: Frame | None = None
    found: list[Segment] = []
    scans: list[Segment] = []
    heights: list[bytes] = []
    for segment in segments(data):
        found.append(segment)
        if segment.marker == _SOS:
            if frame is None:
                break
            scans.append(segment)
        elif segment.marker in _FRAMES:
            if frame:
                raise UndecodablePicture(_DAMAGED.format("it has two frame headers"))
            frame = _frame(segment.marker, data[segment.start : segment.end])
            accept(frame)
        elif segment.marker == _DNL:
            heights.append(data[segment.start : segment.end])
    if frame is None:
        raise UndecodablePicture(_DAMAGED.format("it has no frame header"))
    if any(height != frame.height.to_bytes(2, "big") for height in heights):
        raise UndecodablePicture(_DAMAGED.format("its two heights differ"))
    if len(scans) > MAX_SCANS:
        raise UndecodablePicture(f"a JPEG of more than {MAX_SCANS} scans")
    _check_coverage(frame, [data[scan.start : scan.end] for scan in scans])
    _check_line_ends(data, scans)
    if not frame.progressive:  # there zeros can be empty blocks, and libjpeg notices most holes
        _check_holes(data, found, scans)
    return Layout(frame, tuple(found))


def _check_coverage(frame: Frame, headers: list[bytes]) -> None:
    """Check that the scans contain every bit of every coefficient of every component."""
    whole = bytes(64) if frame.progressive else b"\0"  # a sequential scan contains all coefficients of its components
    missing_bits = {component.identifier: bytearray(b"\xff" * len(whole)) for component in frame.components}
    for header in headers:
        if len(header) < 4 or len(header) != 4 + 2 * header[0]:
            raise UndecodablePicture(_DAMAGED.format("a scan header has the wrong length"))
        first, last, low = (header[-3], header[-2], header[-1] & 15) if frame.progressive else (0, 0, 0)
        for identifier in header[1:-3:2]:
            if identifier not in missing_bits or not first <= last <= 63:
                raise UndecodablePicture(_DAMAGED.format("a scan header does not fit the frame"))
            missing_bits[identifier][first : last + 1] = bytes((low,)) * (last + 1 - first)
    if any(bits != whole for bits in missing_bits.values()):
        raise UndecodablePicture(_CUT_OFF.format("scans are missing"))


def _check_line_ends(data: bytes, scans: list[Segment]) -> None:
    """Check that the file was not transferred in text mode: its scans contain CR, LF, and LF without CR.

    Changed bytes can be in data that libjpeg skips. A conversion of CR LF to LF is not detected.
    """
    spans = [(scan.end, scan.scan_end) for scan in scans]
    suspects = [value for value in (b"\r", b"\n") if all(data.find(value, start, end) < 0 for start, end in spans)]
    doubled = not any(_BARE_LINE_FEED.search(data, start, end) for start, end in spans)
    if not suspects and not doubled:
        return
    coded = b"".join(data[start:end] for start, end in spans)
    if len(coded) >= MIN_BYTES_FOR_LINE_ENDS and len(set(coded)) >= 256 - len(suspects):
        raise UndecodablePicture(_DAMAGED.format("its line ends were changed by a transfer in text mode"))


def _check_holes(data: bytes, found: list[Segment], scans: list[Segment]) -> None:
    """Check that a baseline picture has no run of zero bytes, as an incompletely written file has.

    If the code of zeros ends a block, an area of one colour is such a run, and is allowed. Otherwise a run would mean
    the same coefficient 63 times in every block.
    """
    holed = [scan for scan in scans if data.find(_HOLE, scan.end, scan.scan_end) >= 0]
    if not holed:
        return
    ends_block = {0: False, 1: True}  # the tables of a file that contains none (T.81 annex K.3)
    for segment in found:
        if segment.marker == _DHT:
            ends_block.update(_ends_of_block(data[segment.start : segment.end]))
        elif segment in holed:
            tables = data[segment.start + 2 : segment.end - 3 : 2]
            if not all(ends_block.get(table & 15) for table in tables):
                raise UndecodablePicture(_DAMAGED.format("a part of it is all zeros"))


def _ends_of_block(tables: bytes) -> Iterator[tuple[int, bool]]:
    """Number of each AC table in a segment (T.81 section B.2.4.2), and whether its code of zeros ends a block."""
    at = 0
    while at + 17 < len(tables):
        if tables[at] >> 4:
            yield tables[at] & 15, tables[at + 17] == 0
        at += 17 + sum(tables[at + 1 : at + 17])


def profile(data: bytes, layout: Layout) -> bytes | None:
    """The embedded ICC profile, joined from its segments (ICC.1:2022 annex B.4); None without a profile.

    Raises:
        UndecodablePicture: a part is missing or duplicated.
    """
    parts: dict[int, bytes] = {}
    totals: set[int] = set()
    for marker, start, end, _ in layout.segments:
        if marker == _APP2 and data.startswith(b"ICC_PROFILE\0", start, end - 2):
            number, total = data[start + 12], data[start + 13]
            if number in parts:
                raise UndecodablePicture("the colour profile is damaged: a part of it is duplicated")
            parts[number] = data[start + 14 : end]
            totals.add(total)
    if not parts:
        return None
    if totals != {len(parts)} or max(parts) != len(parts) or 0 in parts:
        raise UndecodablePicture("the colour profile is damaged: a part of it is missing")
    return b"".join(parts[number] for number in sorted(parts))


def metadata(data: bytes, layout: Layout) -> dict[str, bytes]:
    """The EXIF and XMP blocks before the first scan, under Pillow's names; an EXIF block can have several segments."""
    found: dict[str, bytes] = {}
    for marker, start, end, _ in layout.segments:
        if marker == _SOS:
            break
        if marker == _APP1 and data.startswith(_EXIF, start, end):
            found["exif"] = found.get("exif", _EXIF) + data[start + len(_EXIF) : end]
        elif marker == _APP1 and data.startswith(_XMP, start, end):
            found["xmp"] = data[start + len(_XMP) : end]
    return found


def decode(data: bytes, layout: Layout, scale: int = 8) -> NDArray[np.uint8]:
    """Decode a JPEG. A warning of libjpeg is an error; the scale changes no warning.

    Args:
        data: the file.
        layout: of this file.
        scale: 1, 2, 4 or 8 eighths of the sides.

    Returns:
        RGB (H, W, 3), or the inks of a CMYK picture (H, W, 4), 255 for full ink. Scaled sides are rounded up: the last
        row and column can be partly outside the picture.

    Raises:
        UnsupportedPicture: chroma subsampling that libjpeg-turbo does not support.
        UndecodablePicture: cut off or damaged.
    """
    frame = layout.frame
    four = len(frame.components) == 4
    # simplejpeg uses the smallest scale of at least these sides. 0: in full
    height, width = (-(-side * scale // 8) if scale < 8 else 0 for side in (frame.height, frame.width))
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            _normalized(data, layout), "CMYK" if four else "RGB", min_height=height, min_width=width
        )
    except ValueError as error:
        raise _refusal(str(error), frame) from error
    return (
        np.invert(pixels, out=pixels) if four else pixels
    )  # every known writer of CMYK stores inverted values, as Adobe does


def _refusal(warning: str, frame: Frame) -> PictureError:
    if "subsampling" in warning:
        factors = ", ".join(f"{component.across}x{component.down}" for component in frame.components)
        return UnsupportedPicture(f"a JPEG of unsupported chroma subsampling ({factors}); save it as 4:4:4 or 4:2:0")
    if "remature end" in warning:
        return UndecodablePicture(_CUT_OFF.format("its scans end before the picture does"))
    return UndecodablePicture(_DAMAGED.format(warning.removeprefix("Corrupt JPEG data: ").strip()))


def _normalized(data: bytes, layout: Layout) -> bytes:
    """The file with two header fields corrected that libjpeg warns about and that do not affect the pixels."""
    odd: list[tuple[int, bytes]] = []
    for marker, start, end, _ in layout.segments:
        if marker == _APP0 and data.startswith(b"JFIF\0", start, end - 9) and data[start + 5] != 1:
            odd.append((start + 5, b"\1"))  # a version other than 1.x
        if marker == _SOS and not layout.frame.progressive and data[end - 3 : end] != b"\0\x3f\0":
            odd.append((end - 3, b"\0\x3f\0"))  # a range of coefficients, where there is no choice
    if not odd:
        return data
    copy = bytearray(data)
    for at, value in odd:
        copy[at : at + len(value)] = value
    return bytes(copy)
