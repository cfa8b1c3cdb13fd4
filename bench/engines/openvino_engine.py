"""Time the same ONNX file in OpenVINO, in fp32 and bf16, compiled for each batch size.

Settings (https://docs.openvino.ai/2026/openvino-workflow/running-inference/optimize-inference.html): fixed shapes, the
latency hint (one stream with all threads, since one batch runs at a time), and `INFERENCE_PRECISION_HINT`, because
OpenVINO uses bf16 by default on processors that support it.
"""

from collections.abc import Callable
from functools import partial

import openvino

from bench.engines.names import BF16, FP32
from bench.engines.timing import Images, Task, task, time_batches


def compiled(asked: Task, precision: str, batch: int) -> Callable[[Images], object]:
    """A function that computes all outputs of a batch."""
    core = openvino.Core()
    read = core.read_model(asked.artefact)
    read.reshape([batch, asked.size, asked.size, 3])
    options = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": asked.threads,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,
    }
    request = core.compile_model(read, "CPU", options).create_infer_request()
    return lambda images: request.infer({"image": images})


if __name__ == "__main__":
    asked = task()
    images = asked.decoded()
    for precision, name in (("f32", FP32), ("bf16", BF16)):
        time_batches("openvino", name, asked, images, partial(compiled, asked, precision))
