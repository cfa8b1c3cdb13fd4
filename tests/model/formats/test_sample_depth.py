"""Samples deeper than 8 bits: shown with the brightness that their 8-bit version has, or refused."""

import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pictures import png_file
from tiff_files import page, tiff_file

from examples import examples
from model.formats.errors import UnsupportedPicture
from model.formats.sample_depth import BRIGHT_SHARE, MIN_BRIGHT_PERCENTILE, MIN_BRIGHTEST, Scale, depth, to_8_bit
from model.image import decode

SIDE = 24
OME = '<?xml version="1.0"?><OME><Image><Pixels SizeZ="1" SizeT="1" SignificantBits="{}"/></Image></OME>'


def seen(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3))


def cells(bits: int, channels: int = 3, seed: int = 0) -> NDArray[np.uint16]:
    """A picture of so many significant bits, in the lower bits, that reaches full scale, as a bright field does."""
    drawn = np.random.default_rng(seed).integers(0, 1 << bits, (SIDE, SIDE, channels)).astype(np.uint16)
    drawn[:4] = (1 << bits) - 1
    return drawn


def by_tiff(tags: Callable[[int], dict[int, str | tuple[int, ...]]]) -> Callable[[NDArray[np.uint16], int], bytes]:
    def written(samples: NDArray[np.uint16], bits: int) -> bytes:
        return tiff_file(page(samples, 2 if samples.shape[2] == 3 else 1, tags=tags(bits)))

    return written


DECLARED: dict[str, Callable[[NDArray[np.uint16], int], bytes]] = {
    "MaxSampleValue": by_tiff(lambda bits: {281: ((1 << bits) - 1,) * 3}),
    "MaxSampleValue, once": by_tiff(lambda bits: {281: ((1 << bits) - 1,)}),
    "the brightest sample as MaxSampleValue": by_tiff(lambda bits: {281: ((1 << bits) - 6,)}),
    "SignificantBits": by_tiff(lambda bits: {270: OME.format(bits)}),
    "Micro-Manager": by_tiff(lambda bits: {51123: f'{{"BitDepth":{bits},"PixelType":"GRAY16"}}'}),
    "ImageJ": by_tiff(lambda bits: {270: f"ImageJ=1.54f\nunit=micron\nmin=0.0\nmax={(1 << bits) - 1}.0\n"}),
    "sBIT": lambda samples, bits: png_file(samples, before=[(b"sBIT", bytes([bits] * samples.shape[2]))]),
}


@pytest.mark.parametrize("declared", DECLARED)
@settings(max_examples=examples(40), deadline=None)
@given(bits=st.integers(8, 14), channels=st.sampled_from((1, 3)), seed=st.integers(0, 99))
def test_a_declared_depth_gives_the_8_bit_version(declared: str, bits: int, channels: int, seed: int) -> None:
    samples = cells(bits, channels, seed)
    if "brightest" in declared:
        samples = np.minimum(samples, (1 << bits) - 6)
    shown = decode(DECLARED[declared](samples, bits), SIDE).astype(int)
    assert np.abs(shown - seen((samples >> (bits - 8)).astype(np.uint8))).max() <= 1


