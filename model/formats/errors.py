"""Errors of reading a picture, shared by all formats."""


class PictureError(ValueError):
    """A picture cannot be read. The reason names no file and shows no content of it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class UnsupportedPicture(PictureError):
    """The format, layout or kind of samples is not supported."""


class ArchiveForPicture(UnsupportedPicture):
    """A ZIP archive was sent instead of a picture."""


class PictureTooLarge(PictureError):
    """More pixels than allowed, by the header; nothing is decoded."""


class UndecodablePicture(PictureError):
    """A supported format, but empty, cut off, damaged, or of an extreme shape."""
