"""Draw whole documents: the maximum-entropy subset of documents whose chunks have given moments and tokens.

A document enters with all its candidate chunks. With n chunks, and sums over them, its probability is
pi = logistic(l0 n + l1 sum u + l2 sum (u^2 - 1)), u = (ppl - mu*) / sigma*; the dual is convex in three unknowns, over
documents. Drawn by Pareto sampling (Rosen 1997), then documents are exchanged, added or left out.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.special import expit

from ppl_assets.regimes.candidates import Candidates, SelectionError, hashed, hashed_uniforms
from ppl_assets.regimes.distribution import FloatArray, IntArray, KeyArray, sums_by
from ppl_assets.regimes.drawn import Drawn, Target, describe
from ppl_assets.regimes.limited_tilt import SOFTNESS, Dual
from ppl_assets.regimes.sampler import aim_of
from ppl_assets.regimes.tilt import LENGTH_PASSES, SOLVED, orthonormalizing

POOL = 512
"""Documents of either side that one search for an exchange compares; one place is kept for none at all."""

ROUNDS = 400
AHEAD = 64
"""Documents, in the order of their hash, among which the next one of a training order is chosen."""

IDLE_ROUNDS = 8
"""Searches in a row without progress after which exchanges end."""

GOOD_ENOUGH = 1e-15


@dataclass(frozen=True, eq=False)
class Documents:
    """Candidate chunks and the documents that they are of.

    Attributes:
        candidates: N chunks in memory.
        number: int64 [N], document of each chunk, from 0 to M - 1; each has at least one.
        position: int64 [N], place of the chunk in its document.
        key: uint64 [M], stable hash of the document; distinct.
    """

    candidates: Candidates
    number: IntArray
    position: IntArray
    key: KeyArray

    @cached_property
    def as_candidates(self) -> Candidates:
        """One entry a document: the mean perplexity of its chunks, and their tokens."""
        size = self.key.size
        chunks = np.bincount(self.number, minlength=size)
        ppl = sums_by(self.number, self.candidates.ppl, size) / chunks
        return Candidates(ppl, sums_by(self.number, self.candidates.tokens, size).astype(np.int64), self.key)

    def chunks_of(self, documents: IntArray, seed: int) -> IntArray:
        """Positions of the documents' chunks among the candidates, in training order."""
        number = np.full(self.key.size, -1, np.int64)
        number[documents] = np.arange(documents.size)
        taken = np.flatnonzero(number[self.number] >= 0)
        of_taken = number[self.number[taken]]
        return taken[chunk_order(self.candidates.ppl[taken], of_taken, self.position[taken], self.key[documents], seed)]


def draw_documents(documents: Documents, target: Target, *, seed: int) -> Drawn:
    """Draw whole documents whose chunks have the target's moments and tokens.

    Args:
        documents: M documents.
        target: moments over chunks, and the token budget.
        seed: any integer.

    Returns:
        The subset in training order (see :func:`chunk_order`). Tokens are at most the budget and less than the longest
        document below it; moments are as near as exchanges of documents bring them.

    Raises:
        SelectionError: no document fits into the budget.
    """
    whole, candidates = documents.as_candidates, documents.candidates
    if target.tokens < whole.shortest:
        raise SelectionError(
            f"a budget of {target.tokens} tokens is below one document: the shortest has {whole.shortest} candidate "
            'tokens; give more tokens or take selection.unit = "chunk"'
        )
    if target.tokens >= whole.total_tokens:
        return described(documents, np.arange(whole.count), target, seed, status="all")
    order = np.argsort(hashed(documents.key, seed))
    if candidates.is_constant:
        return described(documents, _filled(whole.tokens, order, target.tokens), target, seed, status="constant")
    aim = aim_of(candidates, target, target.tokens)
    sums = _sums(documents, aim)
    inclusion, is_solved = _inclusion(sums, target.tokens)
    if not is_solved:
        chunks, first, second = (float(inclusion @ sums[:, column]) for column in range(3))
        mean = first / chunks
        aim = aim[0] + aim[1] * mean, aim[1] * math.sqrt(max(second / chunks - mean**2, 1e-12))
        sums = _sums(documents, aim)
    odds, draws = np.clip(inclusion, 1e-12, 1 - 1e-12), hashed_uniforms(documents.key, seed)
    order = np.lexsort((documents.key, np.log(draws / (1 - draws)) - np.log(odds / (1 - odds))))
    chosen = _filled(whole.tokens, order, target.tokens)
    rest = order[~np.isin(order, chosen)]
    chosen, swaps = _exchanged(sums, chosen, rest, (target.tokens - whole.longest, target.tokens))
    drawn = described(documents, chosen, target, seed, status="documents", aim=aim, swaps=swaps)
    if is_solved:
        return drawn
    sentence = (
        f"Whole documents cannot have these moments at this budget: the nearest are a mean of {aim[0]:.6g} and a "
        f"deviation of {aim[1]:.6g}."
    )
    return replace(drawn, is_reachable=False, message=f"{drawn.message} {sentence}")


