"""Probe images, and a short summary of a graph's outputs for them, which the manifest stores and the service checks."""

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from model.contract import Manifest, Probes

#: Number of stored probe images: grey, and noise in squares of 1 to 32 pixels.
STORED = 8
#: Stored digits: those of float32. The rounding is far below every tolerance.
DIGITS = 7

#: Outputs that are stored as one number for each image.
PROJECTED = ("attention", "evidence", "embedding")

Arrays = Mapping[str, NDArray[np.float32]]


def probe_images(manifest: Manifest, count: int = 2) -> NDArray[np.uint8]:
    """Different images (count, S, S, 3), always the same: grey, noise, then squares of several sizes.

    The noise is SHAKE-256, because random generators of libraries may change between versions.
    """
    size = manifest.preprocessing.input_size
    images = np.full((count, size, size, 3), 128, np.uint8)
    for index in range(1, count):
        side = 1 << (index - 1) % 6  # of a square, in pixels
        cells = -(-size // side)
        drawn = hashlib.shake_256(str(index).encode()).digest(cells * cells * 3)
        grid = np.frombuffer(drawn, np.uint8).reshape(cells, cells, 3)
        images[index] = grid.repeat(side, axis=0).repeat(side, axis=1)[:size, :size]
    return images


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
