"""What is measured of a picture that a model has seen: numbers in which stain, camera, focus and content show.

Knows arrays. Of a picture nothing is left but its row, and nothing keeps a row.
"""

import numpy as np
from numpy.typing import NDArray

#: Rows and columns of a picture that colours are taken from, and rows that sharpness is: it costs a few microseconds.
COLOUR_GRID, SHARPNESS_ROWS = 32, 16
#: Of a picture of one colour the logarithm is a number too.
FLAT = 1e-3
_TINY = 1e-6

Pictures = NDArray[np.uint8]  # (N, S, S, 3) RGB, as the model saw them
Embeddings = NDArray[np.float32]  # (N, D)
Features = NDArray[np.float32]  # (N, F)


def features(
    embeddings: Embeddings, pictures: Pictures, centre: NDArray[np.float32], basis: NDArray[np.float32]
) -> Features:
    """(N, F): those of the embeddings, then those of the pictures."""
    return np.concatenate((embedding_features(embeddings, centre, basis), picture_features(pictures)), axis=1)


def embedding_features(
    embeddings: Embeddings, centre: NDArray[np.float32], basis: NDArray[np.float32]
) -> NDArray[np.float32]:
    """(N, K + 1): the embedding along K directions, and the logarithm of its squared distance from all of them.

    The last is what tells of content that no direction shows, because the reference never varied that way.

    Args:
        centre: (D,), what embeddings are measured from.
        basis: (D, K), the directions, orthonormal.
    """
    from_centre = embeddings - centre
    along = from_centre @ basis
    rest = np.einsum("nd,nd->n", from_centre, from_centre) - np.einsum("nk,nk->n", along, along)
    return np.concatenate((along, np.log(np.maximum(rest, 0) + _TINY)[:, None]), axis=1)


def picture_features(pictures: Pictures) -> NDArray[np.float32]:
    """(N, 6 + 2): colours and sharpness."""
    return np.concatenate((_colours(pictures), _sharpness(pictures)), axis=1)


def _colours(pictures: Pictures) -> NDArray[np.float32]:
    """(N, 6): mean and standard deviation of red, green and blue, of pixels scaled to 0..1."""
    step = max(1, pictures.shape[1] // COLOUR_GRID)
    sampled = pictures[:, ::step, ::step].transpose(0, 3, 1, 2)
    # Plane by plane, for sums over neighbours in memory take a fifth of the time.
    planes = sampled.astype(np.float32, order="C").reshape(*sampled.shape[:2], -1)  # (N, 3, pixels)
    scale, count = np.float32(1 / 255), np.float32(planes.shape[2])
    means = planes.sum(axis=2) * (scale / count)
    squares = np.matmul(planes[:, :, None], planes[..., None])[..., 0, 0] * (scale * scale / count)
    return np.concatenate((means, np.sqrt(np.maximum(squares - means * means, 0))), axis=1)


def _sharpness(pictures: Pictures) -> NDArray[np.float32]:
    """(N, 2): logarithms of the mean first and second difference of neighbours in a row, of green.

    Blur takes from the second more than from the first; compression and noise add to it.
    """
    step = max(1, pictures.shape[1] // SHARPNESS_ROWS)
    rows = pictures[:, ::step, :, 1].astype(np.float32)
    first = rows[:, :, 1:] - rows[:, :, :-1]
    second = first[:, :, 1:] - first[:, :, :-1]
    means = [np.abs(apart).reshape(len(pictures), -1).mean(axis=1) for apart in (first, second)]
    return np.log(np.stack(means, axis=1) / np.float32(255) + np.float32(FLAT))
