"""TIFF files: every layout gives the same picture, and a file that is not one whole picture is refused."""

import struct
import zlib
from itertools import product

import numpy as np
import pytest
from tiff_files import Page, page, tiff_file

from model.formats.errors import PictureError, UndecodablePicture, UnsupportedPicture
from model.image import decode

CELL = np.random.default_rng(5).integers(0, 256, (40, 32, 3)).astype(np.uint8)
DEEP = CELL.astype(np.uint16) << 8 | 0x55
THUMBNAIL = page(CELL[::2, ::2])
REDUCED = page(CELL[::2, ::2], tags={254: 1})


def shown(*pages: Page, order: str = "<", big: bool = False, behind: bytes = b"") -> np.ndarray:
    return decode(tiff_file(*pages, order=order, big=big, behind=behind), 32)


SEEN = shown(page(CELL))


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_layout_gives_the_same_pixels(order: str, big: bool) -> None:
    for pixels, planar, deflate, predictor in product((CELL, DEEP), (False, True), (False, True), (False, True)):
        stored = page(pixels, order=order, planar=planar, deflate=deflate, predictor=predictor and deflate)
        assert (shown(stored, order=order, big=big) == SEEN).all(), (pixels.dtype, planar, deflate, predictor)


@pytest.mark.parametrize("order", ["<", ">"])
def test_deep_tiles_with_a_predictor_begin_anew(order: str) -> None:
    tiles = []
    for top, left in product(range(0, 40, 16), range(0, 32, 16)):
        tile = np.zeros((16, 16, 3), np.uint16)
        part = DEEP[top : top + 16, left : left + 16]
        tile[: len(part)] = part
        differences = np.diff(tile, axis=1, prepend=np.zeros_like(tile[:, :1]))
        tiles.append(differences.astype(np.dtype(np.uint16).newbyteorder(order)))
    whole = page(DEEP, deflate=True, predictor=True)
    tags = {tag: value for tag, value in whole.tags.items() if tag != 278} | {322: 16, 323: 16}
    assert (shown(Page(tags, [zlib.compress(tile.tobytes()) for tile in tiles]), order=order) == SEEN).all()


ALPHA = np.full((40, 32, 1), 128, np.uint8)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ((2,), (CELL * (128 / 255) + 127).round()),
        ((1,), (CELL // 2 + 127)),
        ((0,), CELL),
        ((), (CELL * (128 / 255) + 127).round()),
    ],
    ids=["unassociated", "associated", "unspecified", "unsaid"],
)
def test_an_extra_sample_is_alpha_if_it_says_so(deep: bool, extra: tuple[int, ...], expected: np.ndarray) -> None:
    colours = CELL // 2 if extra == (1,) else CELL
    stored = np.concatenate([colours, ALPHA], axis=2)
    if deep:
        stored = stored.astype(np.uint16) * 257
    tags = {338: extra} if extra else {}
    found = shown(page(stored, tags=tags)).astype(int)
    assert np.abs(found - shown(page(expected.astype(np.uint8)))).max() <= 2


@pytest.mark.parametrize("deep", [False, True])
def test_grey_with_alpha(deep: bool) -> None:
    stored = np.concatenate([CELL[..., :1], ALPHA], axis=2)
    expected = (CELL[..., :1] * (128 / 255) + 127).round().astype(np.uint8)
    pixels = stored.astype(np.uint16) * 257 if deep else stored
    found = shown(page(pixels, 1, tags={338: (2,)})).astype(int)
    assert np.abs(found - shown(page(expected, 1))).max() <= 1


