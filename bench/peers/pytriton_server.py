"""Triton's dynamic batcher, from a wheel: pytriton, with onnxruntime in its callable.

Settings (https://triton-inference-server.github.io/pytriton/latest/reference/model_config/ and
https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/batcher.html): the dynamic
batcher with its defaults, no delay and no preferred sizes, as NVIDIA advises; `max_batch_size` takes a whole request of
64 pictures; the queue policy refuses at marrowlens' number of places and at the deadline; one instance, since a second
would only share the same processors. Pictures come as BYTES through the HTTP protocol's binary extension and are
decoded in the callable, after batching; the answer is JSON, as everywhere.
"""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, QueuePolicy, Tensor, TimeoutAction
from pytriton.triton import Triton, TritonConfig

from bench.peers.bare import DEADLINE_S, Bare
from bench.peers.names import HOST, MAX_QUEUE_SIZE, PORT

MAX_REQUEST_PICTURES = 64

bare = Bare()


@batch
def classify(image: NDArray[np.object_]) -> dict[str, NDArray[np.float32]]:
    """(N, 1) JPEGs to probabilities and attention."""
    pictures = np.stack([bare.read(picture) for picture in image[:, 0]])
    return bare.run(pictures)


def outputs() -> list[Tensor]:
    """Of one picture."""
    found = bare.run(np.zeros((1, bare.size, bare.size, 3), np.uint8))
    return [Tensor(name=name, dtype=np.float32, shape=array.shape[1:]) for name, array in found.items()]


if __name__ == "__main__":
    queue = QueuePolicy(
        timeout_action=TimeoutAction.REJECT,
        default_timeout_microseconds=int(1e6 * DEADLINE_S),
        max_queue_size=MAX_QUEUE_SIZE,
    )
    config = TritonConfig(
        http_address=HOST,
        http_port=PORT,
        grpc_port=int(os.environ["BENCH_SECOND_PORT"]),
        allow_metrics=False,
        log_verbose=0,
    )
    with Triton(config=config, workspace=Path(os.environ["BENCH_FOLDER"]) / "triton") as triton:
        triton.bind(
            model_name="cells",
            infer_func=classify,
            inputs=[Tensor(name="image", dtype=bytes, shape=(1,))],
            outputs=outputs(),
            config=ModelConfig(max_batch_size=MAX_REQUEST_PICTURES, batcher=DynamicBatcher(default_queue_policy=queue)),
        )
        triton.serve()
