"""Overlapping pictures: crops of one field that show the same cells, shifted against each other.

Hashes of whole pictures do not find them: a neighbour of one cell is the centre of the other. The search has three
stages, as in the retrieval of near-duplicate photographs:

1. Keypoints: the local extrema of a band-pass (difference of Gaussians), each described by the lowest frequencies of
   the patch around it. Neither depends on where a crop begins.
2. Hashes of patches: random hyperplanes (Charikar 2002, locality-sensitive hashing) put similar patches into one
   bucket. A bucket of many patches is skipped: blank background identifies no field.
3. Correlation: each pair of similar patches suggests a shift. The overlap at this shift is correlated in the
   band-pass: first coarsely, then, if the result is high, at twice the resolution. Coarsely seen, different cells are
   alike too: dark discs.

Bits of a hash grow with the logarithm of the number of patches, so time and memory grow about linearly. Rotated and
mirrored crops are not searched, because programs that cut cells do not rotate them.
"""

import io
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter, maximum_filter

from model.image import PictureError, decode
from training.data.cache import Recipe, Rows, cached_rows
from training.data.images import decoder_version
from training.data.near_duplicates import LUMINANCE
from training.data.pair_table import write_pairs
from training.data.samples import Block, Sample, read_image_bytes

Item = TypeVar("Item")
Result = TypeVar("Result")
Grey = NDArray[np.float32]  # (H, W)

#: Side in pixels of a picture of its source's usual size, and of the canvas that a larger one is cut to.
SIDE, CANVAS = 80, 112
#: Share of the smaller picture that an overlap covers at least.
MIN_SHARE = 0.2
#: Keypoints of a picture, side of a patch, and frequencies that describe it.
KEYPOINTS, PATCH, FREQUENCIES = 48, 16, 6
MIN_CONTRAST = 2.0  # of 255
#: Hash tables; bits beyond the logarithm of the number of patches; patches of a bucket that is still compared.
TABLES, SPARE_BITS, BUCKET = 10, 4, 64
MIN_SIMILARITY = 0.93  # of two patches: cosine of their frequencies
MIN_COARSE_CORRELATION = 0.6
#: Widest structures, in pixels: nuclei and their parts; at twice the resolution, chromatin and outlines.
COARSE, FINE = 4.0, 2.0
#: Pixels at twice the resolution that the shift is refined by.
REFINED = 2
#: Pictures of a source whose size decides the scale.
MEASURED = 200


class Overlap(NamedTuple):
    """Two pictures that show the same part of a field."""

    first: int  # index of a sample, smaller than the second
    second: int
    correlation: float  # of the band-passed overlap
    share: float  # of the smaller picture that the overlap covers
    down: float  # position of the second picture relative to the first, in % of the first one's height and width
    right: float


class _Candidate(NamedTuple):
    first: int  # row
    second: int
    down: int  # pixels
    right: int


def find_overlaps(samples: Sequence[Sample], cache: Path | None, min_correlation: float) -> list[Overlap]:
    """Pairs of readable samples that overlap by at least `MIN_SHARE`; the best shift of each.

    Nearly all pairs: few keypoints in the overlap, or faint ones in a JPEG, can hide one.

    Args:
        cache: folder for the reduced pictures; None: compute them anew.
        min_correlation: of the overlap; different cells reach 0.76.
    """
    factors = _reductions(samples)
    rows = reduced_samples(samples, factors, cache)
    candidates = _coarse_overlaps(rows)

    def fine(sample: Sample) -> Grey:
        return _band_pass(_reduced(read_image_bytes(sample), factors[sample.source] / 2), FINE)

    def refine(pair: _Candidate) -> Overlap | None:
        first, second = rows.indices[pair.first], rows.indices[pair.second]
        try:
            pictures = fine(samples[first]), fine(samples[second])
        except (PictureError, OSError):  # changed since it was reduced
            return None
        steps = range(-REFINED, REFINED + 1)
        shifts = [(2 * pair.down + down, 2 * pair.right + right) for down in steps for right in steps]
        correlation, share, (down, right) = max((*correlate(*pictures, *shift), shift) for shift in shifts)
        height, width = pictures[0].shape
        return Overlap(first, second, correlation, share, 100 * down / height, 100 * right / width)

    found = (overlap for overlap in _in_threads(refine, candidates, "overlaps") if overlap is not None)
    return sorted(overlap for overlap in found if overlap.correlation >= min_correlation)


