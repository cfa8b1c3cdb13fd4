"""Calls of a session with I/O binding: buffers on the GPU and page-locked host memory, allocated once per batch size.

A CUDA graph replays on the addresses that it was captured with, so each batch size has its own buffers and graph. A
batch between two sizes is padded; one above the largest is split.
"""

import ctypes
import threading
import weakref
from collections.abc import Mapping, Sequence

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from service.runtime.cuda import cuda_runtime

Shape = tuple[int, ...]
Arrays = list[NDArray[np.float32]]

#: Key in RunOptions for the CUDA graph that a call captures or replays.
GRAPH_ID = "gpu_graph_id"


class FixedBatchCalls:
    """Calls of a session at fixed batch sizes. Thread-safe; runs one call at a time, as CUDA graphs require."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        *,
        input: tuple[str, Shape],
        outputs: Mapping[str, Shape],
        batch_sizes: Sequence[int],
        device: str = "cuda",
        graphs: bool = False,
    ) -> None:
        """Allocate all buffers; nothing is computed yet.

        Args:
            input: name of the uint8 input, and its shape without the batch dimension.
            outputs: names of the float32 outputs in the order of the results, and their shapes without the batch.
            device: "cuda" or "cpu".
            graphs: capture a CUDA graph at the first call of each batch size, and replay it from then on.
        """
        self._lock = threading.Lock()
        self._calls = {
            size: _BatchCall(session, input, outputs, size, device, graph_id=size if graphs else None)
            for size in sorted(batch_sizes)
        }
        self._largest = max(self._calls)

    def run(self, images: NDArray[np.uint8]) -> Arrays:
        """Compute the outputs, each (N, …), of images (N, …) for any N. The arrays are copies that the caller owns."""
        chunks = [images[start : start + self._largest] for start in range(0, len(images), self._largest)]
        with self._lock:
            parts = [self._smallest_for(len(chunk)).run(chunk) for chunk in chunks]
        return parts[0] if len(parts) == 1 else [np.concatenate(rows) for rows in zip(*parts, strict=True)]

    def _smallest_for(self, count: int) -> "_BatchCall":
        return next(call for size, call in self._calls.items() if size >= count)


class _BatchCall:
    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        input: tuple[str, Shape],
        outputs: Mapping[str, Shape],
        size: int,
        device: str,
        graph_id: int | None,
    ) -> None:
        name, shape = input
        self._session = session
        self._staged = page_locked(np.zeros((size, *shape), np.uint8))
        self._input = _allocate((size, *shape), np.uint8, device)
        self._outputs = [_allocate((size, *shape), np.float32, device) for shape in outputs.values()]
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(name, self._input)
        for output, value in zip(outputs, self._outputs, strict=True):
            self._binding.bind_ortvalue_output(output, value)
        self._options = onnxruntime.RunOptions()
        if graph_id is not None:
            self._options.add_run_config_entry(GRAPH_ID, str(graph_id))

    def run(self, images: NDArray[np.uint8]) -> Arrays:
        """Compute up to the buffers' batch size. Rows left by an earlier, larger batch are computed and dropped."""
        count = len(images)
        self._staged[:count] = images
        # Copies into the bound buffer; host memory would be copied at the time of binding only.
        self._input.update_inplace(self._staged)
        self._session.run_with_iobinding(self._binding, self._options)
        return [np.array(value.numpy()[:count]) for value in self._outputs]


def _allocate(shape: Shape, kind: type[np.generic], device: str) -> onnxruntime.OrtValue:
    return onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(shape), kind, device, 0)


def page_locked(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Lock the array's pages in memory for faster copies to the GPU; without CUDA the array stays as it is."""
    runtime = cuda_runtime(str(getattr(onnxruntime, "cuda_version", "")))
    address = ctypes.c_void_p(array.ctypes.data)
    if runtime is not None and runtime.cudaHostRegister(address, ctypes.c_size_t(array.nbytes), 0) == 0:
        # Runs before the array's memory is freed.
        weakref.finalize(array, runtime.cudaHostUnregister, address)
    return array
