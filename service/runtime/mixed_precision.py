"""Calls with the trunk in bf16 and the head in fp32; a picture between two classes is computed in fp32 throughout."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from service.runtime.fixed_shapes import FixedShapeCalls, Started

#: Pictures whose two highest probabilities differ by less are computed again in fp32. bf16 moves a probability by 0.001
#: at the median and by 0.05 in one of a hundred cells (docs/decisions/0033), so it changes hardly any other class.
CLOSE = 0.05


class MixedPrecisionCalls:
    """Calls of a trunk and a head; as thread-safe as these.

    Args:
        trunk: computes `values` from images, in bf16.
        head: computes `outputs`, probabilities first, from `values`, in fp32.
        fp32: computes `outputs` from images, in fp32.
    """

    def __init__(
        self,
        trunk: FixedShapeCalls,
        head: Started,
        *,
        values: Sequence[str],
        outputs: Sequence[str],
        fp32: Callable[[NDArray[np.uint8]], Sequence[NDArray[np.float32]]],
    ) -> None:
        self._trunk, self._head, self._fp32 = trunk, head, fp32
        self._values, self._outputs = values, outputs

    def run(self, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Compute the outputs, each (N, …), of images (N, …) for any N. The caller owns the arrays."""
        features = self._trunk.run(images)
        arrays = self._head.run(self._outputs, dict(zip(self._values, features, strict=True)))
        (close,) = np.nonzero(margins(arrays[0]) < CLOSE)
        if len(close):
            for array, exact in zip(arrays, self._fp32(images[close]), strict=True):
                array[close] = exact
        return arrays


def margins(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Differences between the two highest probabilities of each picture, (N,), from (N, C)."""
    highest = np.partition(probabilities, -2, axis=1)[:, -2:]
    return highest[:, 1] - highest[:, 0]
