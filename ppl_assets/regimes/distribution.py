"""The perplexities of all chunks as sums over atoms: what the reachable region and the tilt need, and no more.

An atom is one perplexity, or one narrow cell of them. Up to EXACT_CHUNKS chunks there is an atom a distinct perplexity;
beyond, a cell is a range of the upper bits of the float, so cells are a constant share of their perplexity wide and do
not move as the corpus grows. The sums are of integers below 2^53, so they are the same in any order of the rows.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
KeyArray = NDArray[np.uint64]

EXACT_CHUNKS = 1 << 16
CELLS = 1 << 17
"""Most cells. Over a range of 1 to 10^5 a cell is then 1/4096 wide, and taking its chunks as equal moves a second
moment by about 1/4096^2/12 = 5e-9 of itself; a tail chunk that dominates lies in a cell of its own, with its mean."""

OFFSET_BITS = 26
"""Bits of a perplexity's place within its cell that are summed: with up to 2^27 chunks a cell their sum is exact."""


def sums_by(place: NDArray[Any], terms: NDArray[Any], size: int) -> FloatArray:
    """Sum of the terms at each place, [size]; exact where they are integers and the sum is below 2^53."""
    return np.bincount(place, weights=terms, minlength=size).astype(np.float64, copy=False)


@dataclass(frozen=True, eq=False)
class Block:
    """Some of the chunks, in their own order; every array is [n].

    Attributes:
        start: position of the first among all chunks.
        ppl: float64, perplexity.
        tokens: integers, length in tokens.
        key: uint64, stable hash of the chunk id.
        group: int16, whose limit of tokens it counts towards (0: nobody's); None where nothing is limited.
        where: int64, positions among all chunks; None where they follow each other from ``start``.
    """

    start: int
    ppl: FloatArray
    tokens: IntArray
    key: KeyArray
    group: NDArray[np.int16] | None = None
    where: IntArray | None = None

    def at(self, places: IntArray) -> IntArray:
        """Positions among all chunks of those at these places, int64."""
        return places + self.start if self.where is None else self.where[places]


@dataclass(frozen=True, eq=False)
class Cells:
    """Which cell a perplexity lies in: its bits, shifted, less those of the lowest."""

    shift: int
    base: int
    count: int

    @classmethod
    def spanning(cls, lowest: float, highest: float, most: int) -> "Cells":
        """The finest cells of which at most ``most`` span the range."""
        low, high = (int(bits) for bits in np.array([lowest, highest]).view(np.int64))
        shift = max(0, (high - low).bit_length() - most.bit_length())
        while (high >> shift) - (low >> shift) >= most:
            shift += 1
        return cls(shift, low >> shift, (high >> shift) - (low >> shift) + 1)

    def of(self, ppl: FloatArray) -> IntArray:
        """Cell of each perplexity, int64 [n]."""
        cell: IntArray = ppl.view(np.int64) >> self.shift
        cell -= self.base
        return cell

    @property
    def starts(self) -> FloatArray:
        """The least perplexity of each cell, [count]."""
        return (np.arange(self.base, self.base + self.count) << self.shift).view(np.float64)