PREVIEW = "starts with a preview"
NOT_ONE_PICTURE = {
    "a preview first": ([REDUCED._replace(children=[page(CELL)])], PREVIEW),
    "a preview first, by the old tag": ([page(CELL, tags={255: 2})], PREVIEW),
    "a preview that does not say so": ([THUMBNAIL._replace(children=[page(CELL)])], PREVIEW),
    "a larger picture behind": ([THUMBNAIL, page(CELL, tags={254: 1})], PREVIEW),
    "a mask first": ([page(CELL, tags={254: 4})], PREVIEW),
    "a second picture": ([page(CELL), page(CELL)], "several pages"),
    "a second picture, smaller": ([page(CELL), THUMBNAIL], "several pages"),
    "another picture below": ([page(CELL, children=[THUMBNAIL])], "several pages"),
    "a mask behind": ([page(CELL), page(CELL, tags={254: 4})], "several pages"),
    "levels without end": ([page(CELL)] + [REDUCED] * 40, "several pages"),
    "a whole slide": ([page(CELL, tags={270: "Aperio Image Library v11"}), page(CELL)], "whole-slide scan"),
    "a whole slide of Hamamatsu": ([page(CELL, tags={65420: 1}), page(CELL)], "whole-slide scan"),
    "ImageJ's planes": ([page(CELL, tags={270: "ImageJ=1.54f\nimages=7\nslices=7\n"})], "stack of 7 planes"),
    "ImageJ's slices": ([page(CELL, tags={270: "ImageJ=1.54f\nslices=5\n"})], "stack of 5 planes"),
    "ImageJ's frames": ([page(CELL, tags={270: "ImageJ=1.54f\nimages=4\nframes=4\n"})], "stack of 4 planes"),
    "ImageJ's slices of RGB": ([page(CELL, tags={270: "ImageJ=1.54f\nimages=3\nslices=3\n"})], "stack of 3 planes"),
    "tifffile's slices as RGB": (
        [page(CELL, tags={270: '{"shape": [3, 40, 40], "axes": "ZYX"}'})],
        "stack of 3 planes",
    ),
    "tifffile's frames": ([page(CELL, tags={270: '{"shape": [2, 9, 9, 3], "axes": "TYXS"}'})], "stack of 2 planes"),
    "ImageJ's channels": ([page(CELL[..., :1], 1, tags={270: "ImageJ=1.11a\nchannels=3\n"})], "stack of 3 planes"),
    "OME, depth": ([page(CELL, tags={270: '<OME><Pixels SizeZ="7" SizeC="3" SizeT="1"/></OME>'})], "7 planes"),
    "OME, times": ([page(CELL, tags={270: "<OME><Pixels SizeT='2' SizeC='3' SizeZ='1'/></OME>"})], "2 planes"),
    "OME, channels": ([page(CELL[..., :1], 1, tags={270: '<ome:OME><ome:Pixels SizeC="4">'})], "4 planes"),
    "ImageDepth": ([page(CELL, tags={32997: 3})], "stack of 3 planes"),
    "MetaMorph": ([page(CELL, tags={33629: (1,) * 12})], "stack of 12 planes"),
}


@pytest.mark.parametrize("name", NOT_ONE_PICTURE)
def test_a_file_that_is_not_one_picture_is_refused(name: str) -> None:
    pages, sentence = NOT_ONE_PICTURE[name]
    for order, big in product("<>", (False, True)):
        with pytest.raises(UnsupportedPicture, match=sentence):
            shown(*pages, order=order, big=big)


def test_planes_that_no_directory_names_are_noticed() -> None:
    for behind in (CELL.tobytes(), DEEP.tobytes(), CELL.tobytes() * 20):
        with pytest.raises(UnsupportedPicture, match="more planes"):
            shown(page(CELL), behind=behind)
    grey = page(CELL[..., :1], 1)
    long_strips = grey._replace(tags={**grey.tags, 278: 40}, strips=[CELL.tobytes()])
    with pytest.raises(UnsupportedPicture, match="more planes"):
        shown(long_strips)


ONE_PICTURE = {
    "a pyramid": ([page(CELL), REDUCED, REDUCED], b""),
    "a pyramid below": ([page(CELL, children=[REDUCED, REDUCED])], b""),
    "one page of a document": ([page(CELL, tags={254: 2, 297: (0, 1)})], b""),
    "tifffile, samples": ([page(CELL, tags={270: '{"shape": [1, 40, 40, 3], "axes": "TYXS"}'})], b""),
    "tifffile, channels": ([page(CELL, tags={270: '{"shape": [3, 40, 40], "axes": "CYX"}'})], b""),
    "tifffile, no axes": ([page(CELL, tags={270: '{"shape": [40, 40, 3]}'})], b""),
    "ImageJ, one plane": ([page(CELL, tags={270: "ImageJ=1.54f\nimages=1\nslices=1\n"})], b""),
    "ImageJ, a plane of three samples": ([page(CELL, tags={270: "ImageJ=1.54f\nimages=3\nchannels=3\n"})], b""),
    "OME, one plane": ([page(CELL, tags={270: '<OME><Pixels SizeZ="1" SizeC="3" SizeT="1"/></OME>'})], b""),
    "padded with zeros": ([page(CELL)], bytes(100_000)),
    "a few bytes behind": ([page(CELL)], b"end of file" * 9),
    "metadata larger than the picture": ([page(CELL, tags={37724: tuple(range(20_000)), 305: "editor" * 999})], b""),
    "compressed, and bytes behind": ([page(CELL, deflate=True)], CELL.tobytes()),
}


@pytest.mark.parametrize("name", ONE_PICTURE)
def test_what_is_one_picture_is_read(name: str) -> None:
    pages, behind = ONE_PICTURE[name]
    assert (shown(*pages, behind=behind) == SEEN).all()


