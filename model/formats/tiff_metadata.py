"""Metadata of a TIFF: the text of ImageDescription, and the declared brightness of samples deeper than 8 bits."""

import math
import re
from collections.abc import Iterator

from model.formats.sample_depth import MAX_CLIPPED_SHARE, Scale, depth
from model.formats.tiff_directory import Directory, Tag

_OME = re.compile(r"<(?:\w+:)?OME\b")


def description(main: Directory) -> str:
    """The text of ImageDescription."""
    return main.text(Tag.IMAGE_DESCRIPTION)


def ome_xml(main: Directory) -> str:
    """The text if it is OME-XML, else empty."""
    text = description(main)
    return text if _OME.search(text[:4096]) else ""


def imagej_lines(main: Directory) -> str:
    """The text if ImageJ wrote it, else empty."""
    text = description(main)
    return text if text.startswith("ImageJ=") else ""


_SIGNIFICANT_BITS = re.compile(r"""\bSignificantBits\s*=\s*["'](\d{1,2})["']""")
_BIT_DEPTH = re.compile(r'"BitDepth"\s*:\s*"?(\d{1,2})\b')
_IMAGEJ_LIMIT = re.compile(r"^(min|max)=(\S{1,40})[ \r]*$", re.MULTILINE)


def declared_scales(main: Directory) -> Iterator[Scale]:
    """Declared brightness ranges of samples, in order of preference.

    OME-XML's SignificantBits, Micro-Manager's BitDepth, MinSampleValue and MaxSampleValue, ImageJ's display range.
    MaxSampleValue is often the brightest sample instead of the largest possible one, so it is rounded up to full bits.
    """
    for bits in _SIGNIFICANT_BITS.findall(ome_xml(main)):
        yield depth(int(bits))
    for bits in _BIT_DEPTH.findall(main.text(Tag.MICRO_MANAGER)):
        yield depth(int(bits))
    if brightest := max(main.numbers(Tag.MAX_SAMPLE_VALUE), default=0):
        low = min(main.numbers(Tag.MIN_SAMPLE_VALUE), default=0)
        yield Scale(depth(brightest.bit_length()).high, low)
    yield from _display_range(imagej_lines(main))


def _display_range(lines: str) -> Iterator[Scale]:
    limits = {}
    for name, value in _IMAGEJ_LIMIT.findall(lines):
        try:
            limits[name] = float(value)
        except ValueError:
            continue
    low, high = limits.get("min", 0.0), limits.get("max", math.nan)
    if math.isfinite(low) and math.isfinite(high):
        yield Scale(round(high), round(low), MAX_CLIPPED_SHARE)
