"""Write the bare session's answer to every picture; answers of the servers are compared with them.

python -m bench.engines.expected TASK OUT.npz DECODER
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from bench.engines.timing import task
from bench.peers.decoders import decoder
from bench.peers.names import ASKED

if __name__ == "__main__":
    asked = task()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = asked.threads
    session = onnxruntime.InferenceSession(asked.artefact, options, providers=["CPUExecutionProvider"])
    decode = decoder(sys.argv[3])
    outputs = {output.name for output in session.get_outputs()}
    names = [name for name in ASKED if name in outputs]
    rows = [
        session.run(names, {"image": decode(Path(path).read_bytes(), asked.size)[np.newaxis]})
        for path in asked.pictures
    ]
    columns = (np.concatenate(column) for column in zip(*rows, strict=True))
    arrays: dict[str, Any] = dict(zip(names, columns, strict=True))
    np.savez(sys.argv[2], **arrays)
