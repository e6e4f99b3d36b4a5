"""Whether the selection really wins: paired differences by seed, and the sentences that say so.

Belongs here: the statistics of trained strategies and their wording. Does not belong here: tables, charts, HTML.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import scipy
from numpy.typing import ArrayLike

SELECTED = "selected"
RANDOM = "random"
MATCHED = "matched"
MIDDLE = "middle"
REDRAWN = "redrawn"
"""The selection's own target drawn anew with each seed: no rival, but its gain without the luck of one draw."""

Verdict = Literal["better", "worse", "unsure", "single_seed", "no_random", "untrained"]


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences with its t interval.

    Attributes:
        mean: mean of a - b over the pairs.
        low: lower end of the interval; nan with one pair, which has no spread to judge by.
        high: upper end of the interval; nan with one pair.
        n: number of pairs.
        confidence: level of the interval.
        excludes_zero: whether the interval lies on one side of zero; False with one pair.
    """

    mean: float
    low: float
    high: float
    n: int
    confidence: float
    excludes_zero: bool


@dataclass(frozen=True)
class Gain:
    """What the selection gains over one rival.

    Attributes:
        rival: the rival's name.
        selected_loss: mean final loss of the selection over the shared seeds, nats a token.
        rival_loss: the rival's, over the same seeds.
        difference: rival minus selected, paired by seed: positive where the selection is better.
    """

    rival: str
    selected_loss: float
    rival_loss: float
    difference: Difference


@dataclass(frozen=True)
class Headline:
    """The report's first sentences and the comparison that they rest on.

    Attributes:
        verdict: selection against random: better, worse or unsure (interval), single_seed, no_random, untrained.
            Better only where draws anew of the same place are better as well, if they were trained.
        sentences: plain sentences, the most important one first.
        gains: one per rival that shares a seed with the selection, in the order given.
        rule: gain over random of draws anew at the selection's place; None where they were not trained.
    """

    verdict: Verdict
    sentences: tuple[str, ...]
    gains: tuple[Gain, ...]
    rule: Gain | None = None

    @property
    def text(self) -> str:
        """All sentences as one paragraph."""
        return " ".join(self.sentences)

    def gain(self, rival: str) -> Gain | None:
        """The gain over ``rival``, or None where the two were not compared."""
        return next((gain for gain in self.gains if gain.rival == rival), None)

    @property
    def best_free(self) -> Gain | None:
        """The gain over the best rival beside random, none of which needs a trial."""
        return _best_free(self.gains)


def paired_difference(loss_a: ArrayLike, loss_b: ArrayLike, confidence: float = 0.95) -> Difference:
    """Mean of a - b with a two-sided t interval over pairs (Student's paired t).

    Args:
        loss_a: [s] losses, one per seed.
        loss_b: [s] losses of the same seeds in the same order.
        confidence: level of the interval, between 0 and 1.

    Raises:
        ValueError: no pair, unequal lengths, a loss that is not finite, or a level outside (0, 1).
    """
    a, b = np.asarray(loss_a, dtype=np.float64), np.asarray(loss_b, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape or not a.size:
        raise ValueError(
            f"losses of shape {a.shape} and {b.shape} are not pairs; give one loss per shared seed, at least one"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("a loss is not finite; leave diverged runs out of the comparison")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence = {confidence} is not a level; give a number between 0 and 1")
    difference = a - b
    n, mean = int(difference.size), float(difference.mean())
    if n == 1:
        return Difference(mean, math.nan, math.nan, 1, confidence, excludes_zero=False)
    half = float(scipy.stats.t.ppf(0.5 + confidence / 2.0, n - 1) * difference.std(ddof=1) / math.sqrt(n))
    return Difference(mean, mean - half, mean + half, n, confidence, excludes_zero=bool(abs(mean) > half))


def tokens_to_reach(tokens: ArrayLike, loss: ArrayLike, target_loss: float) -> float | None:
    """Tokens at which a loss curve first reaches ``target_loss``, linear in ln(tokens) between measurements.

    Args:
        tokens: [p] tokens seen; measurements at 0 tokens (before training) have no place on a log scale: ignored.
        loss: [p] loss at each, nats a token.
        target_loss: the loss to reach.

    Returns:
        The tokens; the first measured count (an upper bound) where the loss is already there by then; None where it is
        not reached within what was measured.

    Raises:
        ValueError: unequal lengths.
    """
    seen, measured = np.asarray(tokens, dtype=np.float64), np.asarray(loss, dtype=np.float64)
    if seen.shape != measured.shape or seen.ndim != 1:
        raise ValueError(
            f"tokens of shape {seen.shape} and losses of shape {measured.shape} do not pair; give one loss per count"
        )
    keep = (seen > 0) & np.isfinite(measured)
    order = np.argsort(seen[keep], kind="stable")
    log_seen, measured = np.log(seen[keep][order]), measured[keep][order]
    reached = np.flatnonzero(measured <= target_loss)
    if not reached.size:
        return None
    after = int(reached[0])
    if after == 0:
        return float(np.exp(log_seen[0]))
    part = (measured[after - 1] - target_loss) / (measured[after - 1] - measured[after])
    return float(np.exp(log_seen[after - 1] + part * (log_seen[after] - log_seen[after - 1])))


def headline(
    losses: Mapping[str, Mapping[int, float]],
    selected_tokens: int,
    trained_tokens: int | None = None,
    base_loss: float | None = None,
    confidence: float = 0.95,
    *,
    is_matched: bool = False,
) -> Headline:
    """Say in plain sentences what was selected and whether it wins.

    Args:
        losses: final test loss by strategy and training seed, nats a token; diverged runs left out.
        selected_tokens: tokens of the selection.
        trained_tokens: tokens every strategy was trained on; None: all of the selection.
        base_loss: test loss before any training, nats a token.
        confidence: level of the intervals.
        is_matched: whether the law did not decide and the selection is itself matched to the test set.
    """
    size = f"The selection of {selected_tokens:,} tokens"
    mine = losses.get(SELECTED, {})
    gains = tuple(
        _gain(rival, mine, theirs, confidence)
        for rival, theirs in losses.items()
        if rival not in (SELECTED, REDRAWN) and mine.keys() & theirs.keys()
    )
    anew, by_chance = losses.get(REDRAWN, {}), losses.get(RANDOM, {})
    rule = _gain(RANDOM, anew, by_chance, confidence) if anew.keys() & by_chance.keys() else None
    if not mine:
        return Headline(
            "untrained",
            (f"{size} is ready; nothing has been trained on it yet, so whether it beats random is not known.",),
            (),
        )
    random = next((gain for gain in gains if gain.rival == RANDOM), None)
    mean = float(np.mean(list(mine.values())))
    if random is None:
        verdict: Verdict = "no_random"
        first = [
            f"{size} is not compared with random yet: no seed was trained on both.",
            f"Its own test loss is {mean:.3f} nats a token.",
        ]
    else:
        verdict = _verdict(random.difference)
        first = _against_random(size, random, verdict)
        if verdict == "better" and rule is not None and _verdict(rule.difference) != "better":
            verdict = "unsure"
            first[0] = f"{size} beats random, but other subsets drawn at the same place are not shown to."
        first += _drawn_anew(random, rule)
    sentences = [
        *first,
        *_scale(trained_tokens, selected_tokens),
        *(_is_matched(gains) if is_matched else _against_free(gains)),
        *_against_base(mean, base_loss),
    ]
    return Headline(verdict, tuple(sentences), gains, rule)


def _gain(rival: str, mine: Mapping[int, float], theirs: Mapping[int, float], confidence: float) -> Gain:
    """The gain over a rival on the seeds that both were trained with."""
    seeds = sorted(mine.keys() & theirs.keys())
    a, b = np.array([theirs[seed] for seed in seeds]), np.array([mine[seed] for seed in seeds])
    return Gain(rival, float(b.mean()), float(a.mean()), paired_difference(a, b, confidence))


def _verdict(difference: Difference) -> Verdict:
    """What a paired difference (rival minus selected) allows to be said."""
    if difference.n == 1:
        return "single_seed"
    if not difference.excludes_zero:
        return "unsure"
    return "better" if difference.mean > 0 else "worse"


def nats(value: float) -> str:
    """A difference in nats: three decimals, or enough to show two digits of a small one."""
    decimals = 3 if value == 0 or abs(value) >= 0.01 else 4
    return f"{value:.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def interval_text(difference: Difference) -> str:
    """The interval in words, with its level and number of seeds; says so where there is none."""
    if difference.n == 1:
        return "one seed, so no interval"
    zero = "" if difference.excludes_zero else ", which includes zero"
    level = f"{100 * difference.confidence:g}\N{NO-BREAK SPACE}% interval"
    return f"{level} {nats(difference.low)} to {nats(difference.high)}{zero}, {difference.n} paired seeds"


def _amount(gain: Gain) -> str:
    """How far the selection's loss lies below or above the rival's; the interval has the same direction."""
    d = gain.difference
    if d.mean > 0:
        return f"{nats(d.mean)} lower ({interval_text(d)})"
    if d.mean == 0:
        return f"no difference ({interval_text(d)})"
    return f"{nats(-d.mean)} higher ({interval_text(absolute(d))})"


def absolute(difference: Difference) -> Difference:
    """The difference with its sign such that the mean is not negative."""
    if difference.mean >= 0:
        return difference
    return replace(difference, mean=-difference.mean, low=-difference.high, high=-difference.low)


def _against_random(size: str, gain: Gain, verdict: Verdict) -> list[str]:
    """The first two sentences, once both were trained: the verdict, then the figures."""
    facts = f"Test loss is {gain.selected_loss:.3f} against {gain.rival_loss:.3f} nats a token: {_amount(gain)}"
    ahead = gain.difference.mean > 0
    match verdict:
        case "better":
            return [f"{size} beats random.", f"{facts}; the interval excludes zero."]
        case "worse":
            return [f"{size} does not beat random: it is worse.", f"{facts}; the interval excludes zero."]
        case "single_seed" if ahead:
            return [f"{size} is ahead of random in the only seed trained, which proves nothing.", f"{facts}."]
        case "single_seed":
            return [f"{size} does not beat random in the only seed trained.", f"{facts}."]
        case _ if ahead:
            return [f"{size} is not shown to beat random.", f"{facts}; not sure, more seeds would tell."]
        case _:
            return [f"{size} does not beat random.", f"{facts}; the difference is not sure."]


def _scale(trained: int | None, selected: int) -> list[str]:
    """A sentence where the strategies were trained on another number of tokens than was selected."""
    if trained is None or abs(trained - selected) <= 0.01 * selected:
        return []
    return [f"Strategies were compared after training on {trained:,} tokens each, not on the {selected:,} selected."]


def _drawn_anew(random: Gain, rule: Gain | None) -> list[str]:
    """What other draws at the same place gave: the interval above is over training orders of one subset."""
    if rule is None:
        return (
            []
            if random.difference.n == 1
            else ["The interval is over training orders of this one subset; others at its place were not trained."]
        )
    facts = f"{rule.selected_loss:.3f}, against random {_amount(rule)}"
    match _verdict(rule.difference):
        case "better":
            too = " too" if _verdict(random.difference) == "better" else ""
            return [f"Subsets drawn anew at the same place, one a seed, beat random{too}: {facts}."]
        case "worse":
            return [f"Subsets drawn anew at the same place, one a seed, are worse than random: {facts}."]
        case _:
            return [f"Subsets drawn anew at the same place, one a seed, are not shown to beat random: {facts}."]


def _best_free(gains: tuple[Gain, ...]) -> Gain | None:
    """The gain over the rival with the least loss, random left out."""
    return min((gain for gain in gains if gain.rival != RANDOM), key=lambda gain: gain.rival_loss, default=None)


def _against_free(gains: tuple[Gain, ...]) -> list[str]:
    """Whether the trials earned their price: the selection against the best of the rivals, which need none."""
    gain = _best_free(gains)
    if gain is None:
        return ["It was not compared with 'matched' or 'middle', which need no trial either."]
    best = f"'{gain.rival}', the best of the rivals, which need no trial"
    facts = f"{gain.rival_loss:.3f} for {gain.rival}, the selection's {_amount(gain)}"
    match _verdict(gain.difference):
        case "better":
            return [f"It also beats {best}: {facts}."]
        case "worse":
            return [f"It does not beat {best}: {facts}. The trials did not earn their price here."]
        case "single_seed":
            return [f"Against {best}, one seed cannot tell: {facts}."]
        case _:
            return [f"It is not shown to beat {best}: {facts}. Whether the trials earned their price is open."]


def _is_matched(gains: tuple[Gain, ...]) -> list[str]:
    """Where the law did not decide the trials bought nothing; a rival that did better is named."""
    said = (
        "The law did not decide, so this subset is itself matched to the test set: the trials bought nothing, and from "
        "'matched' it differs by the luck of its draw."
    )
    best = _best_free(gains)
    if best is None or best.difference.mean >= 0 or best.rival == MATCHED:
        return [said]
    return [said, f"The best measured rival is '{best.rival}': {best.rival_loss:.3f}, the selection's {_amount(best)}."]


def _against_base(mean: float, base_loss: float | None) -> list[str]:
    """A warning where training on the selection did not help at all."""
    if base_loss is None or mean < base_loss:
        return []
    return [f"Training on it did not lower the test loss at all: {mean:.3f} after, {base_loss:.3f} before."]