def chunk_order(ppl: FloatArray, number: IntArray, position: IntArray, key: KeyArray, seed: int) -> IntArray:
    """A training order of whole documents: each next one brings what was read nearest to the whole's moments.

    Args:
        ppl: float64 [n], perplexity of each chunk.
        number: int64 [n], its document, from 0 to M - 1.
        position: int64 [n], its place in the document.
        key: uint64 [M], hash of each document; with the seed it decides which documents are looked at first.
        seed: any integer.

    Returns:
        int64 [n], positions; chunks of a document are together and in their order.
    """
    spread = float(ppl.std()) or 1.0
    # Hashed twice: which documents were drawn depends on the first hash, so they are not in a random order of it.
    u, waiting = (ppl - ppl.mean()) / spread, np.argsort(hashed(hashed(key, seed), seed))
    sums = np.column_stack([sums_by(number, term, key.size) for term in (np.ones(u.size), u, u * u)])
    ahead, place, done = waiting[:AHEAD].copy(), np.empty(key.size, np.int64), np.zeros(3)
    for step in range(key.size):
        best = int(np.argmin(_objective(done + sums[ahead])))
        place[ahead[best]], done = step, done + sums[ahead[best]]
        if step + AHEAD < key.size:
            ahead[best] = waiting[step + AHEAD]
        else:
            ahead = np.delete(ahead, best)
    return np.lexsort((position, place[number]))


def described(
    documents: Documents,
    chosen: IntArray,
    target: Target,
    seed: int,
    *,
    status: str,
    aim: tuple[float, float] | None = None,
    swaps: int = 0,
) -> Drawn:
    """The chosen documents as a subset of chunks in training order."""
    index = documents.chunks_of(chosen, seed)
    drawn = describe(
        documents.candidates, documents.candidates.members(index), target, status=status, aim=aim, swaps=swaps
    )
    return replace(drawn, message=f"{drawn.message} They are {chosen.size:,} whole documents.")


def _filled(tokens: IntArray, order: IntArray, budget: int) -> IntArray:
    """The documents of an order that fit into the budget, each as far as those before it leave room."""
    kept, left = [], budget
    for document, length in zip(order.tolist(), tokens[order].tolist(), strict=True):
        if length <= left:
            kept.append(document)
            left -= length
    return np.array(kept, np.int64)


def _sums(documents: Documents, aim: tuple[float, float]) -> FloatArray:
    """Chunks, sum of u, sum of u^2 and tokens of each document, [M, 4]."""
    u = (documents.candidates.ppl - aim[0]) / aim[1]
    terms = (np.ones(u.size), u, u * u, documents.candidates.tokens)
    return np.column_stack([sums_by(documents.number, term, documents.key.size) for term in terms])


