"""Novelty of a picture: its distance from the embeddings of known cells, as a conformal p-value."""

import numpy as np
from numpy.typing import NDArray

from model.packing import unpack_floats
from model.trust.reference import ClassGaussians

Embeddings = NDArray[np.float32]  # (N, D)
Distances = NDArray[np.float32]  # (N,)


#: Embeddings measured at once, which bounds the memory for their differences from every class mean.
CHUNK = 256


class MahalanobisDistance:
    """Mahalanobis distance from the nearest class mean."""

    def __init__(self, gaussians: ClassGaussians) -> None:
        self._means = unpack_floats(gaussians.means).reshape(len(gaussians.classes), -1)
        self._directions = unpack_floats(gaussians.directions).reshape(len(gaussians.variances), -1).T.copy()
        self._residual = np.float32(gaussians.residual_variance)
        # Along a direction, the difference is divided by its own variance instead of the residual one.
        self._gains = 1 / np.array(gaussians.variances, np.float32) - 1 / self._residual  # (K,)

    def measure(self, embeddings: Embeddings) -> Distances:
        """The distances, (N,)."""
        chunks = [self._chunk(embeddings[start : start + CHUNK]) for start in range(0, len(embeddings), CHUNK)]
        return np.concatenate(chunks) if len(chunks) != 1 else chunks[0]

    def _chunk(self, embeddings: Embeddings) -> Distances:
        from_means = embeddings[:, None] - self._means  # (N, C, D)
        along = from_means @ self._directions  # (N, C, K)
        squared = np.einsum("ncd,ncd->nc", from_means, from_means) / self._residual + (along * along) @ self._gains
        found: Distances = np.sqrt(np.maximum(squared.min(axis=1), 0))
        return found


def p_values(known: Distances, distances: Distances) -> NDArray[np.float64]:
    """Conformal p-values, (N,): share of known cells at least this far, counting the picture itself.

    For pictures exchangeable with the known cells, P(p <= a) <= a (Vovk et al. 2005, proposition 2.4; Bates et al.
    2023, doi 10.1214/22-AOS2244, eq. 3). A distance of NaN counts as the farthest.

    Args:
        known: distances of the known cells, ascending.
        distances: (N,).
    """
    nearer = np.searchsorted(known, distances, side="left")  # NaN is sorted last
    found: NDArray[np.float64] = (len(known) - nearer + 1) / (len(known) + 1)
    return found
