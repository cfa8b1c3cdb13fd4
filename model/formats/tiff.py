"""TIFF files: one picture of unsigned samples, with the colours and brightness that a viewer shows."""

from PIL import Image

from model.formats.checks import check_size
from model.formats.display import UPRIGHT, known, orientation_of_metadata
from model.formats.errors import PictureTooLarge, UndecodablePicture, UnsupportedPicture
from model.formats.sample_depth import FULL_SCALE, MIN_BRIGHTEST
from model.formats.tiff_directory import Directory, Tag, directories
from model.formats.tiff_jpeg import read_streams
from model.formats.tiff_pages import check_one_picture
from model.formats.tiff_pixels import deep_picture, loaded

#: The tags that describe the pixels. Pillow gets no others, so that damaged metadata does not matter.
_PIXEL_TAGS = (
    (256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325, 332, 338, 339, 347)
    + (529, 530, 531, 532)
)  # fmt: skip
_CR2 = b"\x10\0\0\0CR\2\0"  # Canon's raw files, after the byte order
_CAMERA_RAW = (50706, 50714, 50717)  # DNGVersion, BlackLevel, WhiteLevel
_PALETTE, _JPEG = 3, 7
# Without methods that no camera writes today and libtiff decodes least safely (old-style JPEG, SGI Log, ThunderScan).
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
    """The picture with 8 bits a sample, as stored, and its orientation.

    Raises:
        PictureError: too large, several pictures, unsupported or damaged.
    """
    chain = directories(data)
    main = chain[0]
    check_size(main.number(Tag.IMAGE_WIDTH, 0), main.number(Tag.IMAGE_LENGTH, 0), max_pixels)
    _check_samples(main)
    check_one_picture(chain)
    _check_tile(main, max_pixels)
    bits = max(main.numbers(Tag.BITS_PER_SAMPLE), default=1)
    pixels = read_streams(main) if main.number(Tag.COMPRESSION, 1) == _JPEG else None
    if pixels is not None and bits == 8:
        picture = Image.fromarray(pixels)
    else:
        picture = deep_picture(main, bits) if bits > 8 else _shallow_picture(main)
    if Tag.ICC_PROFILE in main.entries:
        picture.info["icc_profile"] = main.raw(Tag.ICC_PROFILE)
    return picture, _orientation(main)


def _orientation(main: Directory) -> int:
    """Orientation by the tag, or by XMP if the tag is missing."""
    if Tag.ORIENTATION in main.entries:
        return known(main.number(Tag.ORIENTATION, UPRIGHT))
    try:
        return orientation_of_metadata({"xmp": main.raw(Tag.XMP)})
    except UndecodablePicture:  # damaged metadata; the pixels are complete
        return UPRIGHT


def _check_samples(main: Directory) -> None:
    if any(tag in main.entries for tag in _CAMERA_RAW) or main.data[4:12] == _CR2:
        raise UnsupportedPicture("a camera raw file (DNG or CR2); develop it and send it as JPEG, PNG or TIFF")
    compression = main.number(Tag.COMPRESSION, 1)
    if compression not in _COMPRESSIONS:
        name = _REFUSED_COMPRESSIONS.get(compression, f"method {compression}")
        raise UnsupportedPicture(f"a TIFF compressed by {name}; save it with LZW, deflate or no compression")
    for sample_format in main.numbers(Tag.SAMPLE_FORMAT):
        if sample_format != 1:
            name = _SAMPLE_FORMATS.get(sample_format, f"unknown ({sample_format})")
            raise UnsupportedPicture(f"a TIFF of {name} samples; save it with unsigned samples of 8 or 16 bits")
    if not main.numbers(Tag.PHOTOMETRIC):  # readers differ in whether 0 is black
        raise UndecodablePicture("the TIFF data is damaged: PhotometricInterpretation (tag 262) is missing")
    photometric = main.number(Tag.PHOTOMETRIC, 0)
    if photometric in _REFUSED_PHOTOMETRICS:
        raise UnsupportedPicture(f"a TIFF of {_REFUSED_PHOTOMETRICS[photometric]}; save it as RGB")


def _check_tile(main: Directory, max_pixels: int) -> None:
    tile_pixels = main.number(Tag.TILE_WIDTH, 1) * main.number(Tag.TILE_LENGTH, 1)
    if tile_pixels > max_pixels:  # a tile is always decompressed completely
        raise PictureTooLarge(f"TIFF tiles of {tile_pixels} pixels; at most {max_pixels} are allowed")


def _shallow_picture(main: Directory) -> Image.Image:
    if main.number(Tag.PHOTOMETRIC, 0) != _PALETTE:
        return loaded(main, _PIXEL_TAGS, {})
    colours = main.numbers(Tag.COLOR_MAP)
    if len(colours) != 3 << max(main.numbers(Tag.BITS_PER_SAMPLE), default=1):
        raise UndecodablePicture(f"the TIFF data is damaged: its palette has {len(colours)} values")
    brightest = max(colours)
    if brightest < 256:  # written as 0..255; libtiff scales it too
        return loaded(main, _PIXEL_TAGS, {Tag.COLOR_MAP: tuple(257 * level for level in colours)})
    if brightest < MIN_BRIGHTEST * FULL_SCALE and any(level % 256 and level % 257 for level in colours):
        raise UnsupportedPicture(
            f"a palette far below full scale: the maximum is {brightest} of {FULL_SCALE}; write it as 0..{FULL_SCALE}"
        )
    return loaded(main, _PIXEL_TAGS, {})
