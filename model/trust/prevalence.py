"""Class shares corrected by the confusion matrix: how many cells of each class there are, given the classes named.

A count of names is biased: some cells get the name of another class. Bayesian quantification draws the true mix and the
confusion matrix from their posterior, so that the interval contains both the sampling error of the specimen and the
uncertainty of the matrix (Storkey 2009, Dataset Shift in Machine Learning, chapter 1; Ziegler and Czyż 2024, arXiv
2302.09159). It assumes that every cell is of one of the matrix's classes, and is named as the known cells were.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Shares = NDArray[np.float64]

#: Parallel chains, steps before and after the chains are taken to have converged.
CHAINS, BURN_IN, KEPT = 200, 40, 10
#: Prior of the mix: Jeffreys. Of each row of the matrix: Perks, which adds one cell in all.
MIX_PRIOR, ROW_PRIOR_CELLS = 0.5, 1.0


class CorrectedShares(NamedTuple):
    """Posterior mean of the share of each counted class, and its 95 % credible interval; one value a class each."""

    mean: Shares
    low: Shares
    high: Shares


def corrected_shares(
    confusion: Counts, named: Counts, counted: NDArray[np.bool_] | None = None, *, seed: int = 0
) -> CorrectedShares:
    """The shares of classes among cells that were given one of M names.

    Args:
        confusion: (K, M), known cells by true class and name.
        named: (M,), cells of the specimen by name.
        counted: (K,), the classes in the denominator; None: all.

    Raises:
        ValueError: the shapes differ, or no cell was named.
    """
    if confusion.ndim != 2 or confusion.shape[1:] != named.shape:
        raise ValueError(f"a matrix of shape {confusion.shape} does not fit {named.shape} counts")
    if not named.sum():
        raise ValueError("no cell was counted")
    draws = _posterior(confusion, named, np.random.default_rng(seed))
    if counted is not None:
        draws = draws[:, counted] / draws[:, counted].sum(axis=1, keepdims=True)
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    return CorrectedShares(draws.mean(axis=0), low, high)


def _posterior(confusion: Counts, named: Counts, generator: np.random.Generator) -> Shares:
    """Draws of the mix, (CHAINS x KEPT, K), by Gibbs sampling over the true class of every cell."""
    classes, names = confusion.shape
    rows_prior = confusion + ROW_PRIOR_CELLS / names
    mix = generator.dirichlet(np.ones(classes), CHAINS)  # (S, K)
    rows = _dirichlet(generator, np.broadcast_to(rows_prior, (CHAINS, classes, names)))  # (S, K, M)
    kept = []
    for step in range(BURN_IN + KEPT):
        joint = (mix[:, :, None] * rows).transpose(0, 2, 1)  # (S, M, K)
        weights = joint / joint.sum(axis=2, keepdims=True)
        true = generator.multinomial(np.broadcast_to(named, (CHAINS, names)), weights)  # (S, M, K)
        mix = _dirichlet(generator, MIX_PRIOR + true.sum(axis=1))
        rows = _dirichlet(generator, rows_prior + true.transpose(0, 2, 1))
        if step >= BURN_IN:
            kept.append(mix)
    return np.concatenate(kept)


def _dirichlet(generator: np.random.Generator, parameters: Shares) -> Shares:
    """Dirichlet draws over the last axis; gamma draws are kept above 0, so that no name becomes impossible."""
    drawn = np.maximum(generator.standard_gamma(parameters), 1e-300)
    found: Shares = drawn / drawn.sum(axis=-1, keepdims=True)
    return found
