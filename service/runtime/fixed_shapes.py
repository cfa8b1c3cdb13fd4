"""Calls of sessions that are compiled for one batch size each.

OpenVINO plans a graph of fixed shapes once. With a dynamic batch size it plans again whenever the size changes, which
takes longer than the pictures do (docs/providers.md).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from model.contract import INPUT


class Started(Protocol):
    """The part of an onnxruntime session that calls need."""

    def run(self, output_names: Sequence[str], inputs: Mapping[str, NDArray[Any]], /) -> list[NDArray[np.float32]]:
        """Compute outputs by name, in the order of the names."""


class FixedShapeCalls:
    """Calls for any number of images, from sessions by batch size, one of which is 1. As thread-safe as these.

    A batch is computed in parts of these sizes, the largest first. It is not padded: a CPU computes padding as slowly
    as pictures.
    """

    def __init__(self, sessions: Mapping[int, Started], outputs: Sequence[str]) -> None:
        self._sessions = dict(sorted(sessions.items(), reverse=True))
        self._outputs = list(outputs)

    def run(self, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Compute the outputs, each (N, …), of images (N, …) for any N. The caller owns the arrays."""
        parts = [session.run(self._outputs, {INPUT: part}) for session, part in self._parts(images)]
        return parts[0] if len(parts) == 1 else [np.concatenate(rows) for rows in zip(*parts, strict=True)]

    def _parts(self, images: NDArray[np.uint8]) -> Iterator[tuple[Started, NDArray[np.uint8]]]:
        start = 0
        for size, session in self._sessions.items():
            while len(images) - start >= size:
                yield session, images[start : start + size]
                start += size