def reduced_samples(samples: Sequence[Sample], factors: Mapping[str, float], cache: Path | None) -> Rows:
    """The grey picture (112, 112) of each readable sample at the scale of its source; 0 is outside the picture.

    Args:
        factors: source → pixels of a file for one of the reduced picture.
    """

    def compute(sample: Sample, data: bytes) -> NDArray[np.uint8]:
        picture = _reduced(data, factors[sample.source])[:CANVAS, :CANVAS]
        canvas = np.zeros((CANVAS, CANVAS), np.uint8)
        canvas[: picture.shape[0], : picture.shape[1]] = picture.round().clip(1, 255)
        return canvas

    version = f"overlaps {decoder_version(Path(__file__))} {sorted(factors.items())}"
    return cached_rows(samples, Recipe(compute, (CANVAS, CANVAS), np.uint8, version), cache, "reducing pictures")


def _reductions(samples: Sequence[Sample]) -> dict[str, float]:
    """Source → reduction that gives its usual picture a side of `SIDE`, in quarters."""
    by_source: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_source[sample.source].append(sample)
    factors = {}
    for source, members in by_source.items():
        chosen = [members[at] for at in np.linspace(0, len(members) - 1, min(len(members), MEASURED)).astype(int)]
        sides = [max(size) for sample in chosen if (size := _size(sample)) is not None]
        factors[source] = max(round(4 * float(np.median(sides or [SIDE])) / SIDE) / 4, 0.25)
    return factors


def _size(sample: Sample) -> tuple[int, int] | None:
    try:
        return _upright_size(read_image_bytes(sample))
    except OSError:
        return None