@dataclass(frozen=True, eq=False)
class Distribution:
    """Atoms in ascending order of perplexity; every array is [A].

    Attributes:
        start: the least perplexity that the atom stands for.
        value: mean perplexity of its chunks.
        chunks: their number, at least 1.
        tokens: their tokens.
        lookup: the cells and the atom of each, int32 [cells]; None where an atom is one perplexity.
    """

    start: FloatArray
    value: FloatArray
    chunks: FloatArray
    tokens: FloatArray
    lookup: tuple[Cells, NDArray[np.int32]] | None = None

    @classmethod
    def of(cls, blocks: Iterable[Block], count: int, lowest: float, highest: float) -> "Distribution":
        """From one pass over all chunks.

        Args:
            blocks: the chunks, in any order and any sizes.
            count: their number.
            lowest: their least perplexity.
            highest: their greatest perplexity.
        """
        return cls._exact(blocks) if count <= EXACT_CHUNKS else cls._of_cells(blocks, lowest, highest)

    @classmethod
    def _exact(cls, blocks: Iterable[Block]) -> "Distribution":
        parts = [(block.ppl, block.tokens) for block in blocks]
        ppl, tokens = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        value, atom, chunks = np.unique(ppl, return_inverse=True, return_counts=True)
        return cls(value, value, chunks.astype(np.float64), sums_by(atom, tokens, value.size))

    @classmethod
    def _of_cells(cls, blocks: Iterable[Block], lowest: float, highest: float) -> "Distribution":
        cells = Cells.spanning(lowest, highest, CELLS)
        dropped = max(0, cells.shift - OFFSET_BITS)
        mask = (1 << (cells.shift - dropped)) - 1
        chunks = np.zeros(cells.count, np.int64)
        offsets, tokens = np.zeros(cells.count), np.zeros(cells.count)
        for block in blocks:
            cell = cells.of(block.ppl)
            offset = block.ppl.view(np.int64) >> dropped
            offset &= mask
            chunks += np.bincount(cell, minlength=cells.count)
            offsets += sums_by(cell, offset, cells.count)
            tokens += sums_by(cell, block.tokens, cells.count)
        filled = np.flatnonzero(chunks)
        start, number = cells.starts[filled], chunks[filled].astype(np.float64)
        inside = (offsets[filled] / number + (0.5 if dropped else 0.0)) * 2.0**dropped
        lookup = np.zeros(cells.count, np.int32)
        lookup[filled] = np.arange(filled.size)
        return cls(start, start + inside * np.spacing(start), number, tokens[filled], (cells, lookup))

    def places(self, ppl: FloatArray) -> NDArray[np.signedinteger]:
        """Atom of each perplexity, which must be one of those that the atoms stand for; integers [n]."""
        if self.lookup is None:
            return np.searchsorted(self.start, ppl, side="right") - 1
        cells, atom = self.lookup
        return atom[cells.of(ppl)]

    def mapped(self, of_atom: NDArray[Any]) -> Callable[[FloatArray], NDArray[Any]]:
        """The function that gives each perplexity the value of its atom in ``of_atom`` [A]."""
        if self.lookup is None:
            return lambda ppl: of_atom[self.places(ppl)]
        cells, atom = self.lookup
        table = of_atom[atom]
        return lambda ppl: table[cells.of(ppl)]

    def part(self, begin: int, end: int) -> "Distribution":
        """The atoms ``begin`` to ``end`` alone; they cannot be looked up."""
        if (begin, end) == (0, self.value.size):
            return self
        atoms = slice(begin, end)
        return Distribution(self.start[atoms], self.value[atoms], self.chunks[atoms], self.tokens[atoms])

    @cached_property
    def count(self) -> float:
        """Number of chunks, N."""
        return float(self.chunks.sum())

    @cached_property
    def total_tokens(self) -> float:
        """Tokens of all chunks."""
        return float(self.tokens.sum())

    @cached_property
    def mu(self) -> float:
        """Mean perplexity over chunks."""
        return float(np.dot(self.chunks, self.value)) / self.count

    @cached_property
    def sigma(self) -> float:
        """Standard deviation of perplexity over chunks."""
        return float(np.sqrt(np.dot(self.chunks, (self.value - self.mu) ** 2) / self.count))

    @property
    def scale(self) -> float:
        """Unit of the standardized sums: sigma, or 1 where all perplexities are equal."""
        return self.sigma if self.value.size > 1 else 1.0

    @cached_property
    def prefix_sums(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Numbers of chunks, and sums of z and z^2, over the k lowest atoms, z = (ppl - mu) / scale; each [A + 1]."""
        z = (self.value - self.mu) / self.scale
        sums = np.zeros((3, z.size + 1))
        for total, terms in zip(sums, (self.chunks, self.chunks * z, self.chunks * z * z), strict=True):
            np.cumsum(terms, out=total[1:])
        return sums[0], sums[1], sums[2]

    def atoms_at(self, ranks: IntArray) -> IntArray:
        """The atoms that hold the chunks of these ranks (0 is the lowest perplexity), int64."""
        below = self.prefix_sums[0][1:]
        return np.searchsorted(below, ranks, side="right").astype(np.int64, copy=False)
