"""Checks before decoding, shared by the formats: the size of a picture, and damage by a transfer in text mode."""

from model.formats.errors import PictureTooLarge, UndecodablePicture

DEFAULT_MAX_PIXELS = 16_000_000
#: A picture of one cell is neither a line nor a dot; stretched to a square such a shape would show nothing.
MIN_SIDE_PIXELS = 8
MAX_ASPECT_RATIO = 10


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Refuse too many pixels, and a shape that cannot be a cell.

    Raises:
        PictureTooLarge: more than max_pixels.
        UndecodablePicture: a side is too short, or one is much longer than the other.
    """
    if width * height > max_pixels:
        raise PictureTooLarge(f"{width} x {height} pixels; at most {max_pixels} are read")
    if min(width, height) < MIN_SIDE_PIXELS:
        raise UndecodablePicture(f"{width} x {height} pixels; each side must have at least {MIN_SIDE_PIXELS}")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise UndecodablePicture(f"{width} x {height} pixels; the sides may differ by {MAX_ASPECT_RATIO} times at most")


#: So many LF, each behind a CR, are no chance: one in 256 is, in pixels as in what is compressed.
_MIN_LINE_FEEDS = 16


def check_line_ends(form: str, data: bytes) -> None:
    """Refuse a BMP, TIFF or WebP in which CR was put before every LF; one of the size that it states is whole.

    Raises:
        UndecodablePicture: it is one.
    """
    if len(data) == _stated_size(form, data):
        return
    line_feeds = data.count(b"\n")
    if line_feeds >= _MIN_LINE_FEEDS and data.count(b"\r\n") == line_feeds:
        raise UndecodablePicture(
            f"the {form} data is damaged: its line ends were changed, as a transfer as text does; send the file again,"
            " unchanged"
        )


def _stated_size(form: str, data: bytes) -> int | None:
    if form == "BMP":
        return int.from_bytes(data[2:6], "little")
    if form == "WEBP":
        return int.from_bytes(data[4:8], "little") + 8
    return None
