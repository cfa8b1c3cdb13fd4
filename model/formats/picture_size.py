"""The sizes of a picture that are read; checked by the header, before any pixel is decoded."""

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
