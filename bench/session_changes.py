"""What each session option of onnxruntime brings to an artefact, and what OpenVINO makes of it, side by side.

Knows onnxruntime's options and, where `pip install openvino` has been, OpenVINO's. The service's own options stand
first, in training/compare/speed.py, which times them all.

    python -m bench.session_changes model/weights/marrowlens-lite.onnx --threads 2
"""

import importlib
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime
import typer

from model.contract import INPUT, OUTPUTS
from training.compare.speed import Subject, artefact, cpu_seconds, processor, side_by_side

Level = onnxruntime.GraphOptimizationLevel


def _entry(key: str, value: str) -> Callable[[Any], None]:
    return lambda options: options.add_session_config_entry(key, value)


def _attribute(name: str, value: object) -> Callable[[Any], None]:
    return lambda options: setattr(options, name, value)


#: What is changed → how; each alone, all else as in the service.
CHANGES: dict[str, Callable[[Any], None]] = {
    "spinning": _entry("session.intra_op.allow_spinning", "1"),
    "denormals as zero": _entry("session.set_denormal_as_zero", "1"),
    "weights not prepacked": _entry("session.disable_prepacking", "1"),
    "memory pattern": _attribute("enable_mem_pattern", True),
    "no arena": _attribute("enable_cpu_mem_arena", False),
    "not optimised": _attribute("graph_optimization_level", Level.ORT_DISABLE_ALL),
    "basic optimisation": _attribute("graph_optimization_level", Level.ORT_ENABLE_BASIC),
    "extended optimisation, no NCHWc": _attribute("graph_optimization_level", Level.ORT_ENABLE_EXTENDED),
}


def main(
    path: Annotated[Path, typer.Argument(metavar="MODEL.onnx")],
    threads: Annotated[int, typer.Option(min=1, help="Of each runtime.")] = 1,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="May be repeated; default: 1 and 16.")] = None,
    rounds: Annotated[int, typer.Option(min=1)] = 21,
    cpu_time: Annotated[bool, typer.Option("--cpu-time", help="CPU seconds, for a machine with other work.")] = False,
) -> None:
    """Print pictures a second for each option alone, and its ratio to the service's options with quartiles."""
    subjects = _subjects(path, threads)
    clock = cpu_seconds if cpu_time else time.perf_counter
    found = side_by_side(subjects, batch or (1, 16), rounds, round_s=0.2, clock=clock)
    second = "CPU second" if cpu_time else "second"
    typer.echo(f"{threads} threads of {processor()}, {rounds} rounds, onnxruntime {onnxruntime.__version__}")
    for name, timings in found.items():
        for timing in timings:
            ratio = f"{timing.ratio:.3f} ({timing.ratio_low:.3f} to {timing.ratio_high:.3f})"
            typer.echo(f"{name}, batch {timing.batch}: {timing.pictures_per_s:.1f} pictures a {second}, {ratio}")


def _subjects(path: Path, threads: int) -> dict[str, Subject]:
    subjects = {"as the service": artefact(path, threads)}
    for name, change in CHANGES.items():
        options = _options(threads)
        change(options)
        subjects[name] = _opened(path, options)
    if importlib.util.find_spec("openvino"):
        subjects["OpenVINO, fp32"] = _openvino(path, threads)
    return subjects


def _options(threads: int) -> Any:
    """Those of the service, to change one of."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _opened(path: Path, options: Any) -> Subject:
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    size = session.get_inputs()[0].shape[1]
    return Subject(size, lambda images: session.run(list(OUTPUTS), {INPUT: images}))


def _openvino(path: Path, threads: int) -> Subject:
    openvino = importlib.import_module("openvino")
    hints = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = openvino.Core().compile_model(path, "CPU", hints)
    request = compiled.create_infer_request()
    size = compiled.input(0).partial_shape[1].get_length()
    return Subject(size, lambda images: [np.array(value) for value in request.infer({0: images}).values()])


if __name__ == "__main__":
    typer.run(main)
