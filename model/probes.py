"""Probe images, and a short summary of a graph's outputs for them, which the manifest stores and the service checks."""

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from model.contract import Manifest, Probes

#: Number of stored probe images: grey, noise of each spacing, and two more.
STORED = 8
#: Between random colours. Not 3 to 6, and no sharp squares: there the bundled network amplifies rounding, in which
#: processors differ, far more than in real cells (docs/decisions/0045).
SPACINGS_PX = (1, 2, 8, 16, 32)
#: Stored digits: those of float32. The rounding is far below every tolerance.
DIGITS = 7

#: Outputs that are stored as one number for each image.
PROJECTED = ("attention", "evidence", "embedding")

Arrays = Mapping[str, NDArray[np.float32]]


def probe_images(manifest: Manifest, count: int = 2) -> NDArray[np.uint8]:
    """Different images (count, S, S, 3), always the same: grey, noise, then noise that changes slowly, as cells do.

    Integers of SHAKE-256, because random generators of libraries may change between versions.
    """
    size = manifest.preprocessing.input_size
    images = np.full((count, size, size, 3), 128, np.uint8)
    for index in range(1, count):
        images[index] = noise(size, SPACINGS_PX[(index - 1) % len(SPACINGS_PX)], str(index))
    return images


def noise(size: int, spacing: int, key: str) -> NDArray[np.int64]:
    """(S, S, 3): random colours at distances of `spacing` pixels, bilinear between them."""
    knots = -(-size // spacing) + 1
    drawn = hashlib.shake_256(key.encode()).digest(knots * knots * 3)
    colours = np.frombuffer(drawn, np.uint8).astype(np.int64).reshape(knots, knots, 3)
    at, behind = np.divmod(np.arange(size), spacing)
    rows = colours[at] * (spacing - behind)[:, None, None] + colours[at + 1] * behind[:, None, None]
    summed: NDArray[np.int64] = rows[:, at] * (spacing - behind)[:, None] + rows[:, at + 1] * behind[:, None]
    return summed // spacing**2


def images_sha256(images: NDArray[np.uint8]) -> str:
    """sha256 of all values in memory order."""
    return hashlib.sha256(images.tobytes()).hexdigest()


def summary(outputs: Arrays) -> dict[str, NDArray[np.float32]]:
    """Logits (P, C) unchanged; attention (if there is one), evidence and embedding as one number for each image, (P,).

    The number is Σ cos(i) · value[i] · √(2/n) over the image's n values in memory order. It has the size of their root
    mean square, and changes if a value changes or two are swapped, unlike a mean or norm. Probabilities follow from
    logits and temperature.
    """
    projected = {name: _projected(outputs[name]) for name in PROJECTED if name in outputs}
    return {"logits": np.asarray(outputs["logits"]), **projected}


def _projected(values: NDArray[np.float32]) -> NDArray[np.float32]:
    flat = values.reshape(len(values), -1).astype(np.float64)
    count = flat.shape[1]
    weights = np.cos(np.arange(count)) * np.sqrt(2 / count)
    with np.errstate(invalid="ignore"):  # NaN stays NaN, and the comparison finds it
        found: NDArray[np.float32] = (flat @ weights).astype(np.float32)
    return found


def recorded(images: NDArray[np.uint8], outputs: Arrays) -> Probes:
    """The `Probes` for the manifest.

    Raises:
        ValueError: an output is not finite.
    """
    found = summary(outputs)
    for name, values in found.items():
        if not np.isfinite(values).all():
            raise ValueError(f"{name} of a probe image is not finite")
    short = {name: _short(values) for name, values in found.items()}
    return Probes.model_validate({"images_sha256": images_sha256(images), **short})


def _short(values: NDArray[np.float32]) -> object:
    rounded = [float(f"{value:.{DIGITS}g}") for value in values.ravel()]
    return np.array(rounded).reshape(values.shape).tolist()


def stored_summary(probes: Probes) -> dict[str, NDArray[np.float32]]:
    """The stored values, in the form of `summary`."""
    stored = probes.model_dump(include={"logits", *PROJECTED}, exclude_none=True)
    return {name: np.array(values, np.float32) for name, values in stored.items()}
