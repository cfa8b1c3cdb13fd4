"""Work that every peer does for a picture: decode it, run the session, return the probabilities and the attention grid.

Session options are those of service/runtime/session.py, so that only the servers differ. Peers read from the
environment:

    BENCH_ARTEFACT    the .onnx file
    BENCH_THREADS     threads of one session.run; taskset assigns the processors
    BENCH_PORT        port on loopback
    BENCH_DECODER     JPEG decoder (bench/peers/decoders.py)
    BENCH_DEADLINE_S  seconds after which an answer is useless
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from bench.peers.decoders import decoder
from bench.peers.names import ASKED

DEADLINE_S = float(os.environ.get("BENCH_DEADLINE_S", "5"))
#: Pictures in one call of the model, for the peers that batch: marrowlens' default.
MAX_BATCH_SIZE = 16


class Bare:
    """The session and the size of its pictures, opened from the environment."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["BENCH_THREADS"])
        options.inter_op_num_threads = 1
        options.enable_mem_pattern = False
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = os.environ["BENCH_ARTEFACT"]
        self._decode = decoder(os.environ["BENCH_DECODER"])
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.size: int = self._session.get_inputs()[0].shape[1]
        outputs = {output.name for output in self._session.get_outputs()}
        self._asked = [name for name in ASKED if name in outputs]
        self.run(np.zeros((1, self.size, self.size, 3), np.uint8))

    def read(self, picture: bytes) -> NDArray[np.uint8]:
        """Decode a JPEG to (S, S, 3)."""
        return self._decode(picture, self.size)

    def run(self, pictures: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """(N, S, S, 3) to probabilities (N, C) and, if the model has it, attention (N, K, h, w)."""
        return dict(zip(self._asked, self._session.run(self._asked, {"image": pictures}), strict=True))

    def stacked(self, pictures: Sequence[NDArray[np.uint8]]) -> dict[str, NDArray[np.float32]]:
        """As `run`, of single pictures (S, S, 3)."""
        return self.run(np.stack(pictures))

    def answers(self, pictures: Sequence[NDArray[np.uint8]]) -> list[dict[str, Any]]:
        """One answer for each picture; values are arrays."""
        outputs = self.stacked(pictures)
        return [dict(zip(outputs, rows, strict=True)) for rows in zip(*outputs.values(), strict=True)]
