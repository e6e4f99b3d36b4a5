"""Candidates that may be taken several times: every chunk once for each time, its copies under keys of their own.

To the sampler the copies are further chunks of the same perplexity, so the subset is of maximum entropy among those
that take no chunk more than ``times`` times, and what is reachable with a budget is what is reachable with repetition.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

import numpy as np

from ppl_assets.regimes.candidates import Candidates, ChunkSource, Survey, hashed
from ppl_assets.regimes.distribution import Block, Distribution, IntArray, KeyArray

COPIES = 0x5EED_C0B1
"""Seed of the copies' keys, to which the copy's number is added."""


class Repeated(ChunkSource):
    """Every candidate ``times`` times; copy c of the chunk at position i is at position i + c N."""

    def __init__(self, once: ChunkSource, times: int) -> None:
        self._once, self._times = once, times

    def blocks(self) -> Iterator[Block]:
        """The blocks of the chunks, then of their second copies, and so on."""
        for copy in range(self._times):
            for block in self._once.blocks():
                yield replace(block, start=block.start + copy * self._once.count, key=copy_keys(block.key, copy))

    @cached_property
    def survey(self) -> Survey:
        """That of the chunks, with as many of each."""
        survey = self._once.survey
        return replace(survey, count=survey.count * self._times, tokens=survey.tokens * self._times)

    @cached_property
    def distribution(self) -> Distribution:
        """That of the chunks, with as many of each."""
        scores = self._once.distribution
        return replace(scores, chunks=scores.chunks * self._times, tokens=scores.tokens * self._times)


def copy_keys(key: KeyArray, copy: int) -> KeyArray:
    """Keys of a copy of the chunks; copy 0 is the chunk itself."""
    return hashed(key, COPIES + copy) if copy else key


def repeated_in_memory(candidates: Candidates, times: int) -> Candidates:
    """Every candidate ``times`` times, at the positions that :class:`Repeated` gives them, in memory."""
    if times == 1:
        return candidates
    return Candidates(
        np.tile(candidates.ppl, times),
        np.tile(candidates.tokens, times),
        np.concatenate([copy_keys(candidates.key, copy) for copy in range(times)]),
        None if candidates.group is None else np.tile(candidates.group, times),
    )


def passes(order: IntArray, count: int, times: int) -> IntArray:
    """An order of N positions, and then again for each further copy: nothing is repeated before all was taken."""
    return np.concatenate([order + copy * count for copy in range(times)])
