"""The candidate chunks as the sampler sees them: perplexity, length and a stable key, nothing else.

Every random choice is a hash of (key, seed), so it never depends on the order of the rows. Chunks come in blocks, from
arrays in memory (:class:`Candidates`) or from a file that is read anew in every pass (:class:`StreamedCandidates`);
what is computed from them is the same.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppl_assets.errors import UserError
from ppl_assets.regimes.distribution import Block, Distribution, FloatArray, IntArray, KeyArray

BLOCK = 1 << 17
"""Chunks at a time: what one pass computes for them stays in the processor's cache."""


class SelectionError(UserError, ValueError):
    """No subset can be drawn from what was given; the message says what was given and what to change."""


@dataclass(frozen=True)
class Survey:
    """What is known of the candidates after one look: how many, how long, and the range of their perplexities."""

    count: int
    tokens: int
    shortest: int
    longest: int
    lowest: float
    highest: float


@dataclass(frozen=True, eq=False)
class Members:
    """Chunks taken out of the candidates; every array is [n].

    Attributes:
        index: int64, positions into the candidates.
        ppl: float64, perplexity.
        tokens: int64, length in tokens.
        key: uint64, stable hash of the chunk id.
    """

    index: IntArray
    ppl: FloatArray
    tokens: IntArray
    key: KeyArray

    def take(self, places: NDArray[Any]) -> "Members":
        """Those at these places, or where a mask is true."""
        return Members(self.index[places], self.ppl[places], self.tokens[places], self.key[places])

    @classmethod
    def joined(cls, parts: "list[Members]") -> "Members":
        """All of them, one after the other; none where there are no parts."""
        none = cls(np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64), np.empty(0, np.uint64))
        names = ("index", "ppl", "tokens", "key")
        return cls(*(np.concatenate([getattr(part, name) for part in [none, *parts]]) for name in names))


class ChunkSource(ABC):
    """Chunks that may be selected, read block by block, as often as needed and in the same order each time."""

    @abstractmethod
    def blocks(self) -> Iterator[Block]:
        """All chunks, each once, in their own order."""

    @cached_property
    def survey(self) -> Survey:
        """One look at all chunks.

        Raises:
            SelectionError: there is none, or a perplexity or a length is out of range.
        """
        return _surveyed(self.blocks())

    @cached_property
    def distribution(self) -> Distribution:
        """Their perplexities as sums, from one pass."""
        survey = self.survey
        return Distribution.of(self.blocks(), survey.count, survey.lowest, survey.highest)

    @property
    def count(self) -> int:
        """Number of chunks, N."""
        return self.survey.count

    @property
    def total_tokens(self) -> int:
        """Tokens of all chunks."""
        return self.survey.tokens

    @property
    def shortest(self) -> int:
        """Tokens of the shortest chunk."""
        return self.survey.shortest

    @property
    def longest(self) -> int:
        """Tokens of the longest chunk."""
        return self.survey.longest

    @property
    def mu(self) -> float:
        """Mean perplexity over chunks."""
        return self.distribution.mu

    @property
    def sigma(self) -> float:
        """Standard deviation of perplexity over chunks."""
        return self.distribution.sigma

    @property
    def is_constant(self) -> bool:
        """Whether every chunk has the same perplexity."""
        return self.survey.lowest == self.survey.highest


