"""Features of a picture for drift detection: embedding, colour and sharpness, which show stain, camera and focus."""

import numpy as np
from numpy.typing import NDArray

from model.drift.reference import COLOURS, SHARPNESSES

#: Sampled rows and columns for colour, and sampled rows for sharpness, so that a picture takes a few microseconds.
COLOUR_GRID, SHARPNESS_ROWS = 32, 8
#: Added before the logarithm: the differences in a picture of one colour are 0.
FLAT = 1e-3
_TINY = 1e-6

Pictures = NDArray[np.uint8]  # (N, S, S, 3) RGB, as the model received them
Embeddings = NDArray[np.float32]  # (N, D)
Features = NDArray[np.float32]  # (N, F)


def features(
    embeddings: Embeddings, pictures: Pictures, centre: NDArray[np.float32], basis: NDArray[np.float32]
) -> Features:
    """(N, F): the features of the embeddings, then those of the pictures."""
    kept = basis.shape[1] + 1
    found = np.empty((len(pictures), kept + COLOURS + SHARPNESSES), np.float32)
    _embedding(embeddings, centre, basis, found[:, :kept])
    _colour_and_sharpness(pictures, found[:, kept:])
    return found


def embedding_features(
    embeddings: Embeddings, centre: NDArray[np.float32], basis: NDArray[np.float32]
) -> NDArray[np.float32]:
    """(N, K + 1): the embedding along K directions, and the logarithm of the squared residual.

    The residual shows content that varies in directions in which the reference does not.

    Args:
        centre: (D,), mean embedding of the reference.
        basis: (D, K), orthonormal directions.
    """
    found = np.empty((len(embeddings), basis.shape[1] + 1), np.float32)
    _embedding(embeddings, centre, basis, found)
    return found


def picture_features(pictures: Pictures) -> NDArray[np.float32]:
    """(N, 6 + 2): colour and sharpness.

    Colour: mean and standard deviation of red, green and blue, of pixels scaled to 0..1. Sharpness: logarithms of the
    mean absolute first and second difference of neighbours in a row, of green. Blur reduces the second more than the
    first; compression and noise increase it.
    """
    found = np.empty((len(pictures), COLOURS + SHARPNESSES), np.float32)
    _colour_and_sharpness(pictures, found)
    return found


# These write into given arrays and call ufuncs directly: for one picture numpy's wrappers would take most of the time.


def _embedding(
    embeddings: Embeddings, centre: NDArray[np.float32], basis: NDArray[np.float32], found: NDArray[np.float32]
) -> None:
    from_centre = embeddings - centre
    along = np.matmul(from_centre, basis)
    found[:, :-1] = along
    rest = np.einsum("nd,nd->n", from_centre, from_centre) - np.einsum("nk,nk->n", along, along)
    found[:, -1] = np.log(np.maximum(rest, 0) + _TINY)


def _colour_and_sharpness(pictures: Pictures, found: NDArray[np.float32]) -> None:
    step = max(1, pictures.shape[1] // COLOUR_GRID)
    sampled = pictures[:, ::step, ::step].transpose(0, 3, 1, 2)
    # Plane by plane: sums over contiguous memory take a fifth of the time.
    planes = sampled.astype(np.float32, order="C").reshape(len(pictures), 3, -1)  # (N, 3, pixels)
    scale, count = np.float32(1 / 255), np.float32(planes.shape[2])
    means = np.add.reduce(planes, axis=2) * (scale / count)
    squares = np.einsum("ncp,ncp->nc", planes, planes) * (scale * scale / count)
    found[:, :3] = means
    found[:, 3:COLOURS] = np.sqrt(np.maximum(squares - means * means, 0))
    rows = pictures[:, :: max(1, pictures.shape[1] // SHARPNESS_ROWS), :, 1].astype(np.float32)
    for column in (COLOURS, COLOURS + 1):
        rows = rows[:, :, 1:] - rows[:, :, :-1]
        sizes = np.absolute(rows).reshape(len(pictures), -1)
        found[:, column] = np.add.reduce(sizes, axis=1) * (scale / np.float32(sizes.shape[1]))
    found[:, COLOURS:] = np.log(found[:, COLOURS:] + np.float32(FLAT))
