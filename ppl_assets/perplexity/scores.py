"""What scoring a chunk gives: sums from which perplexity, bits per byte and the rest follow."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Scores:
    """Scores of chunks, in the order they were given; floats are NaN where ``status`` is not ok.

    Attributes:
        nll: float64 [n], summed -ln p over the scored tokens, nats.
        nll_square_sum: float64 [n], summed (ln p)^2.
        n_scored: int64 [n], tokens whose probability was taken.
        max_token_nll: float64 [n], highest -ln p of a token.
        nll_first_half: float64 [n], nll of the first ``n_scored // 2`` tokens.
        nll_second_half: float64 [n], nll of the rest.
        status: ok, empty, one_token or non_finite.
    """

    nll: np.ndarray
    nll_square_sum: np.ndarray
    n_scored: np.ndarray
    max_token_nll: np.ndarray
    nll_first_half: np.ndarray
    nll_second_half: np.ndarray
    status: list[str]

    @property
    def log_ppl(self) -> np.ndarray:
        """Mean of -ln p: nll / n_scored, nats a token; NaN where there is no score."""
        return self.nll / np.maximum(self.n_scored, 1)

    @property
    def ppl(self) -> np.ndarray:
        """exp(nll / n_scored); infinite where the exponential overflows."""
        with np.errstate(over="ignore"):
            return np.exp(self.log_ppl)

    def mean_nll(self) -> float:
        """Summed nll over summed tokens: never a mean of chunk or batch means. NaN where a chunk is not finite."""
        scored = self.n_scored > 0
        return float(self.nll[scored].sum() / self.n_scored[scored].sum()) if scored.any() else math.nan


def bits_per_byte(nll: np.ndarray, scored_bytes: np.ndarray) -> np.ndarray:
    """Compression: nll / ln 2 / UTF-8 bytes of exactly the scored span."""
    return np.asarray(nll) / math.log(2.0) / np.asarray(scored_bytes)


def scores_of(sums: np.ndarray, lengths: np.ndarray, n_tokens: Sequence[int]) -> Scores:
    """Scores with the reason beside every one that is missing.

    Args:
        sums: float64 [4, n]: nll of the first half, of the second half, square sum, highest; NaN where not scored.
        lengths: int64 [n], scored tokens.
        n_tokens: tokens of each chunk.
    """
    status = []
    for number, (length, tokens) in enumerate(zip(lengths, n_tokens, strict=True)):
        finite = bool(np.isfinite(sums[:, number]).all())
        status.append("empty" if tokens == 0 else "one_token" if length == 0 else "ok" if finite else "non_finite")
        if not finite:
            sums[:, number] = np.nan
    first, second, squares, highest = sums
    return Scores(first + second, squares, lengths.astype(np.int64), highest, first, second, status)
