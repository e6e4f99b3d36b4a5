"""The candidate chunks as the sampler sees them: perplexity, length and a stable key, nothing else.

Every random choice is a hash of (key, seed), so it never depends on the order of the rows.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppl_assets.errors import UserError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
KeyArray = NDArray[np.uint64]


class SelectionError(UserError, ValueError):
    """No subset can be drawn from what was given; the message says what was given and what to change."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """Chunks that may be selected, one entry a chunk.

    Args:
        ppl: float64 [N], perplexity; finite and positive.
        tokens: int64 [N], length in tokens; positive.
        key: uint64 [N], stable hash of the chunk id; distinct.

    Raises:
        SelectionError: nothing given, shapes differ, or a value is out of range.
    """

    ppl: FloatArray
    tokens: IntArray
    key: KeyArray

    def __post_init__(self) -> None:
        object.__setattr__(self, "ppl", np.ascontiguousarray(self.ppl, np.float64))
        object.__setattr__(self, "tokens", np.ascontiguousarray(self.tokens, np.int64))
        object.__setattr__(self, "key", np.ascontiguousarray(self.key, np.uint64))
        if self.ppl.ndim != 1 or not self.ppl.shape == self.tokens.shape == self.key.shape:
            shapes = f"{self.ppl.shape}, {self.tokens.shape} and {self.key.shape}"
            raise SelectionError(f"ppl, tokens and key have shapes {shapes}; give three arrays of one length")
        if self.count == 0:
            raise SelectionError("there are no candidate chunks; score a corpus before drawing subsets from it")
        bad = int(np.count_nonzero(~(np.isfinite(self.ppl) & (self.ppl > 0))))
        if bad:
            raise SelectionError(
                f"{bad} of {self.count} perplexities are not finite and positive; set these chunks aside first"
            )
        if self.tokens.min() < 1:
            raise SelectionError(
                f"the shortest chunk has {self.tokens.min()} tokens; every candidate needs at least one"
            )

    @property
    def count(self) -> int:
        """Number of chunks, N."""
        return self.ppl.size

    @cached_property
    def total_tokens(self) -> int:
        """Tokens of all chunks."""
        return int(self.tokens.sum())

    @cached_property
    def shortest(self) -> int:
        """Tokens of the shortest chunk."""
        return int(self.tokens.min())

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest chunk."""
        return int(self.tokens.max())

    @cached_property
    def sorted_ppl(self) -> FloatArray:
        """Perplexities in ascending order, [N]."""
        return np.sort(self.ppl)

    @cached_property
    def order(self) -> IntArray:
        """Positions by ascending perplexity, ties by key: the same chunks whatever the row order, [N]."""
        has_ties = bool(np.any(np.diff(self.sorted_ppl) == 0))
        return np.lexsort((self.key, self.ppl)) if has_ties else np.argsort(self.ppl)

    @cached_property
    def mu(self) -> float:
        """Mean perplexity over chunks."""
        return float(self.sorted_ppl.mean())

    @cached_property
    def sigma(self) -> float:
        """Standard deviation of perplexity over chunks."""
        return float(self.sorted_ppl.std())

    @property
    def is_constant(self) -> bool:
        """Whether every chunk has the same perplexity."""
        return bool(self.sorted_ppl[0] == self.sorted_ppl[-1])

    @property
    def scale(self) -> float:
        """Unit of the standardized sums: sigma, or 1 where all perplexities are equal."""
        return 1.0 if self.is_constant else self.sigma

    @cached_property
    def prefix_sums(self) -> tuple[FloatArray, FloatArray]:
        """Sums of z and z^2 over the k lowest perplexities, z = (ppl - mu) / scale; two arrays [N + 1]."""
        z = (self.sorted_ppl - self.mu) / self.scale
        first, second = np.zeros(self.count + 1), np.zeros(self.count + 1)
        np.cumsum(z, out=first[1:])
        np.cumsum(z * z, out=second[1:])
        return first, second

    def take(self, positions: IntArray) -> "Candidates":
        """The chunks at these positions; the same object where they are all of them."""
        if positions.size == self.count:
            return self
        return Candidates(self.ppl[positions], self.tokens[positions], self.key[positions])

    def uniforms(self, seed: int) -> FloatArray:
        """One number in (0, 1) a chunk, a function of its key and the seed alone, [N]."""
        return hashed_uniforms(self.key, seed)


def hashed_uniforms(key: NDArray[Any], seed: int) -> FloatArray:
    """Numbers in (0, 1) from the SplitMix64 finalizer of key and seed (Steele, Lea & Flood 2014).

    Args:
        key: integers [N].
        seed: any integer.
    """
    mixed = _splitmix(np.array([seed % 2**64], np.uint64))
    bits = _splitmix(key.astype(np.uint64, copy=False) ^ mixed)
    return ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def _splitmix(value: KeyArray) -> KeyArray:
    """The SplitMix64 step and finalizer, element by element, modulo 2^64."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
