"""Maximum-entropy inclusion probabilities with prescribed moments: the subset distribution nearest to the corpus.

Maximize sum of the entropies of pi under sum pi u = 0, sum pi (u^2 - 1) = 0, sum pi = n, 0 <= pi <= 1, with
u = (ppl - mu*) / sigma*. The solution is pi = logistic(l0 + l1 u + l2 (u^2 - 1)); its dual is convex in three unknowns
and needs sums over bins of perplexity only, so its cost does not grow with the corpus.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from ppl_assets.regimes.distribution import Cells, Distribution, FloatArray, IntArray, sums_by

BINS = 4096
NEWTON_STEPS = 200
SOLVED = 1e-11
"""Residual of the three constraints, per selected chunk, at which the dual counts as solved."""

LENGTH_PASSES = 12
"""Corrections of n where chunk lengths differ, so that the expected tokens meet the budget."""


@dataclass(frozen=True, eq=False)
class Bins:
    """Sums over bins of perplexity; every array but ``of_atom`` is [B], in ascending order of perplexity.

    Up to BINS atoms there is one bin an atom; beyond, bins are cells of the float's upper bits: of nearly equal width
    in log perplexity, and the same ones whatever else is in the corpus.

    Attributes:
        chunks: number of chunks.
        first: sum of u.
        second: sum of u^2.
        tokens: sum of tokens.
        of_atom: int64 [A], bin of each atom of the distribution.
    """

    chunks: FloatArray
    first: FloatArray
    second: FloatArray
    tokens: FloatArray
    of_atom: IntArray

    @classmethod
    def of(cls, scores: Distribution, mu: float, sigma: float) -> "Bins":
        """Bin sums of u = (ppl - mu) / sigma and of u^2."""
        if scores.value.size <= BINS:
            of_atom = np.arange(scores.value.size)
        else:
            cells = Cells.spanning(float(scores.start[0]), float(scores.start[-1]), BINS)
            of_atom = np.unique(cells.of(scores.start), return_inverse=True)[1].astype(np.int64, copy=False)
        u = (scores.value - mu) / sigma
        count = int(of_atom[-1]) + 1
        chunks, first, second, tokens = (
            sums_by(of_atom, terms, count)
            for terms in (scores.chunks, scores.chunks * u, scores.chunks * u * u, scores.tokens)
        )
        return cls(chunks, first, second, tokens, of_atom)


@dataclass(frozen=True, eq=False)
class Tilt:
    """Inclusion probability of each bin, [B], and how the dual ended."""

    inclusion: FloatArray
    expected_chunks: float
    residual: float

    @property
    def is_solved(self) -> bool:
        """Whether the three constraints hold; they cannot on the boundary of what is reachable."""
        return self.residual <= SOLVED


def solve_tilt(bins: Bins, chunks: float, tokens: float) -> Tilt:
    """Inclusion probabilities whose expected tokens are ``tokens``.

    Args:
        bins: sums in units of the target.
        chunks: number of chunks to start from, tokens / mean length; exact where lengths are equal.
        tokens: token budget.
    """
    total = bins.chunks.sum()
    tilt = solve_for_chunks(bins, chunks)
    for _ in range(LENGTH_PASSES):
        ratio = tokens / float(np.dot(tilt.inclusion, bins.tokens))
        if abs(ratio - 1.0) < 1e-9:
            break
        chunks = min(chunks * ratio, total * (1 - 1e-9))
        tilt = solve_for_chunks(bins, chunks)
    return tilt


def solve_for_chunks(bins: Bins, chunks: float) -> Tilt:
    """Damped Newton on the dual F(l) = sum n_b log(1 + exp(l . f_b)) - l0 * chunks, with backtracking."""
    features, wanted = features_of(bins, chunks)
    weights = bins.chunks
    share = min(chunks / weights.sum(), 1 - 1e-9)
    level = np.array([np.log(share / (1 - share)), 0.0, 0.0])
    value = _dual(features, weights, wanted, level)
    for _ in range(NEWTON_STEPS):
        inclusion = expit(features @ level)
        gradient = features.T @ (weights * inclusion) - wanted
        if np.abs(gradient).max() <= SOLVED * chunks / 10:
            break
        hessian = features.T @ (features * (weights * inclusion * (1 - inclusion))[:, None])
        ridge = 1e-13 * np.trace(hessian) + 1e-300
        move = np.linalg.solve(hessian + ridge * np.eye(3), -gradient)
        slope, length = float(gradient @ move), 1.0
        while length > 1e-8:
            trial = _dual(features, weights, wanted, level + length * move)
            if trial <= value + 1e-4 * length * slope + 1e-14 * abs(value):
                break
            length /= 2
        else:
            break
        level, value = level + length * move, trial
    inclusion = expit(features @ level)
    residual = np.abs(features.T @ (weights * inclusion) - wanted).max() / chunks
    return Tilt(inclusion, float(np.dot(weights, inclusion)), float(residual))


def features_of(bins: Bins, chunks: float) -> tuple[FloatArray, FloatArray]:
    """Orthonormal columns spanning 1, u, u^2 - 1 over the chunks, [B, 3], and the sums wanted in them, [3]."""
    plain = moments_of(bins)
    scale = np.sqrt(bins.chunks / bins.chunks.sum())
    inverse = orthonormalizing(plain * scale[:, None])
    return plain @ inverse, inverse.T @ np.array([chunks, 0.0, 0.0])


def moments_of(bins: Bins) -> FloatArray:
    """1, u and u^2 - 1, each averaged over the chunks of a bin, [B, 3]."""
    return np.column_stack([np.ones_like(bins.chunks), bins.first / bins.chunks, bins.second / bins.chunks - 1.0])


def orthonormalizing(columns: FloatArray) -> FloatArray:
    """The matrix R^-1, [k, k], that makes columns [n, k] orthonormal, n >= k; those that others span vanish."""
    _, upper = np.linalg.qr(columns)
    kept = np.abs(np.diag(upper)) > 1e-12 * np.abs(upper).max()
    upper[~kept, ~kept] = 1.0
    inverse: FloatArray = np.linalg.inv(upper * np.sign(np.diag(upper))[:, None])
    return inverse


def _dual(features: FloatArray, weights: FloatArray, wanted: FloatArray, level: FloatArray) -> float:
    """Value of the dual."""
    return float(np.dot(weights, np.logaddexp(0.0, features @ level)) - wanted @ level)
