"""What programs write into a TIFF's ImageDescription: OME-XML, or ImageJ's lines."""

import re

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
