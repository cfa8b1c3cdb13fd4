"""Calls of a CPU session that are small enough for the caches of its cores."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model.contract import INPUT
from service.runtime.fixed_shapes import Started

#: Images for each thread in one call. What the layers compute of more does not fit into a core's cache: one thread does
#: a tenth fewer pictures a second in calls of 16 than in calls of 4 (docs/bench.md).
IMAGES_FOR_EACH_THREAD = 4


class CacheSizedCalls:
    """Calls for any number of images, a few at a time. As thread-safe as the session."""

    def __init__(self, session: Started, outputs: Sequence[str], *, threads: int) -> None:
        self._session, self._outputs = session, list(outputs)
        self._images_a_call = IMAGES_FOR_EACH_THREAD * threads

    def run(self, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Compute the outputs, each (N, …), of images (N, …) for any N. The caller owns the arrays."""
        size = self._images_a_call
        if len(images) <= size:
            return self._session.run(self._outputs, {INPUT: images})
        parts = [images[start : start + size] for start in range(0, len(images), size)]
        computed = [self._session.run(self._outputs, {INPUT: part}) for part in parts]
        return [np.concatenate(rows) for rows in zip(*computed, strict=True)]
