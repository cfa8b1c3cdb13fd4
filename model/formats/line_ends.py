"""Pictures without checksums that were transferred as text: every pixel behind the first line end is displaced."""

from model.formats.errors import UndecodablePicture

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