@settings(max_examples=examples(60), deadline=None)
@given(bits=st.integers(9, 15), channels=st.sampled_from((1, 3)), seed=st.integers(0, 99))
def test_samples_in_the_upper_bits_need_no_declaration(bits: int, channels: int, seed: int) -> None:
    samples = cells(bits, channels, seed)
    expected = seen((samples >> (bits - 8)).astype(np.uint8))
    replicated = samples << (16 - bits) | samples >> (2 * bits - 16) if bits > 8 else samples * 257
    for widened in (samples << (16 - bits), replicated):
        for file in (tiff_file(page(widened, 2 if channels == 3 else 1)), DECLARED["sBIT"](widened, bits)):
            assert np.abs(decode(file, SIDE).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("bits", range(1, 15))
@pytest.mark.parametrize("says", ["nothing", "16 bits"])
def test_samples_far_below_full_scale_are_refused_with_their_maximum(bits: int, says: str) -> None:
    samples = cells(bits)
    tags = {281: (65535,), 270: OME.format(16)} if says == "16 bits" else {}
    for file in (tiff_file(page(samples, tags=tags)), png_file(samples, before=[(b"sBIT", b"\x10\x10\x10")])):
        with pytest.raises(UnsupportedPicture, match=rf"maximum is {(1 << bits) - 1} of 65535.*save it with 8 bits"):
            decode(file, SIDE)


def test_half_of_full_scale_is_refused_and_a_scale_bar_does_not_hide_it() -> None:
    with pytest.raises(UnsupportedPicture, match="maximum is 32767"):
        decode(tiff_file(page(cells(15))), SIDE)
    with_bar = np.minimum(cells(12), 4095)
    with_bar[-1, :2] = 65535
    with pytest.raises(UnsupportedPicture, match="maximum is 65535 of 65535, 99 % are at most 4095"):
        decode(tiff_file(page(with_bar)), SIDE)


def test_a_declaration_that_the_samples_contradict_is_none() -> None:
    full = cells(16)
    assert (decode(tiff_file(page(full, tags={281: (255,)})), SIDE) == full >> 8).all()
    with pytest.raises(UnsupportedPicture, match="maximum is 16383"):
        decode(tiff_file(page(cells(14), tags={281: (4095,)})), SIDE)


def test_a_display_range_is_stretched_and_its_rare_outliers_are_clipped() -> None:
    samples = np.full((SIDE, SIDE, 1), 600, np.uint16)
    samples[::2] = 1100
    samples[0, 0] = 5000
    shown = decode(tiff_file(page(samples, 1, tags={270: "ImageJ=1.54f\nmin=100.0\nmax=1100.0\n"})), SIDE)
    assert shown[0, 0].tolist() == [255] * 3
    assert (shown[1::2] == 128).all() and (shown[::2] == 255).all()


@pytest.mark.parametrize(
    "limits", ["max=nan", "max=inf", "max=1e999", "max=-5", "max=\nmin=4", "max=text", "min=9\nmax=3"]
)
def test_a_display_range_that_is_none_says_nothing(limits: str) -> None:
    with pytest.raises(UnsupportedPicture, match="maximum is 4095"):
        decode(tiff_file(page(cells(12, 1), 1, tags={270: f"ImageJ=1.54f\n{limits}\n"})), SIDE)


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_swapped_bytes_are_read_where_the_depth_proves_them_and_refused_elsewhere(bits: int) -> None:
    samples = cells(bits)
    swapped = samples.byteswap()
    assert (decode(DECLARED["sBIT"](swapped, bits), SIDE) == samples >> (bits - 8)).all()
    for file in (png_file(swapped), tiff_file(page(swapped))):
        with pytest.raises(UnsupportedPicture, match="two bytes swapped"):
            decode(file, SIDE)


def test_white_is_zero_is_inverted_after_it_is_scaled() -> None:
    samples = cells(12, 1)
    shown = decode(tiff_file(page(4095 - samples, 0, tags={281: (4095,)})), SIDE)
    assert np.abs(shown.astype(int) - seen((samples >> 4).astype(np.uint8))).max() <= 1


def test_different_depths_of_the_colours_are_not_believed() -> None:
    with pytest.raises(UnsupportedPicture, match="maximum is 4095"):
        decode(png_file(cells(12), before=[(b"sBIT", b"\x0a\x0c\x0a")]), SIDE)


def test_alpha_keeps_its_own_scale() -> None:
    samples = np.concatenate([cells(12), np.full((SIDE, SIDE, 1), 65535, np.uint16)], axis=2)
    low = np.concatenate([cells(12), np.full((SIDE, SIDE, 1), 4095, np.uint16)], axis=2)
    for stored in (samples, low):
        assert (decode(tiff_file(page(stored, tags={281: (4095,), 338: (2,)})), SIDE) == stored[..., :3] >> 4).all()


@pytest.mark.parametrize("photometric", [1, 2])
def test_packed_12_bit_samples_are_read_in_both_byte_orders(photometric: int) -> None:
    samples = cells(12, 3 if photometric == 2 else 1)[:, :23]  # an odd number of samples a row, for grey
    rows = samples.reshape(SIDE, -1)
    bits = (rows[:, :, None] >> np.arange(11, -1, -1)) & 1
    packed = np.packbits(bits.reshape(SIDE, -1).astype(np.uint8), axis=1).tobytes()
    tags = {256: 23, 258: (12,) * samples.shape[2], 278: SIDE}
    for order in "<>":
        described = page(samples, photometric, tags=tags)._replace(strips=[packed])
        deflated = described._replace(tags={**described.tags, 259: 8}, strips=[zlib.compress(packed)])
        for each in (described, deflated):
            shown = decode(tiff_file(each, order=order), 32)
            whole = tiff_file(page((samples >> 4).astype(np.uint8), photometric))
            assert (shown == decode(whole, 32)).all()


def test_a_16_bit_picture_of_the_largest_size_is_scaled_in_parts() -> None:
    samples = np.full((1500, 1400, 1), 60000, np.uint16)
    assert (decode(tiff_file(page(samples, 1, deflate=True)), 32) == 60000 >> 8).all()


def test_the_size_of_a_sample_that_is_not_read_is_named() -> None:
    for bits in (9, 10, 14, 24, 32, 64):
        described = page(cells(8).astype(np.uint8), tags={258: (bits,) * 3})
        with pytest.raises(UnsupportedPicture, match=f"{bits}-bit samples"):
            decode(tiff_file(described), SIDE)


def test_png_keeps_both_bytes_of_each_kind_and_order_of_rows() -> None:
    for channels in (1, 2, 3, 4):
        samples = cells(12, channels)
        if channels in (2, 4):
            samples[..., -1] = 4095
        expected = samples[..., : channels - (channels + 1) % 2] >> 4
        for interlaced in (False, True):
            file = png_file(samples, before=[(b"sBIT", b"\x0c" * channels)], interlaced=interlaced)
            assert (decode(file, SIDE) == expected).all(), (channels, interlaced)


def key(*samples: int) -> list[tuple[bytes, bytes]]:
    return [(b"tRNS", struct.pack(f">{len(samples)}H", *samples))]


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_transparent_grey_is_white_at_every_depth(bits: int) -> None:
    largest = (1 << bits) - 1
    levels = np.arange(SIDE * SIDE).reshape(SIDE, SIDE, 1) * 40503 % (largest + 1)
    levels[0, 0] = largest
    for hidden in {0, 1, largest // 2}:
        file = png_file(levels.astype(np.uint16), bits=bits, before=key(hidden))
        shown = levels * 255 // largest if bits < 16 else levels >> 8
        assert (decode(file, SIDE) == np.where(levels == hidden, 255, shown)).all(), hidden


@pytest.mark.parametrize("bits", [8, 16])
def test_a_transparent_colour_is_white_and_its_neighbours_are_not(bits: int) -> None:
    samples = cells(bits)
    samples[5] = (9, 8, 7) if bits == 8 else (0x0909, 0x0808, 0x0707)
    samples[6] = samples[5] + [0, 0, 1]
    expected = (samples >> (bits - 8)).astype(int)
    expected[5] = 255
    stored = samples.astype(np.uint8) if bits == 8 else samples
    shown = decode(png_file(stored, before=key(*map(int, samples[5, 0]))), SIDE)
    assert (shown == expected).all()


def test_the_idle_bits_of_a_transparent_colour_do_not_count() -> None:
    samples = cells(8)
    samples[5] = 9, 8, 7
    shown = decode(png_file(samples.astype(np.uint8), before=key(0x0109, 0xFF08, 7)), SIDE)
    assert (shown[5] == 255).all()


def by_histogram(samples: NDArray[np.uint16], declared: list[Scale], full_scale: int) -> NDArray[np.uint8] | str:
    """The rules of `to_8_bit`, from the number of samples of each value."""
    counts = np.bincount(samples.reshape(-1), minlength=65536)
    by_byte = counts.reshape(256, 256)

    def fits(counts: NDArray[np.int64], scale: Scale) -> bool:
        return bool(counts[: scale.low].sum() + counts[scale.high + 1 :].sum() <= scale.clipped * counts.sum())

    scales = [scale for scale in declared if 0 <= scale.low < scale.high < full_scale]
    found = next((scale for scale in scales if fits(counts, scale)), None)
    alone = ((by_byte > 0).sum(axis=1) <= 1).all()
    if found is None and not alone and not by_byte[:, 64:].any() and by_byte[128:].any():
        found = next((scale for scale in scales if fits(by_byte.T.reshape(-1), scale)), None)
        if found is None:
            return "swapped"
        samples = samples.byteswap()
    if found is None:
        most = np.searchsorted(counts.cumsum(), BRIGHT_SHARE * counts.sum())
        if samples.max() < MIN_BRIGHTEST * full_scale or most < MIN_BRIGHT_PERCENTILE * full_scale:
            return f"the maximum is {samples.max()} of {full_scale}, 99 % are at most {most}"
        found = Scale(full_scale)
    bits, values = found.high.bit_length(), np.arange(65536)
    whole = found.low == 0 and found.high + 1 == 1 << bits
    shown = values >> (bits - 8) if whole else np.rint((values - found.low) * (255 / (found.high - found.low)))
    return shown.clip(0, 255).astype(np.uint8)[samples]


SCALES = st.one_of(
    st.integers(8, 16).map(depth),
    st.integers(8, 15).map(lambda bits: Scale((1 << bits) - 1, 0, 0.4)),
    st.builds(Scale, st.integers(300, 65535), st.integers(0, 299), st.sampled_from([0.0, 0.01, 0.2])),
)


@given(
    bits=st.integers(6, 16), up=st.integers(0, 8), swapped=st.booleans(), dark=st.floats(0, 1),
    seed=st.integers(0, 999), declared=st.lists(SCALES, max_size=3), full_scale=st.sampled_from([4095, 65535]),
)  # fmt: skip
@settings(max_examples=examples(300), deadline=None)
def test_every_picture_is_shown_as_its_histogram_says(
    bits: int, up: int, swapped: bool, dark: float, seed: int, declared: list[Scale], full_scale: int
) -> None:
    random = np.random.default_rng(seed)
    samples = (random.integers(0, 1 << bits, (12, 12, 3)) << up).clip(0, 65535).astype(np.uint16)
    samples[random.random(samples.shape) < dark] >>= 4
    if full_scale == 4095:
        samples &= 4095
    elif swapped:
        samples = samples.byteswap()
    expected = by_histogram(samples, declared, full_scale)
    if isinstance(expected, str):
        with pytest.raises(UnsupportedPicture, match=expected):
            to_8_bit(samples, 3, declared, full_scale)
    else:
        assert (to_8_bit(samples, 3, declared, full_scale) == expected).all()
