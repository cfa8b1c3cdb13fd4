"""Coverage of the corrected shares: python -m bench.simulations.corrected_shares [--specimens 1000]

Simulates specimens with random mixes of the bundled model's supported classes. Known cells and the names of the
specimen's cells are drawn from the model's confusion matrix. Counts how often the 95 % intervals contain the true
share: those of `model.trust.prevalence`, and Wilson's of the counted names.
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.agreement.proportion import wilson
from model.contract import read_manifest
from model.trust.prevalence import corrected_shares
from service.runtime.artifact import bundled_artefact

CELLS = 500
#: Added to every entry of the matrix that is taken for the truth, so that no confusion is impossible.
SMOOTHING = 0.1


class Covered(NamedTuple):
    """Whether the intervals of each class contain its true share, and the mean width of the corrected ones."""

    corrected: NDArray[np.bool_]
    wilson: NDArray[np.bool_]
    width: float


def bundled_confusion() -> NDArray[np.int64]:
    """(K, K + 1): the bundled model's known cells by true class and name; the last column: all other names."""
    trust = read_manifest(bundled_artefact().with_suffix(".json")).trust
    assert trust is not None, "the bundled model has a trust reference"
    rows = [[row.get(code, 0) for code in trust.confusion] for row in trust.confusion.values()]
    others = [sum(row.values()) - sum(known) for row, known in zip(trust.confusion.values(), rows, strict=True)]
    return np.column_stack([rows, others])


def simulate(matrix: NDArray[np.int64], seed: int) -> Covered:
    """One specimen."""
    generator = np.random.default_rng(seed)
    truth = (matrix + SMOOTHING) / (matrix + SMOOTHING).sum(axis=1, keepdims=True)
    mix = generator.dirichlet(np.ones(len(matrix)))
    known = np.stack([generator.multinomial(*each) for each in zip(matrix.sum(axis=1), truth, strict=True)])
    cells = generator.multinomial(CELLS, mix)
    named = np.sum([generator.multinomial(*each) for each in zip(cells, truth, strict=True)], axis=0)
    found = corrected_shares(known, named, seed=seed)
    wilsons = np.array([wilson(int(count), CELLS) for count in named[: len(mix)]])
    inside = (found.low <= mix) & (mix <= found.high)
    return Covered(inside, (wilsons[:, 0] <= mix) & (mix <= wilsons[:, 1]), float((found.high - found.low).mean()))


def main() -> None:
    """Simulate, and print the shares as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--specimens", type=int, default=1000)
    specimens: int = parser.parse_args().specimens
    with ProcessPoolExecutor() as pool:
        found = list(pool.map(partial(simulate, bundled_confusion()), range(specimens), chunksize=10))
    figures = {
        "specimens": specimens,
        "corrected_coverage": float(np.mean([one.corrected for one in found])),
        "lowest_class": float(np.mean([one.corrected for one in found], axis=0).min()),
        "mean_width_percent": 100 * float(np.mean([one.width for one in found])),
        "wilson_coverage": float(np.mean([one.wilson for one in found])),
    }
    print(json.dumps(figures, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
