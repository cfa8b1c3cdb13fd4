"""TIFF: one picture of unsigned samples, in the colours and the brightness that a person sees.

8-bit samples are Pillow's. It keeps 8 bits of deeper ones, so a file of those is read as grey of the same bytes and put
together in `tiff_samples`.
"""

from PIL import Image

from model.formats.checks import check_size
from model.formats.display import UPRIGHT, known, orientation_of_xmp
from model.formats.errors import PictureTooLarge, UndecodablePicture, UnsupportedPicture
from model.formats.sample_depth import FULL_SCALE, MIN_BRIGHTEST
from model.formats.tiff_directory import Directory, directories
from model.formats.tiff_jpeg import check_streams
from model.formats.tiff_pages import check_one_picture
from model.formats.tiff_pixels import deep_picture, loaded

#: The tags that say how pixels are stored. Metadata stays out of Pillow's sight: damage in it is no damage of pixels.
_PIXEL_TAGS = (
    (256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325, 332, 338, 339, 347)
    + (529, 530, 531, 532)
)  # fmt: skip
_WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION = 256, 257, 258, 259, 262, 274
_COLOUR_MAP, _TILE_WIDTH, _TILE_LENGTH, _SAMPLE_FORMAT, _PROFILE = 320, 322, 323, 339, 34675
_XMP = 700
_CR2 = b"\x10\0\0\0CR\2\0"  # of Canon's raw files, behind the byte order
_CAMERA_RAW = (50706, 50714, 50717)  # DNGVersion, BlackLevel, WhiteLevel
_PALETTE, _JPEG = 3, 7
# Leaves out what no camera writes today and what libtiff decodes least safely (old-style JPEG, SGI Log, ThunderScan).
_COMPRESSIONS = {1, 4, 5, 7, 8, 32773, 32946, 50000}  # raw, group 4, LZW, JPEG, deflate (two numbers), PackBits, zstd
_REFUSED_COMPRESSIONS = {
    **dict.fromkeys((2, 3), "fax coding"),
    **dict.fromkeys((33003, 33005, 33004, 34712), "JPEG 2000"),
    **dict.fromkeys((50002, 52546), "JPEG XL"),
    **dict.fromkeys((22610, 34934), "JPEG XR"),
    6: "old-style JPEG",
    34887: "LERC",
    34892: "lossy JPEG of camera raw files",
    34925: "LZMA",
    34933: "PNG",
    50001: "WebP",
}
_SAMPLE_FORMATS = {2: "signed", 3: "floating-point", 4: "undefined", 5: "complex", 6: "complex floating-point"}
_REFUSED_PHOTOMETRICS = {
    4: "a transparency mask",
    8: "CIELAB colours",
    9: "ICC LAB colours",
    10: "ITU LAB colours",
    32803: "the raw mosaic of a camera's sensor",
    32844: "logarithmic samples",
    32845: "logarithmic samples",
    34892: "linear samples of a camera's sensor",
}


def read(data: bytes, max_pixels: int) -> tuple[Image.Image, int]:
    """The one picture with 8 bits a sample, as it is stored, and its orientation.

    Raises:
        PictureError: too large, several pictures, of a kind that is not read, or broken.
    """
    chain = directories(data)
    main = chain[0]
    check_size(main.number(_WIDTH, 0), main.number(_LENGTH, 0), max_pixels)
    _check_samples(main)
    check_one_picture(chain)
    _check_tile(main, max_pixels)
    if main.number(_COMPRESSION, 1) == _JPEG:
        check_streams(main)
    bits = max(main.numbers(_BITS), default=1)
    picture = deep_picture(main, bits) if bits > 8 else _shallow_picture(main)
    if _PROFILE in main.entries:
        picture.info["icc_profile"] = main.raw(_PROFILE)
    return picture, _orientation(main)


def _orientation(main: Directory) -> int:
    """By the tag, or by XMP where there is none."""
    if _ORIENTATION in main.entries:
        return known(main.number(_ORIENTATION, UPRIGHT))
    try:
        return orientation_of_xmp(main.raw(_XMP))
    except UndecodablePicture:  # cut off, and none of the pixels is
        return UPRIGHT


def _check_samples(main: Directory) -> None:
    if any(tag in main.entries for tag in _CAMERA_RAW) or main.data[4:12] == _CR2:
        raise UnsupportedPicture("a camera raw file (DNG or CR2); develop it and send the picture as JPEG, PNG or TIFF")
    compression = main.number(_COMPRESSION, 1)
    if compression not in _COMPRESSIONS:
        name = _REFUSED_COMPRESSIONS.get(compression, f"method {compression}")
        raise UnsupportedPicture(f"a TIFF compressed by {name}; save it with LZW, deflate or no compression")
    for sample_format in main.numbers(_SAMPLE_FORMAT):
        if sample_format != 1:
            name = _SAMPLE_FORMATS.get(sample_format, f"unknown ({sample_format})")
            raise UnsupportedPicture(f"a TIFF of {name} samples; save it with unsigned samples of 8 or 16 bits")
    if not main.numbers(_PHOTOMETRIC):  # readers differ in whether 0 is black then
        raise UndecodablePicture("the TIFF data is broken: it does not say what its samples mean (tag 262)")
    photometric = main.number(_PHOTOMETRIC, 0)
    if photometric in _REFUSED_PHOTOMETRICS:
        raise UnsupportedPicture(f"a TIFF of {_REFUSED_PHOTOMETRICS[photometric]}; save it as RGB")


def _check_tile(main: Directory, max_pixels: int) -> None:
    tile_pixels = main.number(_TILE_WIDTH, 1) * main.number(_TILE_LENGTH, 1)
    if tile_pixels > max_pixels:  # a tile is decompressed whole, however little of it the picture shows
        raise PictureTooLarge(f"TIFF tiles of {tile_pixels} pixels; at most {max_pixels} are read")


def _shallow_picture(main: Directory) -> Image.Image:
    if main.number(_PHOTOMETRIC, 0) != _PALETTE:
        return loaded(main, _PIXEL_TAGS, {})
    colours = main.numbers(_COLOUR_MAP)
    if len(colours) != 3 << max(main.numbers(_BITS), default=1):
        raise UndecodablePicture(f"the TIFF data is broken: its palette has {len(colours)} values")
    brightest = max(colours)
    if brightest < 256:  # written as 0..255; libtiff scales it too
        return loaded(main, _PIXEL_TAGS, {_COLOUR_MAP: tuple(257 * level for level in colours)})
    if brightest < MIN_BRIGHTEST * FULL_SCALE and any(level % 256 and level % 257 for level in colours):
        raise UnsupportedPicture(
            f"a palette far below full scale: the maximum is {brightest} of {FULL_SCALE}; write it as 0..{FULL_SCALE}"
        )
    return loaded(main, _PIXEL_TAGS, {})
