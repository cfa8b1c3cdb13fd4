"""Class shares corrected by the confusion matrix: how many cells of each class there are, given the predicted classes.

A count of predicted classes is biased: some cells get another class. The matrix and the shares of the predicted classes
are drawn from their posteriors, and each draw is solved for the true shares by maximum likelihood (EM, Saerens et al.
2002, doi 10.1162/089976602753284446, on predicted classes instead of probabilities). So the interval contains the
sampling error of the specimen and the uncertainty of the matrix. It assumes that every cell is of one of the matrix's
classes, and is classified as the known cells were.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Shares = NDArray[np.float64]

#: Draws, and steps of the expectation-maximisation of each.
DRAWS, STEPS = 500, 300
#: Priors, in cells: of each row of the matrix (Perks), and of each predicted class (Jeffreys).
ROW_PRIOR_CELLS, PREDICTED_PRIOR_CELLS = 1.0, 0.5


class CorrectedShares(NamedTuple):
    """Mean of the share of each counted class, and its 95 % interval; one value a class each."""

    mean: Shares
    low: Shares
    high: Shares


def corrected_shares(
    confusion: Counts, predicted: Counts, counted: NDArray[np.bool_] | None = None, *, seed: int = 0
) -> CorrectedShares:
    """The shares of classes among cells that were given one of M names.

    Args:
        confusion: (K, M), known cells by true class and name.
        predicted: (M,), cells of the specimen by name.
        counted: (K,), the classes in the denominator; None: all.

    Raises:
        ValueError: the shapes differ, or no cell was predicted.
    """
    if confusion.ndim != 2 or confusion.shape[1:] != predicted.shape:
        raise ValueError(f"a matrix of shape {confusion.shape} does not fit {predicted.shape} counts")
    if not predicted.sum():
        raise ValueError("no cell was counted")
    draws = _draws(confusion, predicted, np.random.default_rng(seed))
    if counted is not None:
        draws = draws[:, counted] / draws[:, counted].sum(axis=1, keepdims=True)
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    return CorrectedShares(draws.mean(axis=0), low, high)


def _draws(confusion: Counts, predicted: Counts, generator: np.random.Generator) -> Shares:
    """Draws of the true shares, (DRAWS, K)."""
    classes, names = confusion.shape
    rows = _dirichlet(generator, np.broadcast_to(confusion + ROW_PRIOR_CELLS / names, (DRAWS, classes, names)))
    observed = _dirichlet(generator, np.broadcast_to(predicted + PREDICTED_PRIOR_CELLS, (DRAWS, names)))
    shares: Shares = np.full((DRAWS, classes), 1 / classes)
    for _ in range(STEPS):
        expected = np.einsum("sk,skm->sm", shares, rows)
        shares = shares * np.einsum("sm,skm->sk", observed / expected, rows)
    shares /= shares.sum(axis=1, keepdims=True)
    return shares


def _dirichlet(generator: np.random.Generator, parameters: Shares) -> Shares:
    """Dirichlet draws over the last axis; gamma draws are kept above 0, so that no name becomes impossible."""
    drawn = np.maximum(generator.standard_gamma(parameters), 1e-300)
    found: Shares = drawn / drawn.sum(axis=-1, keepdims=True)
    return found
