"""The ways in which a picture cannot be read, shared by every format."""


class PictureError(ValueError):
    """A picture that cannot be read, and why, in a sentence that names no file and shows no content."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class UnsupportedPicture(PictureError):
    """Not a kind of picture that is read here: another format, or samples that cannot be shown honestly."""


class ArchiveForPicture(UnsupportedPicture):
    """A ZIP archive where one picture belongs; the pictures in it may well be readable."""


class PictureTooLarge(PictureError):
    """More pixels than allowed, said by the header and refused before any is decoded."""


class UndecodablePicture(PictureError):
    """The right kind, but empty, cut off, broken, or of a shape that cannot be a cell."""
