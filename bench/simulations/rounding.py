"""How much a network amplifies rounding, by picture: python -m bench.simulations.rounding [--cells DIR]

Computes each picture twice on the CPU, with onnxruntime's fused graph and with the graph as it was exported, which add
in different orders, as processors do. Prints the largest difference of any output, relative to its largest value or to
1, of 8 pictures of each kind, and of 400 of the cells. It was the reason for the choice of the probe pictures.
"""

import argparse
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from model.contract import INPUT, read_manifest
from model.image import decode
from model.probes import noise
from service.runtime.artifact import bundled_artefact
from service.runtime.parity import Arrays, Run, compare
from service.runtime.session import session_options

PICTURES, CELLS = 8, 400
SPACINGS_PX = (1, 2, 3, 4, 5, 6, 8, 11, 16, 23, 32, 48)
Level = onnxruntime.GraphOptimizationLevel
Pictures = NDArray[np.uint8]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artefact", type=Path, default=bundled_artefact())
    parser.add_argument("--cells", type=Path, help="folder of JPEGs, searched with its subfolders")
    arguments = parser.parse_args()
    manifest = read_manifest(arguments.artefact.with_suffix(".json"))
    fused, exported = (_run(arguments.artefact, manifest.output_names, fused) for fused in (True, False))
    print("| pictures | n | largest difference |\n|---|---|---|")  # noqa: T201
    for kind, pictures in _kinds(manifest.preprocessing.input_size, arguments.cells):
        batches = [pictures[at : at + PICTURES] for at in range(0, len(pictures), PICTURES)]
        largest = max(compare(exported(batch), fused(batch)).relative for batch in batches)
        print(f"| {kind} | {len(pictures)} | {largest:.0e} |", flush=True)  # noqa: T201


def _run(artefact: Path, names: Sequence[str], fused: bool) -> Run:
    options = session_options(1)
    options.graph_optimization_level = Level.ORT_ENABLE_ALL if fused else Level.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(artefact, options, providers=["CPUExecutionProvider"])

    def run(images: Pictures) -> Arrays:
        return dict(zip(names, session.run(names, {INPUT: images}), strict=True))

    return run


def _kinds(size: int, cells: Path | None) -> Iterator[tuple[str, Pictures]]:
    for spacing in SPACINGS_PX:
        drawn = partial(noise, size, spacing)
        yield f"colours {spacing} px apart", np.stack([drawn(str(key)) for key in range(PICTURES)]).astype(np.uint8)
    for side in SPACINGS_PX[1:]:
        squares = np.stack([noise(-(-size // side), 1, str(key)) for key in range(PICTURES)]).astype(np.uint8)
        yield f"squares of {side} px", squares.repeat(side, axis=1).repeat(side, axis=2)[:, :size, :size]
    if cells is not None:
        files = sorted(cells.rglob("*.jpg"))
        chosen = Random(0).sample(files, min(CELLS, len(files)))
        yield "cells", np.stack([decode(file.read_bytes(), size) for file in chosen])


if __name__ == "__main__":
    main()
