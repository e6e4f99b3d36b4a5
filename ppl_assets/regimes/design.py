"""The trial design: which (mean, deviation) of perplexity to train on, and the subsets that have them."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ppl_assets.regimes.candidates import Candidates, SelectionError
from ppl_assets.regimes.distribution import FloatArray, IntArray, KeyArray
from ppl_assets.regimes.drawn import Target
from ppl_assets.regimes.ordering import prefix_order, steady_tokens
from ppl_assets.regimes.reachable import ReachableRegion
from ppl_assets.regimes.sampler import draw_tilt

QUANTILES = (0.25, 0.75)
"""Grid means lie between those of bands centred at these quantiles. Farther out is text of another sort (tables, lists,
noise), whose loss bends a smooth law where the optimum lies; see ``docs/planted-study.md`` for what that costs."""

FACE_MARGIN = 0.10
"""The grid's faces lie at least this share of the log ranges inside. On the boundary a subset is a contiguous band or
two clumps, whose loss says little about the subsets in between; the largest errors of a fitted law are there."""

FARTHEST = 3.0
"""A regime's deviation is reachable by chunks within this many deviations of its mean. Beyond, a few chunks of the tail
hold the variance, and no prefix without them is like the whole."""

DESIGN_CHUNKS = 20_000
"""Chunks, evenly over the sorted scores, on which the greatest such deviation is found."""

MOST_SHARE = 0.9
"""A trial of more than this share of the candidates leaves no room for regimes to differ."""

STEADY = 0.01
"""Relative error of mean and deviation that counts as none."""

CENTRE = "centre"
NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


@dataclass(frozen=True)
class Regime:
    """A place in the design; replicates of one place differ in number, and are drawn and trained with other seeds."""

    name: str
    mu: float
    sigma: float
    replicate: int = 0


@dataclass(frozen=True, eq=False)
class Trial:
    """A regime's subset, drawn and in training order.

    ``index`` is int64 [n], positions into the candidates; ``subset_hash`` covers the chunk keys in this order.
    """

    name: str
    regime: str
    mu_target: float
    sigma_target: float
    mu: float
    sigma: float
    tokens: int
    seed: int
    index: IntArray
    objective: float
    kl_nats: float
    prefix_error: float
    steady_tokens: int
    subset_hash: str
    message: str


def face_grid(
    region: ReachableRegion,
    candidates: Candidates,
    tokens: int,
    grid: int = 3,
    inside: float = 0.02,
    *,
    repeats: int = 3,
    anchors: Mapping[str, tuple[float, float]] | None = None,
    quantiles: tuple[float, float] = QUANTILES,
) -> list[Regime]:
    """A grid in (ln mean, ln deviation) over the reachable region, its centre repeated, and anchors.

    The region is no rectangle: means are equally spaced in ln mu between the bands at two quantiles, and at each
    mean the deviations are equally spaced in ln sigma between the least and greatest reachable there (by chunks
    within FARTHEST deviations), both kept FACE_MARGIN inside.

    Args:
        region: the region at the largest number of tokens trained on: smaller subsets reach more.
        candidates: N chunks.
        tokens: tokens of a trial, the largest D.
        grid: levels a side.
        inside: share of the log ranges that anchors keep from the boundary, and the grid at least.
        repeats: further replicates of the centre.
        anchors: named extra points, for instance the corpus' own moments and the test set's; those outside are moved to
            the nearest point inside.
        quantiles: of the sorted scores, where the bands with the lowest and the highest mean are centred.

    Returns:
        ``grid-IJ`` (I level of the mean, J of the deviation) with the middle one called ``centre``; then the replicates
        of the centre; then the anchors. An even grid gets a centre of its own.

    Raises:
        SelectionError: the candidates are too few or all alike, or an anchor's name is not a partition key.
    """
    if tokens > MOST_SHARE * candidates.total_tokens:
        raise SelectionError(
            f"a trial of {tokens} tokens takes nearly all of the {candidates.total_tokens} candidate tokens, so "
            f"regimes cannot differ; lower trials.tokens below {int(MOST_SHARE * candidates.total_tokens)} or add text"
        )
    low, high = _mean_range(region, inside, quantiles)
    levels = np.geomspace(low, high, grid)
    regimes = [
        Regime(f"grid-{row}{column}", float(mu), float(sigma))
        for row, mu in enumerate(levels)
        for column, sigma in enumerate(_deviations(region, float(mu), grid, inside))
    ]
    middle = float(np.sqrt(low * high))
    centre = Regime(CENTRE, middle, float(_deviations(region, middle, 3, inside)[1]))
    if grid % 2:
        regimes[len(regimes) // 2] = centre
    else:
        regimes.append(centre)
    regimes += [Regime(CENTRE, centre.mu, centre.sigma, replicate) for replicate in range(1, repeats + 1)]
    for name, (mu, sigma) in (anchors or {}).items():
        if not NAME.fullmatch(name):
            raise SelectionError(
                f"anchor {name!r} cannot name a trial; use a-z, 0-9, _ and -, starting with a letter or digit"
            )
        regimes.append(Regime(name, *region.nearest(mu, sigma, inside)[:2]))
    return regimes


def open_places(
    region: ReachableRegion, inside: float, levels: int, quantiles: tuple[float, float] = QUANTILES
) -> list[Regime]:
    """Every place where a further trial could be run: a grid of ``levels`` a side between the faces of the design.

    With 2^k + 1 levels the design's own places are among them, so that a place can be repeated.

    Args:
        region: the region at a trial's tokens.
        inside: share of the log ranges kept from the boundary, as in :func:`face_grid`.
        levels: places a side.
        quantiles: those of the design.
    """
    low, high = _mean_range(region, inside, quantiles)
    return [
        Regime(f"next-{row}{column}", float(mu), float(sigma))
        for row, mu in enumerate(np.geomspace(low, high, levels))
        for column, sigma in enumerate(_deviations(region, float(mu), levels, inside))
    ]


def build_trials(
    candidates: Candidates, regimes: Sequence[Regime], tokens: int, seed: int, prefixes: Sequence[int]
) -> list[Trial]:
    """Draw and order the subset of every regime.

    Common random numbers: all regimes share ``seed``, so that their differences are the regimes'; replicate r uses
    seed + r. A trial's name carries the regime, the seed and the hash of its chunks in order: the same subset keeps its
    name, another subset is another trial.

    Args:
        candidates: N chunks.
        regimes: from :func:`face_grid`.
        tokens: tokens of each trial.
        seed: any non-negative integer.
        prefixes: token counts at which the loss will be measured.

    Raises:
        SelectionError: the budget or a prefix is below one chunk.
    """
    return [_trial(candidates, regime, tokens, seed + regime.replicate, list(prefixes)) for regime in regimes]


def subset_hash(keys: KeyArray) -> str:
    """Hash of chunk keys in order: 32 hexadecimal digits."""
    return hashlib.blake2b(keys.astype("<u8").tobytes(), digest_size=16).hexdigest()


def _trial(candidates: Candidates, regime: Regime, tokens: int, seed: int, prefixes: list[int]) -> Trial:
    """One trial."""
    drawn = draw_tilt(candidates, Target(regime.mu, regime.sigma, tokens), seed=seed)
    order, error = prefix_order(
        candidates.ppl[drawn.index], candidates.tokens[drawn.index], seed=seed, prefixes=prefixes
    )
    index = drawn.index[order]
    digest = subset_hash(candidates.key[index])
    return Trial(
        name=f"{regime.name}-s{seed}-{digest[:8]}",
        regime=regime.name,
        mu_target=regime.mu,
        sigma_target=regime.sigma,
        mu=drawn.mu,
        sigma=drawn.sigma,
        tokens=drawn.tokens,
        seed=seed,
        index=index,
        objective=drawn.objective,
        kl_nats=drawn.kl_nats,
        prefix_error=error,
        steady_tokens=steady_tokens(candidates.ppl[index], candidates.tokens[index], STEADY),
        subset_hash=digest,
        message=drawn.message,
    )


def _mean_range(region: ReachableRegion, inside: float, quantiles: tuple[float, float]) -> tuple[float, float]:
    """Lowest and highest mean of the grid.

    Raises:
        SelectionError: they are the same.
    """
    low, high = region.inner_mu_range(max(inside, FACE_MARGIN))
    low, high = max(low, region.band_at(quantiles[0])), min(high, region.band_at(quantiles[1]))
    if not low < high:
        raise SelectionError("the candidates' perplexities hardly differ, so regimes cannot; check the scores")
    return low, high


def _deviations(region: ReachableRegion, mu: float, levels: int, inside: float) -> FloatArray:
    """Deviations equally spaced in ln sigma over what is plausible at a mean, [levels]."""
    low, high = (float(bound) for bound in region.inner_bounds(mu, max(inside, FACE_MARGIN)))
    # At most half of the logarithmic range is cut away, so that levels stay apart in every corpus.
    plausible = max(_greatest_deviation(region, mu, low, high), float(np.sqrt(low * high)))
    return np.geomspace(low, min(high, plausible), levels)


def _greatest_deviation(region: ReachableRegion, mu: float, low: float, high: float) -> float:
    """Greatest deviation at a mean that chunks within FARTHEST deviations of it reach, by bisection in ln sigma."""
    scores, count = region.scores, int(region.scores.count)
    ranks = np.linspace(0, count - 1, min(count, DESIGN_CHUNKS)).round().astype(np.int64)
    thinned = scores.value[scores.atoms_at(ranks)]
    wanted = region.chunks * thinned.size / count

    def is_reached(sigma: float) -> bool:
        near = thinned[np.abs(thinned - mu) <= FARTHEST * sigma]
        if near.size <= wanted:
            return False
        ones = Candidates(near, np.ones(near.size, np.int64), np.arange(near.size, dtype=np.uint64))
        return ReachableRegion.at_share(ones, wanted).contains(mu, sigma)

    if is_reached(high):
        return high
    for _ in range(24):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if is_reached(middle) else (low, middle)
    return low
