"""Compare session options of onnxruntime on the CPU, one changed at a time, and OpenVINO if installed; prints Markdown.

    python bench/timings/session_options.py [--artefact FILE.onnx] [--rounds 30] [--threads 2]

Each variant runs in its own process, so its memory is its own. Rounds go through all variants in turn, and times are
compared within a round, so other load affects all alike. CPU time covers all threads of the process: it excludes other
programs and includes spinning. Needs `.[service,cpu]`; for OpenVINO, `pip install openvino`.
"""

import argparse
import importlib
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from model.contract import INPUT
from model.probes import probe_images
from service.runtime.artifact import bundled_artefact, read_artefact
from service.runtime.hardware import resident_memory
from service.runtime.session import session_options

SIZES = (1, 16)
Run = Callable[[NDArray[np.uint8]], object]
Level = onnxruntime.GraphOptimizationLevel
#: What is changed against the service's own options; `threads` is left out where one thread is all there is.
VARIANTS: dict[str, dict[str, Any]] = {
    "as the service has it": {},
    "spinning": {"entries": {"session.intra_op.allow_spinning": "1"}},
    "memory pattern": {"options": {"enable_mem_pattern": True}},
    "no arena": {"options": {"enable_cpu_mem_arena": False}},
    "denormals are zero": {"entries": {"session.set_denormal_as_zero": "1"}},
    "weights not prepacked": {"entries": {"session.disable_prepacking": "1"}},
    "optimisation: extended": {"level": "ORT_ENABLE_EXTENDED"},
    "optimisation: basic": {"level": "ORT_ENABLE_BASIC"},
    "optimisation: none": {"level": "ORT_DISABLE_ALL"},
    "graph stored optimised": {"stored": True, "level": "ORT_DISABLE_ALL"},
    "one thread": {"threads": 1},
}
if importlib.util.find_spec("openvino"):
    VARIANTS["OpenVINO, fp32"] = {"openvino": True}


def main() -> None:
    arguments = _arguments()
    if arguments.worker:
        _work(arguments.artefact, json.loads(arguments.worker))
        return
    with tempfile.TemporaryDirectory() as folder:
        stored = Path(folder) / "optimised.onnx"
        _store(arguments.artefact, arguments.threads, stored)
        workers = {
            name: _Worker(arguments.artefact, {"threads": arguments.threads, "path": str(stored)} | change)
            for name, change in VARIANTS.items()
        }
        rounds = [{name: worker.round() for name, worker in workers.items()} for _ in range(arguments.rounds)]
        memory = {name: worker.resident_mb() for name, worker in workers.items()}
    sys.stdout.write(_table(rounds, {name: worker.opened_ms for name, worker in workers.items()}, memory))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artefact", type=Path, default=None)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.artefact = arguments.artefact or bundled_artefact()
    return arguments


class _Worker:
    """One variant in a separate process; communicates by lines."""

    def __init__(self, artefact: Path, variant: dict[str, Any]) -> None:
        command = [sys.executable, __file__, "--artefact", str(artefact), "--worker", json.dumps(variant)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.opened_ms = self._answer()[0]

    def round(self) -> list[float]:
        """Wall-clock ms of a call at each of SIZES, then CPU ms of each."""
        return self._ask("round")

    def resident_mb(self) -> float:
        """Resident memory in MB, after all calls."""
        megabytes = self._ask("resident")[0]
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        return megabytes

    def _ask(self, question: str) -> list[float]:
        assert self._process.stdin is not None
        self._process.stdin.write(question + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> list[float]:
        assert self._process.stdout is not None
        numbers: list[float] = json.loads(self._process.stdout.readline())
        return numbers


def _work(artefact: Path, variant: dict[str, Any]) -> None:
    graph, manifest = read_artefact(artefact)
    began = time.perf_counter()
    run = _open(variant["path"] if variant.get("stored") else graph, variant)
    opened_ms = 1000 * (time.perf_counter() - began)
    del graph
    images = probe_images(manifest, max(SIZES))
    for size in (1, 2, 4, 8, 16):
        run(images[:size])
    _say([opened_ms])
    for question in sys.stdin:
        _say([_resident_mb()] if question.strip() == "resident" else _round(run, images))


def _round(run: Run, images: NDArray[np.uint8]) -> list[float]:
    wall_ms, cpu_ms = [], []
    for size in SIZES:
        run(images[:size])  # not timed: another size before it leaves buffers and plans that do not fit
        began, cpu_began = time.perf_counter(), time.process_time()
        run(images[:size])
        wall_ms.append(1000 * (time.perf_counter() - began))
        cpu_ms.append(1000 * (time.process_time() - cpu_began))
    return [*wall_ms, *cpu_ms]


def _open(graph: bytes | str, variant: dict[str, Any]) -> Run:
    if variant.get("openvino"):
        return _openvino(graph, variant["threads"])
    options = session_options(variant["threads"])
    for name, value in variant.get("options", {}).items():
        setattr(options, name, value)
    for name, value in variant.get("entries", {}).items():
        options.add_session_config_entry(name, value)
    options.graph_optimization_level = getattr(Level, variant.get("level", "ORT_ENABLE_ALL"))
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {INPUT: images})


def _openvino(graph: bytes | str, threads: int) -> Run:
    hints = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    core = importlib.import_module("openvino").Core()
    request = core.compile_model(core.read_model(graph), "CPU", hints).create_infer_request()
    return lambda images: [np.array(output) for output in request.infer({0: images}).values()]


def _store(artefact: Path, threads: int, path: Path) -> None:
    options = session_options(threads)
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(artefact, options, providers=["CPUExecutionProvider"])


def _resident_mb() -> float:
    return (resident_memory() or 0) / 1e6


def _say(numbers: Sequence[float]) -> None:
    sys.stdout.write(json.dumps(list(numbers)) + "\n")
    sys.stdout.flush()


def _table(rounds: list[dict[str, list[float]]], opened_ms: dict[str, float], memory: dict[str, float]) -> str:
    """Times of the first variant in ms, of the others their ratio to it within a round: median and quartiles."""
    columns = [f"batch of {size}{of}" for of in ("", ", CPU") for size in SIZES]
    lines = [
        f"n = {len(rounds)} rounds, onnxruntime {onnxruntime.__version__}. First row: median ms; below: ratio to it, "
        "median (quartiles) over the rounds.",
        "",
        f"| options | {' | '.join(columns)} | opened in, ms | resident_memory, MB |",
        "|---|" + "--:|" * (len(columns) + 2),
    ]
    for name in VARIANTS:
        cells = [_cell(rounds, name, column) for column in range(len(columns))]
        lines.append(f"| {name} | {' | '.join(cells)} | {opened_ms[name]:.0f} | {memory[name]:.0f} |")
    return "\n".join(lines) + "\n"


def _cell(rounds: list[dict[str, list[float]]], name: str, column: int) -> str:
    first = next(iter(VARIANTS))
    if name == first:
        return f"{statistics.median(entry[name][column] for entry in rounds):.1f}"
    low, middle, high = np.quantile([entry[name][column] / entry[first][column] for entry in rounds], [0.25, 0.5, 0.75])
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