def _upright_size(data: bytes) -> tuple[int, int] | None:
    """Width and height as shown, by the file's header; None if Pillow does not know its format."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            turned = picture.getexif().get(0x0112, 1) >= 5  # Exif orientation
            return picture.size[::-1] if turned else picture.size
    except (OSError, ValueError, SyntaxError):
        return None


def _reduced(data: bytes, factor: float) -> Grey:
    """The luminance of a picture, reduced without a change of its shape."""
    width, height = (max(round(side / factor), 1) for side in _upright_size(data) or (SIDE * factor, SIDE * factor))
    square = decode(data, max(width, height)) @ LUMINANCE
    if width == height:
        return square
    return np.asarray(Image.fromarray(square).resize((width, height), Image.Resampling.BILINEAR))


def _band_pass(grey: Grey, widest: float) -> Grey:
    """Structures between one pixel and `widest` pixels; flat background and slow gradients are removed."""
    return gaussian_filter(grey, 1.0) - gaussian_filter(grey, widest)


def _in_threads(do: Callable[[Item], Result], items: Sequence[Item], title: str) -> Iterable[Result]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from track(pool.map(do, items), title, len(items), transient=True)


def _coarse_overlaps(rows: Rows) -> list[_Candidate]:
    """The best shift of each pair of rows that may overlap."""
    analysed = list(_in_threads(_analyse, list(rows.array), "keypoints"))
    pictures, found = [each[0] for each in analysed], [each[1] for each in analysed]
    owners = np.repeat(np.arange(len(found)), [len(places) for places, _ in found])
    if not len(owners):
        return []
    places, patches = (np.concatenate(each) for each in zip(*found, strict=True))
    best: dict[tuple[int, int], tuple[float, _Candidate]] = {}
    for candidate in _like_patches(patches, places, owners):
        correlation, _ = correlate(pictures[candidate.first], pictures[candidate.second], candidate[2], candidate[3])
        pair = candidate[:2]
        if correlation >= max(MIN_COARSE_CORRELATION, best[pair][0] if pair in best else 0.0):
            best[pair] = correlation, candidate
    return [candidate for _, candidate in best.values()]


def _analyse(row: NDArray[np.uint8]) -> tuple[NDArray[np.float16], tuple[NDArray[np.int64], Grey]]:
    """The band-passed picture of a row, in half the memory, and its keypoints."""
    picture = _band_pass(row[: np.count_nonzero(row[:, 0]), : np.count_nonzero(row[0])].astype(np.float32), COARSE)
    return picture.astype(np.float16), _keypoints(picture)


def _keypoints(picture: Grey) -> tuple[NDArray[np.int64], Grey]:
    """Places (K, 2) of the strongest local extrema, and the frequencies (K, 35) of the patch around each."""
    half = PATCH // 2
    strength = np.abs(picture)
    peaks = (strength == maximum_filter(strength, 7)) & (strength > MIN_CONTRAST)
    inside = np.zeros_like(peaks)
    inside[half:-half, half:-half] = True
    places = np.argwhere(peaks & inside)
    order = np.argsort(-strength[tuple(places.T)], kind="stable")[:KEYPOINTS]
    places = places[order]
    if not len(places):
        return places, np.empty((0, FREQUENCIES**2 - 1), np.float32)
    patches = np.stack([picture[y - half : y + half, x - half : x + half] for y, x in places])
    spectra = dctn(patches, axes=(1, 2), norm="ortho")[:, :FREQUENCIES, :FREQUENCIES]
    return places, spectra.reshape(len(places), -1)[:, 1:].astype(np.float32)


def _like_patches(patches: Grey, places: NDArray[np.int64], owners: NDArray[np.int64]) -> list[_Candidate]:
    """Pairs of pictures with a like patch, and the shift that it implies; each once."""
    unit = patches / np.linalg.norm(patches, axis=1, keepdims=True)
    found = [np.empty((0, 4), np.int64)]
    for bucket in _hashes(patches):
        for one, other in _bucket_pairs(bucket):
            apart = owners[one] != owners[other]
            one, other = one[apart], other[apart]
            like = np.einsum("ij,ij->i", unit[one], unit[other]) >= MIN_SIMILARITY
            one, other = one[like], other[like]
            swapped = owners[one] > owners[other]
            first, second = np.where(swapped, other, one), np.where(swapped, one, other)
            found.append(np.column_stack([owners[first], owners[second], places[first] - places[second]]))
    return [_Candidate(*row) for row in np.unique(np.concatenate(found), axis=0).tolist()]


def _hashes(patches: Grey) -> Iterable[NDArray[np.int64]]:
    """The bucket of each patch (M,) in each table: on which sides of random hyperplanes it lies."""
    random = np.random.default_rng(0)
    spread = patches.std(axis=0)
    scaled = patches / np.where(spread > 0, spread, 1)  # without it, the lowest frequencies would decide alone
    bits = SPARE_BITS + int(np.log2(max(len(patches), 2)))
    for _ in range(TABLES):
        planes = random.normal(size=(patches.shape[1], bits)).astype(np.float32)
        yield (scaled @ planes > 0) @ (1 << np.arange(bits))


def _bucket_pairs(buckets: NDArray[np.int64]) -> Iterable[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """All pairs of patches in one bucket, in arrays; buckets with more than `BUCKET` patches are skipped."""
    order = np.argsort(buckets, kind="stable")
    ordered = buckets[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    sizes = np.diff(np.append(starts, len(ordered)))
    small = np.repeat(sizes <= BUCKET, sizes)
    for apart in range(1, BUCKET):
        at = np.flatnonzero((ordered[apart:] == ordered[:-apart]) & small[apart:])
        if not len(at):
            return
        yield order[at], order[at + apart]


def correlate(first: NDArray[np.floating], second: NDArray[np.floating], down: int, right: int) -> tuple[float, float]:
    """Correlation of two pictures where they overlap, and the overlap's share of the smaller one.

    Args:
        down, right: position of the second picture in the first. An overlap below `MIN_SHARE` has the correlation -1.
    """
    height = min(first.shape[0], second.shape[0] + down) - max(down, 0)
    width = min(first.shape[1], second.shape[1] + right) - max(right, 0)
    share = max(height, 0) * max(width, 0) / min(first.size, second.size)
    if share < MIN_SHARE:
        return -1.0, share
    one = first[max(down, 0) :, max(right, 0) :][:height, :width].astype(np.float32)
    other = second[max(-down, 0) :, max(-right, 0) :][:height, :width].astype(np.float32)
    one, other = one - one.mean(), other - other.mean()
    norm = float(np.sqrt((one * one).sum() * (other * other).sum()))
    return (float((one * other).sum()) / norm if norm else -1.0), share


def write_overlaps(
    path: Path,
    overlaps: Iterable[Overlap],
    samples: Sequence[Sample],
    planned: Sequence[Block],
    blocks: Sequence[Block],
) -> None:
    """Write overlaps.csv: one row per pair with correlation, share and shift (`write_pairs`)."""
    rows = (
        ((f"{p.correlation:.3f}", f"{p.share:.2f}", f"{p.down:.0f}", f"{p.right:.0f}"), p.first, p.second)
        for p in overlaps
    )
    write_pairs(
        path, ("correlation", "share", "down_percent", "right_percent"), "other", rows, samples, planned, blocks
    )