REFUSED = {
    **{
        f"compression {number}": ({259: number}, f"compressed by .*{name}")
        for number, name in {
            2: "fax", 3: "fax", 6: "old-style JPEG", 22610: "JPEG XR", 32809: "method 32809", 33003: "JPEG 2000",
            33005: "JPEG 2000", 34712: "JPEG 2000", 34887: "LERC", 34892: "lossy JPEG", 34925: "LZMA", 50001: "WebP",
            50002: "JPEG XL",
        }.items()
    },
    **{
        f"samples {number}": ({339: (number,) * 3}, f"{name}.* samples; save it with unsigned")
        for number, name in {2: "signed", 3: "floating-point", 4: "undefined", 5: "complex", 7: "7"}.items()
    },
    **{
        f"photometric {number}": ({262: number}, name)
        for number, name in {
            4: "mask", 8: "CIELAB", 9: "LAB", 10: "LAB", 32803: "mosaic", 32844: "logarithmic", 34892: "sensor",
        }.items()
    },
    "a DNG": ({50706: (1, 4, 0, 0)}, "camera raw"),
    "black and white levels": ({50717: 4095}, "camera raw"),
    "an unknown photometric": ({262: 99}, "unsupported pixel layout"),
}  # fmt: skip


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_is_named(name: str, deep: bool) -> None:
    tags, sentence = REFUSED[name]
    with pytest.raises(UnsupportedPicture, match=sentence if "unsupported" not in sentence else "unsupported"):
        shown(page(DEEP if deep else CELL, tags=tags))


def test_a_raw_file_of_canon_is_named() -> None:
    directory = struct.pack("<HHHIIHHIII", 2, 256, 3, 1, 64, 257, 3, 1, 64, 0)
    with pytest.raises(UnsupportedPicture, match="camera raw.*CR2"):
        decode(b"II*\0\x10\0\0\0CR\2\0\0\0\0\0" + directory, 32)


@pytest.mark.parametrize("value", [0, 1, 9, 65535, 100_000, "6", (7, 7)])
def test_an_orientation_that_is_none_turns_nothing(value: int | str | tuple[int, ...]) -> None:
    expected = SEEN if value != (7, 7) else shown(page(CELL, tags={274: 7}))
    assert (shown(page(CELL, tags={274: value})) == expected).all()


def test_xmp_counts_where_there_is_no_orientation() -> None:
    xmp = '<x:xmpmeta tiff:Orientation="3"/>'
    assert (shown(page(CELL, tags={700: xmp})) == SEEN[::-1, ::-1]).all()
    assert (shown(page(CELL, tags={700: xmp, 274: 1})) == SEEN).all()
    assert (shown(page(CELL, tags={700: "no orientation"})) == SEEN).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_samples_are_turned_as_others_are(orientation: int) -> None:
    turned = shown(page(CELL, tags={274: orientation}))
    assert (shown(page(DEEP, tags={274: orientation})) == turned).all()
    assert orientation == 1 or not (turned == SEEN).all()


@pytest.mark.parametrize("tag", [34665, 34853, 40965, 700, 34377, 33723, 37724])
def test_metadata_that_cannot_be_read_is_passed_over(tag: int) -> None:
    for value in (0, 7, 0x7FFFFFFF, tuple(range(3000)), "\x01garbage" * 9):
        assert (shown(page(CELL, tags={tag: value})) == SEEN).all()


def test_a_tag_outside_the_file_matters_if_it_is_needed() -> None:
    needed, idle = (tiff_file(page(CELL, tags={tag: "x" * 50})) for tag in (270, 305))
    for file, tag in ((needed, 270), (idle, 305)):
        line = struct.pack("<HHI", tag, 2, 51)
        at = file.index(line) + len(line)
        outside = file[:at] + struct.pack("<I", len(file) + 9) + file[at + 4 :]
        if tag == 305:
            assert (decode(outside, 32) == SEEN).all()
        else:
            with pytest.raises(UndecodablePicture, match="outside the file"):
                decode(outside, 32)


@pytest.mark.parametrize("big", [False, True])
def test_a_cut_off_file_is_refused_or_whole(big: bool) -> None:
    for pixels, deflate in product((CELL, DEEP), (False, True)):
        file = tiff_file(page(pixels, deflate=deflate, order=">"), order=">", big=big)
        for length in range(0, len(file), 7):
            try:
                found = decode(file[:length], 32)
            except PictureError:
                continue
            assert (found == SEEN).all()


def test_a_circle_of_directories_ends() -> None:
    file = bytearray(tiff_file(page(CELL)))
    file[-4:] = file[4:8]
    assert (decode(bytes(file), 32) == SEEN).all()


def test_more_strips_or_tags_than_a_picture_has_are_refused_at_once() -> None:
    strips = page(CELL)
    with pytest.raises(UndecodablePicture, match="more strips"):
        shown(strips._replace(strips=[*strips.strips, *[b"x"] * 300_000]))
    with pytest.raises(UndecodablePicture, match="5000 tags"):
        shown(page(CELL, tags=dict.fromkeys(range(30000, 30000 + 5000 - len(page(CELL).tags) - 2), 1)), big=True)


def test_forged_counts_cost_nothing() -> None:
    for tag in (273, 279, 258, 330, 320, 338):
        file = bytearray(tiff_file(page(CELL, tags={tag: (1, 2, 3)} if tag not in (273, 279) else {})))
        at = file.index(struct.pack("<HH", tag, 3), 8)
        file[at + 4 : at + 8] = struct.pack("<I", 0x7FFFFFFF)
        with pytest.raises(PictureError):
            decode(bytes(file), 32)
