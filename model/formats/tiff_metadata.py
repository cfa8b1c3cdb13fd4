"""Metadata of a TIFF: the text of ImageDescription, and the declared brightness of samples deeper than 8 bits."""

import math
import re
from collections.abc import Iterator

from model.formats.sample_depth import MAX_CLIPPED_SHARE, Scale, depth
from model.formats.tiff_directory import Directory

_DESCRIPTION = 270
_OME = re.compile(r"<(?:\w+:)?OME\b")


def description(main: Directory) -> str:
    """The whole text, whoever wrote it."""
    return main.text(_DESCRIPTION)


def ome_xml(main: Directory) -> str:
    """The text if it is OME-XML, else nothing."""
    text = description(main)
    return text if _OME.search(text[:4096]) else ""


def imagej_lines(main: Directory) -> str:
    """The text if ImageJ wrote it, else nothing."""
    text = description(main)
    return text if text.startswith("ImageJ=") else ""


_MIN_SAMPLE, _MAX_SAMPLE, _MICRO_MANAGER = 280, 281, 51123
_SIGNIFICANT_BITS = re.compile(r"""\bSignificantBits\s*=\s*["'](\d{1,2})["']""")
_BIT_DEPTH = re.compile(r'"BitDepth"\s*:\s*"?(\d{1,2})\b')
_IMAGEJ_LIMIT = re.compile(r"^(min|max)=(\S{1,40})[ \r]*$", re.MULTILINE)


def declared_scales(main: Directory) -> Iterator[Scale]:
    """OME-XML's SignificantBits, Micro-Manager's BitDepth, MinSampleValue and MaxSampleValue, ImageJ's display range.

    MaxSampleValue is often the brightest sample in place of the largest possible one, so it stands for its whole bits.
    """
    for bits in _SIGNIFICANT_BITS.findall(ome_xml(main)):
        yield depth(int(bits))
    for bits in _BIT_DEPTH.findall(main.text(_MICRO_MANAGER)):
        yield depth(int(bits))
    if brightest := max(main.numbers(_MAX_SAMPLE), default=0):
        low = min(main.numbers(_MIN_SAMPLE), default=0)
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
