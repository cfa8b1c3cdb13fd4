"""Compare bf16 with fp32 on real cells: classes, scores and time.

Run it in the environment of OpenVINO, which `make serve RUNTIME=openvino` creates:

    .venv-serve-openvino/bin/python -m bench.timings.precision --cells ../shared/cells [--every 1] [--rounds 15]

Classifies the cells of the bundled model's split with the `cpu` provider and with MARROWLENS_PRECISION=bf16, and counts
where the answers differ. Then times both alternately on the same random cells, on one thread. Times are CPU time, and
ratios are taken within a round, so that other programs disturb little. Prints JSON.
"""

import argparse
import csv
import json
import time
from collections.abc import Callable, Iterator, Sequence
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.agreement.proportion import wilson
from model.contract import Manifest
from model.image import decode
from model.trust.decision import Assessment, Assessor
from service.runtime.artifact import bundled_artefact
from service.runtime.mixed_precision import CLOSE, margins
from service.runtime.providers import batch_sizes
from service.runtime.session import OnnxSession, Outputs, open_session

BATCH = 16
HELD_OUT = ("calibration", "test")
PICTURES = 64  # timed in a round

Images = NDArray[np.uint8]


def main() -> None:
    """Compare, time, and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=Path, required=True, help="folder with matek2021 and acevedo2020")
    parser.add_argument("--every", type=int, default=1, help="take every n-th cell of the split")
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds")
    arguments = parser.parse_args()
    sizes = batch_sizes(BATCH)
    fp32 = open_session(provider="cpu", batch_sizes=sizes)
    bf16 = open_session(precision="bf16", batch_sizes=sizes)
    rows = _split()[:: arguments.every]
    images = _decoded(rows, arguments.cells, fp32.manifest.preprocessing.input_size)
    agreement = _agreement(rows, images, fp32, bf16)
    speed = {str(size): _speed_up(fp32, bf16, images, size, arguments.rounds) for size in sizes}
    print(json.dumps({"cells": len(rows), **agreement, "speed_up_by_batch_size": speed}, indent=1))  # noqa: T201


def _split() -> list[dict[str, str]]:
    with bundled_artefact().with_suffix(".split.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _decoded(rows: list[dict[str, str]], cells: Path, size: int) -> Images:
    """All pictures, (N, S, S, 3); 0.6 GB for the whole split."""
    paths = (cells / row["source"] / row["code"] / row["file"] for row in rows)
    return np.stack([decode(path.read_bytes(), size) for path in paths])


def _agreement(rows: list[dict[str, str]], images: Images, fp32: OnnxSession, bf16: OnnxSession) -> dict[str, Any]:
    expected, found = _outputs(fp32, images), _outputs(bf16, images)
    wanted, named = expected.probabilities.argmax(axis=1), found.probabilities.argmax(axis=1)
    moved = np.abs(found.probabilities - expected.probabilities).max(axis=1)
    summed = found.evidence.mean(axis=(2, 3)) + np.array(fp32.manifest.bias)
    pairs = zip(_assessed(fp32.manifest, expected, images), _assessed(fp32.manifest, found, images), strict=True)
    changes = np.array([(one.decision != two.decision, one.prediction_set != two.prediction_set) for one, two in pairs])
    quantiles = np.quantile(moved, (0.5, 0.99, 1)).tolist()
    return {
        "other_class": _share(wanted != named),
        "other_decision": _share(changes[:, 0]),
        "other_prediction_set": _share(changes[:, 1]),
        "probability_moved": dict(zip(("median", "p99", "max"), quantiles, strict=True)),
        "computed_again_in_fp32": float((margins(expected.probabilities) < CLOSE).mean()),
        "sum_rule_max": float(np.abs(summed - found.logits).max()),
        "accuracy": {block: _accuracy(rows, block, fp32.manifest, wanted, named) for block in HELD_OUT},
    }


def _outputs(session: OnnxSession, images: Images) -> Outputs:
    parts = [session.run(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
    return Outputs(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _assessed(manifest: Manifest, outputs: Outputs, images: Images) -> Iterator[Assessment]:
    assert manifest.trust is not None, "the bundled model has a trust reference"
    assessor = Assessor(manifest.trust, manifest.codes, manifest.unsupported, ())
    for start in range(0, len(images), BATCH):
        rows = slice(start, start + BATCH)
        yield from assessor.assess(outputs.probabilities[rows], outputs.embedding[rows], images[rows])


def _share(differs: NDArray[np.bool_]) -> dict[str, Any]:
    """Count, share, and its 95 % Wilson interval."""
    count = int(differs.sum())
    return {"count": count, "share": count / len(differs), "interval": list(wilson(count, len(differs)))}


def _accuracy(
    rows: list[dict[str, str]], block: str, manifest: Manifest, fp32: NDArray[np.intp], bf16: NDArray[np.intp]
) -> dict[str, Any]:
    """Accuracy of both on one block, and McNemar's exact p of the cells that only one names correctly."""
    chosen = np.array([row["block"] == block for row in rows])
    truth = np.array([manifest.codes.index(row["code"]) for row in rows])
    first, second = (fp32 == truth)[chosen], (bf16 == truth)[chosen]
    only = int((first & ~second).sum()), int((second & ~first).sum())
    return {"n": int(chosen.sum()), "fp32": float(first.mean()), "bf16": float(second.mean()), "p": _mcnemar(*only)}


def _mcnemar(first_only: int, second_only: int) -> float:
    total = first_only + second_only
    tail = sum(comb(total, count) for count in range(min(first_only, second_only) + 1))
    return min(1.0, 2 * tail / float(2**total))


def _speed_up(fp32: OnnxSession, bf16: OnnxSession, images: Images, size: int, rounds: int) -> dict[str, float]:
    """CPU time of fp32 over that of bf16: median and quartiles over the rounds. Also both medians in ms a picture."""
    random, taken = np.random.default_rng(0), max(PICTURES, size)
    times = np.empty((rounds, 2))
    for at in range(rounds):
        chosen = images[random.choice(len(images), taken)]
        batches = [chosen[start : start + size] for start in range(0, taken, size)]
        times[at] = [_cpu_ms(session.run, batches) / taken for session in (fp32, bf16)]
    low, middle, high = np.quantile(times[:, 0] / times[:, 1], (0.25, 0.5, 0.75)).tolist()
    first, second = np.median(times, axis=0).tolist()
    return {"median": middle, "low": low, "high": high, "fp32_ms": first, "bf16_ms": second}


def _cpu_ms(run: Callable[[Images], object], batches: Sequence[Images]) -> float:
    run(batches[0])  # not timed: another size before it leaves buffers and plans that do not fit
    began = time.process_time()
    for batch in batches:
        run(batch)
    return 1000 * (time.process_time() - began)


if __name__ == "__main__":
    main()