def _inclusion(sums: FloatArray, tokens: float) -> tuple[FloatArray, bool]:
    """Inclusion probability of each document, [M], and whether they have the moments (0, 1); else the nearest."""
    inclusion, _, is_solved = _solve(sums, tokens, 0.0, np.zeros(3))
    if is_solved:
        return inclusion, True
    x = np.zeros(3)
    for softness in SOFTNESS:
        inclusion, x, _ = _solve(sums, tokens, softness, x)
    return inclusion, False


def _solve(sums: FloatArray, tokens: float, softness: float, x: FloatArray) -> tuple[FloatArray, FloatArray, bool]:
    """Probabilities at the token budget, the multipliers, and whether the dual was solved."""
    plain = np.column_stack([sums[:, 0], sums[:, 1], sums[:, 2] - sums[:, 0]])
    inverse = orthonormalizing(np.vstack([plain / math.sqrt(sums.shape[0]), np.zeros((3, 3))]))
    chunks = float(sums[:, 0].sum()) * tokens / float(sums[:, 3].sum())
    for _ in range(LENGTH_PASSES):
        penalty = softness * chunks * inverse[1:].T @ inverse[1:]
        wanted = inverse.T @ np.array([chunks, 0.0, 0.0])
        dual = Dual(plain @ inverse, np.ones(sums.shape[0]), wanted, penalty, 3)
        x, residual = dual.minimized(x, SOLVED * chunks / 10)
        inclusion = expit(dual.columns @ x)
        ratio = tokens / float(inclusion @ sums[:, 3])
        if residual > SOLVED * chunks or abs(ratio - 1) < 1e-9:
            break
        chunks = min(chunks * ratio, float(sums[:, 0].sum()) * (1 - 1e-9))
    return inclusion, x, residual <= SOLVED * chunks


def _exchanged(sums: FloatArray, chosen: IntArray, rest: IntArray, window: tuple[int, int]) -> tuple[IntArray, int]:
    """Documents after exchanges that bring J down, and how many these were.

    Args:
        sums: [M, 4], in units of the aim.
        chosen: documents drawn, the least wanted last.
        rest: the others, the most wanted first.
        window: tokens stay above the first and at most the second number.
    """
    none = sums.shape[0]
    sums = np.vstack([sums, np.zeros(4)])
    inner, outer, now = chosen[::-1].copy(), rest.copy(), sums[chosen].sum(axis=0)
    idle = swaps = 0
    for number in range(ROUNDS):
        if _objective(now) <= GOOD_ENOUGH or idle >= IDLE_ROUNDS:
            break
        out, come = (np.append(_pool(part, number), none) for part in (inner, outer))
        after = now + sums[come][None] - sums[out][:, None]
        value = _objective(after)
        value[(after[..., 3] <= window[0]) | (after[..., 3] > window[1]) | (after[..., 0] < 1)] = np.inf
        row, column = divmod(int(np.argmin(value)), come.size)
        if value[row, column] >= _objective(now) * (1 - 1e-6):
            idle += 1
            continue
        leaving, coming = out[row], come[column]
        inner = np.append(inner[inner != leaving], coming if coming != none else [])[: inner.size + 1].astype(np.int64)
        outer = np.append(outer[outer != coming], leaving if leaving != none else []).astype(np.int64)
        now, idle, swaps = after[row, column], 0, swaps + 1
    return inner, swaps


def _objective(sums: FloatArray) -> FloatArray:
    """J = mean(u)^2 + (var(u) - 1)^2 of sums over subsets, [...] of [..., 4]; infinite for none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = sums[..., 1] / sums[..., 0]
        value = mean**2 + (sums[..., 2] / sums[..., 0] - mean**2 - 1.0) ** 2
    return np.where(sums[..., 0] > 0, value, np.inf)


def _pool(documents: IntArray, number: int) -> IntArray:
    """A window of the documents that moves on with each search."""
    if documents.size <= POOL:
        return documents
    return documents[(number * POOL // 2 + np.arange(POOL)) % documents.size]
