"""The probe pictures, and what a graph makes of them in a few numbers: alike where it is stored and where it is judged.

Knows the contract, hashes and arrays. Knows nothing of what computes, nor how far two answers may lie apart.
"""

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from model.contract import Manifest, Probes

#: Pictures whose answers an export stores: grey, and noise in squares of 1 to 32 pixels.
STORED = 8
#: float32 keeps seven digits; rounding to them is far below every tolerance.
DIGITS = 7

#: Outputs of which one number a picture is stored.
PROJECTED = ("attention", "evidence", "embedding")

Arrays = Mapping[str, NDArray[np.float32]]


def probe_images(manifest: Manifest, count: int = 2) -> NDArray[np.uint8]:
    """Unlike pictures, (count, S, S, 3), the same each time: grey, noise, then squares of ever other sizes.

    Drawn from SHAKE-256 and no random generator: those of libraries may change, and stored answers with them.
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
    """Of all values, picture by picture, row by row, R, G, B."""
    return hashlib.sha256(images.tobytes()).hexdigest()


def summary(outputs: Arrays) -> dict[str, NDArray[np.float32]]:
    """Logits, (P, C), as they are; of attention, evidence and embedding one number a picture, (P,).

    That number is Σ cos(i) · value[i] · √(2/n) over the picture's n values in the order of memory: as large as they are
    in root mean square, and another one when any of them changes or two change places, which no mean and norm would
    tell. Probabilities follow from the logits and the temperature.
    """
    projected = {name: _projected(outputs[name]) for name in PROJECTED}
    return {"logits": np.asarray(outputs["logits"]), **projected}


def _projected(values: NDArray[np.float32]) -> NDArray[np.float32]:
    flat = values.reshape(len(values), -1).astype(np.float64)
    count = flat.shape[1]
    weights = np.cos(np.arange(count)) * np.sqrt(2 / count)
    with np.errstate(invalid="ignore"):  # what is not a number stays none, and whoever compares it says so
        found: NDArray[np.float32] = (flat @ weights).astype(np.float32)
    return found


def recorded(images: NDArray[np.uint8], outputs: Arrays) -> Probes:
    """What the manifest stores of the answers to the probe pictures.

    Raises:
        ValueError: an answer is not a number.
    """
    found = summary(outputs)
    for name, values in found.items():
        if not np.isfinite(values).all():
            raise ValueError(f"{name} of a probe picture are not numbers")
    short = {name: _short(values) for name, values in found.items()}
    return Probes.model_validate({"images_sha256": images_sha256(images), **short})


def _short(values: NDArray[np.float32]) -> object:
    rounded = [float(f"{value:.{DIGITS}g}") for value in values.ravel()]
    return np.array(rounded).reshape(values.shape).tolist()


def stored_summary(probes: Probes) -> dict[str, NDArray[np.float32]]:
    """What a manifest stores, in the form of `summary`."""
    stored = probes.model_dump(include={"logits", *PROJECTED})
    return {name: np.array(values, np.float32) for name, values in stored.items()}
