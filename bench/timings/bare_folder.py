"""Decode the pictures of a folder and run the bundled model on them, with nothing else: the limit of bulk scoring.

    python -m bench.timings.bare_folder FOLDER

Decoder, threads, batch size and session options are those of `marrowlens score`, without its table, trust and resume.
"""

import os
import sys
from pathlib import Path

import numpy as np
import onnxruntime

from model.image import decode

BATCH = 16
ARTEFACT = Path(__file__).parents[2] / "model" / "weights" / "marrowlens-lite.onnx"


def main(folder: Path) -> None:
    """Compute all outputs of every picture."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(ARTEFACT, options, providers=["CPUExecutionProvider"])
    size = session.get_inputs()[0].shape[1]
    paths = sorted(folder.iterdir())
    for start in range(0, len(paths), BATCH):
        images = np.stack([decode(path.read_bytes(), size) for path in paths[start : start + BATCH]])
        session.run(None, {"image": images})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
