"""Embedded colour profiles: the same colours whatever profile a picture is stored in, or a refusal that says why."""

import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
from color_profiles import (
    ADOBE_RGB,
    DISPLAY_P3,
    EXCHANGED,
    INKS,
    LINEAR,
    LINEAR_GREY,
    PROPHOTO,
    SRGB,
    profile_of,
    stored_in,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pictures import encoded
from PIL import Image

from examples import examples
from model.formats import color_profile
from model.formats.color_profile import MAX_PROFILE_BYTES, MAX_TRANSFORMS
from model.formats.errors import PictureError, UndecodablePicture, UnsupportedPicture
from model.image import decode

SIDE = 64


def cell() -> Image.Image:
    """Stained colours without noise, so that JPEG's own error is small."""
    down, across = np.mgrid[0 : 1 : SIDE * 1j, 0 : 1 : SIDE * 1j]
    return Image.fromarray(
        np.stack([90 + 140 * across, 60 + 130 * down, 150 + 80 * across * down], axis=-1).astype(np.uint8)
    )


def bmp(picture: Image.Image, space: bytes, profile: bytes = b"", calibration: bytes = bytes(48)) -> bytes:
    """A BMP with a header of version 5, which Pillow does not write."""
    pixels = np.asarray(picture)[::-1, :, ::-1].tobytes()
    header = struct.pack("<IiiHHIIiiII", 124, *picture.size, 1, 24, 0, len(pixels), 2835, 2835, 0, 0) + bytes(16)
    header += space[::-1] + calibration + struct.pack("<4I", 4, 124 + len(pixels), len(profile), 0)
    return b"BM" + struct.pack("<IHHI", 138 + len(pixels), 0, 0, 138) + header + pixels + profile


def png_with(picture: Image.Image, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG with chunks between its header and its pixels."""
    data = encoded(picture, "PNG")
    inserted = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    return data[:33] + inserted + data[33:]


def tagged(picture: Image.Image, form: str, profile: bytes) -> bytes:
    if form == "BMP":
        return bmp(picture, b"MBED", profile)
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(form, {})
    return encoded(picture, form, icc_profile=profile, **options)


def off(data: bytes, expected: Image.Image | NDArray[np.uint8]) -> int:
    return int(np.abs(decode(data, SIDE).astype(int) - np.asarray(expected)).max())


FORMS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
PROFILES = {"display p3": DISPLAY_P3, "adobe rgb": ADOBE_RGB, "prophoto": PROPHOTO, "linear": LINEAR}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", PROFILES)
def test_the_colours_are_the_same_in_every_profile(form: str, name: str) -> None:
    """Within the rounding of 8 bits, which a wider profile spreads over more colours."""
    stored = stored_in(cell(), PROFILES[name])
    assert off(tagged(stored, form, PROFILES[name]), cell()) <= (6 if form == "JPEG" else 3) + 3 * (name == "prophoto")
    assert off(encoded(stored, "PNG"), cell()) > 10


@pytest.mark.parametrize("form", FORMS)
def test_a_profile_of_srgb_changes_nothing(form: str) -> None:
    without = decode(bmp(cell(), b"sRGB") if form == "BMP" else tagged(cell(), form, b""), SIDE)
    assert (decode(tagged(cell(), form, SRGB), SIDE) == without).all()


@pytest.mark.parametrize("form", FORMS)
def test_a_profile_of_a_lookup_table_is_applied(form: str) -> None:
    assert off(tagged(cell(), form, EXCHANGED), np.asarray(cell())[..., [1, 0, 2]]) <= (6 if form == "JPEG" else 4)


@pytest.mark.parametrize("name", PROFILES)
def test_greys_stay_grey_and_white_stays_white(name: str) -> None:
    ramp = Image.fromarray(np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2))
    shown = decode(tagged(ramp, "PNG", PROFILES[name]), 16).astype(int)
    assert np.ptp(shown, axis=2).max() <= 1
    assert (shown[0, 0] == 0).all() and (shown[-1, -1] == 255).all()
    assert (np.diff(shown.reshape(-1, 3), axis=0) >= 0).all()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF"])
def test_grey_pictures_take_profiles_for_grey_and_for_rgb(form: str) -> None:
    grey = Image.linear_gradient("L").resize((SIDE, SIDE))
    middle = decode(tagged(grey, form, LINEAR_GREY), SIDE)[SIDE // 2, 0]
    assert (middle >= 186).all() and (middle <= 190).all()  # half the light is level 188 of sRGB
    assert off(tagged(grey, form, LINEAR), decode(tagged(grey, form, LINEAR_GREY), SIDE)) <= 1
    assert off(tagged(grey, form, SRGB), decode(tagged(grey, form, b""), SIDE)) == 0


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_printing_inks_are_converted_by_their_profile(form: str) -> None:
    inks = Image.new("CMYK", (SIDE, SIDE), (55, 105, 25, 102))
    expected = np.full((SIDE, SIDE, 3), (120, 90, 138), np.uint8)  # (255 - ink) * (255 - black) / 255
    assert off(tagged(inks, form, INKS), expected) <= 4
    assert off(tagged(inks, form, b""), expected) <= 4  # Pillow's own conversion happens to be the same


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_transparency_is_laid_over_the_white_of_srgb(form: str) -> None:
    stored = stored_in(cell(), DISPLAY_P3)
    stored.putalpha(128)
    expected = (np.asarray(cell()) * (128 / 255) + 127).round().astype(np.uint8)
    assert off(tagged(stored, form, DISPLAY_P3), expected) <= 3


def test_a_palette_is_converted() -> None:
    few = Image.fromarray(np.array([(200, 40, 60), (60, 40, 200), (240, 230, 235)], np.uint8)[None].repeat(3, axis=0))
    few = few.resize((48, 48), Image.Resampling.NEAREST)
    stored = stored_in(few, DISPLAY_P3).quantize(3)
    data = encoded(stored, "PNG", icc_profile=DISPLAY_P3)
    assert np.abs(decode(data, 48).astype(int) - np.asarray(few)).max() <= 2


def test_a_profile_in_many_segments_is_put_together() -> None:
    padded = DISPLAY_P3 + bytes(200_000)
    large = len(padded).to_bytes(4, "big") + padded[4:]
    data = tagged(stored_in(cell(), DISPLAY_P3), "JPEG", large)
    first = data.index(b"\xff\xe2")
    size = 2 + int.from_bytes(data[first + 2 : first + 4], "big")
    segment, rest = data[first : first + size], data[first + size :]
    assert segment[16:18] == b"\1\4" and off(data, cell()) <= 6
    moved = rest.index(b"\xff\xe2", size)  # the first comes after the second
    assert off(data[:first] + rest[:moved] + segment + rest[moved:], cell()) <= 6
    for odd in (data[:first] + rest, data[:first] + segment + segment + rest):
        with pytest.raises(UndecodablePicture, match="colour profile is damaged"):
            decode(odd, SIDE)


def changed(profile: bytes, at: int, value: bytes) -> bytes:
    return profile[:at] + value + profile[at + len(value) :]


UNUSABLE = {
    "garbage": (bytes(range(256)) * 2, "damaged"),
    "too short": (b"profile", "damaged"),
    "cut off": (DISPLAY_P3[:-100], "damaged"),
    "half its size": (changed(DISPLAY_P3, 0, bytes(4)), "damaged"),
    "no signature": (changed(DISPLAY_P3, 36, b"ACSP"), "damaged"),
    "no tags": (changed(DISPLAY_P3, 128, bytes(4)), "cannot be read"),
    "endless tags": (changed(DISPLAY_P3, 128, b"\xff" * 4), "damaged"),
    "no curve": (DISPLAY_P3.replace(b"rTRC", b"xTRC"), "cannot be read"),
    "device link": (changed(DISPLAY_P3, 12, b"link"), "not of a camera"),
    "abstract": (changed(DISPLAY_P3, 12, b"abst"), "not of a camera"),
    "named colours": (changed(DISPLAY_P3, 12, b"nmcl"), "not of a camera"),
    "lab": (changed(DISPLAY_P3, 16, b"Lab "), "not of a camera"),
    "inks": (INKS, "for CMYK in a picture of RGB"),
    "grey": (LINEAR_GREY, "for grey in a picture of RGB"),
    "programs": (profile_of(b"RGB ", b"mntr", {b"D2B0": b"mpet" + bytes(12)}), "multi-process"),
    "too large": (bytes(MAX_PROFILE_BYTES + 1), "at most"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", UNUSABLE)
def test_a_profile_that_cannot_be_applied_refuses_the_picture(form: str, name: str) -> None:
    profile, reason = UNUSABLE[name]
    with pytest.raises((UndecodablePicture, UnsupportedPicture), match=reason) as caught:
        decode(tagged(cell(), form, profile), SIDE)
    assert "sRGB" in caught.value.reason


def test_a_profile_for_rgb_is_none_for_inks() -> None:
    with pytest.raises(UnsupportedPicture, match="for RGB in a picture of CMYK"):
        decode(tagged(Image.new("CMYK", (SIDE, SIDE)), "JPEG", SRGB), SIDE)


P3_NUMBERS = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
SRGB_NUMBERS = struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
GAMMA = struct.pack(">I", 45455)
P3_PACKED = b"p3\0\0" + zlib.compress(DISPLAY_P3)


@pytest.mark.parametrize(
    ("chunks", "profile"),
    [
        ([(b"gAMA", GAMMA)], None),
        ([(b"gAMA", GAMMA), (b"cHRM", SRGB_NUMBERS)], None),
        ([(b"cHRM", SRGB_NUMBERS)], None),
        ([(b"sRGB", b"\0"), (b"cHRM", P3_NUMBERS)], None),
        ([(b"gAMA", GAMMA), (b"cHRM", P3_NUMBERS)], DISPLAY_P3),
        ([(b"cHRM", P3_NUMBERS)], DISPLAY_P3),
        ([(b"gAMA", struct.pack(">I", 100_000))], LINEAR),
        ([(b"iCCP", P3_PACKED)], DISPLAY_P3),
        ([(b"sRGB", b"\0"), (b"iCCP", P3_PACKED)], DISPLAY_P3),
        ([(b"cICP", bytes((12, 13, 0, 1)))], DISPLAY_P3),
        ([(b"iCCP", P3_PACKED), (b"cICP", bytes((1, 13, 0, 1)))], None),
    ],
)
def test_a_png_says_its_colours_in_numbers(chunks: list[tuple[bytes, bytes]], profile: bytes | None) -> None:
    stored = stored_in(cell(), profile) if profile else cell()
    assert off(png_with(stored, *chunks), cell()) <= (3 if profile else 0)


@pytest.mark.parametrize(
    ("chunk", "reason"),
    [
        ((b"cICP", bytes((9, 16, 0, 1))), "video or HDR colour space"),
        ((b"cICP", bytes((9, 18, 0, 1))), "video or HDR colour space"),
        ((b"cICP", bytes((1, 13, 0, 0))), "cICP"),
        ((b"cICP", b"\1"), "damaged"),
        ((b"iCCP", b"p3\0\0" + zlib.compress(DISPLAY_P3)[:-20]), "damaged"),
        ((b"iCCP", b"p3\0\0not packed"), "damaged"),
        ((b"iCCP", b"p3\0\1" + zlib.compress(DISPLAY_P3)), "damaged"),
        ((b"gAMA", bytes(4)), "damaged"),
        ((b"gAMA", b"\1"), "damaged"),
        ((b"cHRM", bytes(32)), "damaged"),
    ],
)
def test_a_png_whose_colours_cannot_be_told_is_refused(chunk: tuple[bytes, bytes], reason: str) -> None:
    with pytest.raises(PictureError, match=reason):
        decode(png_with(cell(), chunk), SIDE)


def calibration(*points: tuple[float, float, float], gamma: float) -> bytes:
    numbers = [round(value * 2**30) for point in points for value in point]
    return struct.pack("<9i3I", *numbers, *[round(gamma * 2**16)] * 3)


def test_a_bmp_says_its_colours_in_numbers() -> None:
    p3 = calibration((0.68, 0.32, 0), (0.265, 0.69, 0.045), (0.15, 0.06, 0.79), gamma=2.2)
    srgb = calibration((0.64, 0.33, 0.03), (0.30, 0.60, 0.10), (0.15, 0.06, 0.79), gamma=2.2)
    assert off(bmp(stored_in(cell(), DISPLAY_P3), bytes(4), calibration=p3), cell()) <= 3
    for plain in (bytes(48), srgb):
        assert off(bmp(cell(), bytes(4), calibration=plain), cell()) == 0
    with pytest.raises(UnsupportedPicture, match="another file"):
        decode(bmp(cell(), b"LINK", b"profile.icc"), SIDE)
    with pytest.raises(UndecodablePicture, match="damaged"):
        decode(bmp(cell(), b"MBED", DISPLAY_P3)[:-50], SIDE)


def test_many_threads_see_what_one_sees_and_transforms_are_bounded() -> None:
    profiles = [*PROFILES.values(), *(changed(DISPLAY_P3, 4, struct.pack(">I", n)) for n in range(MAX_TRANSFORMS + 8))]
    files = [tagged(cell(), "PNG", profile) for profile in profiles] * 3
    alone = [decode(data, SIDE) for data in files]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda data: decode(data, SIDE), files))
    assert all((a == b).all() for a, b in zip(alone, together, strict=True))
    assert len(color_profile._transforms) <= MAX_TRANSFORMS


@pytest.mark.parametrize("profile", [DISPLAY_P3, EXCHANGED, SRGB])
@settings(max_examples=examples(60), deadline=None)
@given(flips=st.lists(st.tuples(st.integers(0, 300), st.integers(1, 255)), min_size=1, max_size=4))
def test_a_damaged_profile_gives_pixels_or_a_picture_error(profile: bytes, flips: list[tuple[int, int]]) -> None:
    damaged = bytearray(profile)
    for at, bits in flips:
        damaged[at] ^= bits
    file = BytesIO()
    cell().save(file, "JPEG", icc_profile=bytes(damaged))
    try:
        assert decode(file.getvalue(), 16).shape == (16, 16, 3)
    except PictureError as error:
        assert error.reason
