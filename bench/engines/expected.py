"""Write the bare session's answer to every picture; answers of the servers are compared with them.

python -m bench.engines.expected TASK OUT.npz DECODER
"""

import sys
from pathlib import Path

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
    rows = [
        session.run(ASKED, {"image": decode(Path(path).read_bytes(), asked.size)[np.newaxis]})
        for path in asked.pictures
    ]
    probabilities, attention = (np.concatenate(column) for column in zip(*rows, strict=True))
    np.savez(sys.argv[2], probabilities=probabilities, attention=attention)