@dataclass(frozen=True, eq=False)
class Candidates(ChunkSource):
    """Chunks that may be selected, in memory, one entry a chunk.

    Args:
        ppl: float64 [N], perplexity; finite and positive.
        tokens: int64 [N], length in tokens; positive.
        key: uint64 [N], stable hash of the chunk id; distinct.
        group: int16 [N], whose limit of tokens a chunk counts towards (0: nobody's); None where nothing is limited.

    Raises:
        SelectionError: nothing given, shapes differ, or a value is out of range.
    """

    ppl: FloatArray
    tokens: IntArray
    key: KeyArray
    group: NDArray[np.int16] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "ppl", np.ascontiguousarray(self.ppl, np.float64))
        object.__setattr__(self, "tokens", np.ascontiguousarray(self.tokens, np.int64))
        object.__setattr__(self, "key", np.ascontiguousarray(self.key, np.uint64))
        if self.ppl.ndim != 1 or not self.ppl.shape == self.tokens.shape == self.key.shape:
            shapes = f"{self.ppl.shape}, {self.tokens.shape} and {self.key.shape}"
            raise SelectionError(f"ppl, tokens and key have shapes {shapes}; give three arrays of one length")
        if self.group is not None and self.group.shape != self.ppl.shape:
            raise SelectionError(f"group has shape {self.group.shape}, ppl {self.ppl.shape}; give one group a chunk")
        _ = self.survey

    def blocks(self) -> Iterator[Block]:
        """Views of BLOCK chunks."""
        for start in range(0, self.ppl.size, BLOCK):
            part = slice(start, start + BLOCK)
            group = None if self.group is None else self.group[part]
            yield Block(start, self.ppl[part], self.tokens[part], self.key[part], group)

    def members(self, index: IntArray) -> Members:
        """The chunks at these positions."""
        return Members(index.astype(np.int64, copy=False), self.ppl[index], self.tokens[index], self.key[index])

    def uniforms(self, seed: int) -> FloatArray:
        """One number in (0, 1) a chunk, a function of its key and the seed alone, [N]."""
        return hashed_uniforms(self.key, seed)


class StreamedCandidates(ChunkSource):
    """Chunks that are read anew in every pass, so that memory does not follow their number.

    Args:
        read: gives perplexities, lengths, keys and, where tokens are limited, groups (as :class:`Candidates` has them)
            in batches of any size, all chunks each time it is called and always in the same order.
    """

    def __init__(self, read: Callable[[], Iterator[tuple[NDArray[Any], ...]]]) -> None:
        self._read = read

    def blocks(self) -> Iterator[Block]:
        """The batches, cut to at most BLOCK chunks."""
        start = 0
        for batch in self._read():
            for begin in range(0, batch[0].size, BLOCK):
                yield Block(start + begin, *(array[begin : begin + BLOCK] for array in batch))
            start += batch[0].size


def hashed(key: NDArray[Any], seed: int) -> KeyArray:
    """64 bits from the SplitMix64 finalizer of key and seed (Steele, Lea & Flood 2014); distinct for distinct keys.

    Args:
        key: integers [N].
        seed: any integer.
    """
    mixed = _splitmix(np.array([seed % 2**64], np.uint64))
    return _splitmix(key.astype(np.uint64, copy=False) ^ mixed)


def uniforms_of(bits: KeyArray) -> FloatArray:
    """Numbers in (0, 1) from the upper 53 of 64 random bits, [N]."""
    return ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def hashed_uniforms(key: NDArray[Any], seed: int) -> FloatArray:
    """Numbers in (0, 1), a function of key and seed; see :func:`hashed`."""
    return uniforms_of(hashed(key, seed))


def _splitmix(value: KeyArray) -> KeyArray:
    """The SplitMix64 step and finalizer, element by element, modulo 2^64; the array given is not changed."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value ^= value >> np.uint64(shift)
        value *= np.uint64(factor)
    value ^= value >> np.uint64(31)
    return value


def _surveyed(blocks: Iterator[Block]) -> Survey:
    """The survey of all blocks; see :attr:`ChunkSource.survey`."""
    count = tokens = bad = 0
    shortest, longest, lowest, highest = [], [], [], []
    for block in blocks:
        if not block.ppl.size:
            continue
        count, tokens = count + block.ppl.size, tokens + int(block.tokens.sum())
        shortest.append(int(block.tokens.min()))
        longest.append(int(block.tokens.max()))
        lowest.append(float(block.ppl.min()))
        highest.append(float(block.ppl.max()))
        if not (lowest[-1] > 0 and highest[-1] < np.inf):  # also where one is NaN
            bad += int(np.count_nonzero(~(np.isfinite(block.ppl) & (block.ppl > 0))))
    if not count:
        raise SelectionError("there are no candidate chunks; score a corpus before drawing subsets from it")
    if bad:
        raise SelectionError(f"{bad} of {count} perplexities are not finite and positive; set these chunks aside first")
    if min(shortest) < 1:
        raise SelectionError(f"the shortest chunk has {min(shortest)} tokens; every candidate needs at least one")
    return Survey(count, tokens, min(shortest), max(longest), min(lowest), max(highest))
