"""The report's first screen: what to use, what to expect, how much better than random and how sure, at which price."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from ppl_assets import plots
from ppl_assets.subset import comparison
from ppl_assets.subset.comparison import RANDOM, SELECTED, Gain, Headline
from ppl_assets.subset.forecasts import Expected, StrategyForecast, expected, mean_curve, rounded, tokens_needed
from ppl_assets.subset.report_words import number, perplexity, span

if TYPE_CHECKING:
    from ppl_assets.subset.report import ReportInput


@dataclass(frozen=True)
class Fact:
    """A figure of the first screen: what it is, its value, and what a reader should know beside it."""

    label: str
    value: str
    note: str = ""


def opening(head: Headline, tokens: int) -> str:
    """The page's heading: what to do with the selection, as far as it was measured.

    Args:
        head: the comparison.
        tokens: tokens selected.
    """
    free = head.best_free
    if head.verdict == "worse":
        return f"Do not use this subset of {tokens:,} tokens: it is worse than random."
    if head.verdict != "better":
        return head.sentences[0]
    if free is None or (free.difference.mean > 0 and free.difference.excludes_zero):
        return f"Use this subset of {tokens:,} tokens: it beats random."
    if free.difference.excludes_zero:
        return f"This subset of {tokens:,} tokens beats random, but '{free.rival}', which needs no trial, does better."
    return (
        f"Use this subset of {tokens:,} tokens: it beats random; '{free.rival}', which needs no trial, may do as well."
    )


def facts(data: "ReportInput", head: Headline, forecasts: list[StrategyForecast]) -> list[Fact]:
    """The figures of the first screen, in the order of the questions.

    Args:
        data: the report's input.
        head: the comparison.
        forecasts: every strategy beside its prediction.
    """
    row = data.selection.row(0, named=True)
    moments = f"mean {perplexity(row['mu'])} and spread {perplexity(row['sigma'])} of perplexity"
    export = data.provenance.export or row["export_path"]
    asked = expected(data)
    gain = head.gain(RANDOM)
    return [
        Fact("Use", f"{row['tokens']:,} tokens", f"{row['chunks']:,} chunks, {moments}, in {export}"),
        _expected(asked, data.confidence),
        _measured(data, asked),
        *([_gain(gain)] if gain else []),
        *_random_needs(data, forecasts),
        *_forgets(data),
        _price(data, head),
    ]


def doubt_sentence(data: "ReportInput") -> str:
    """Why the predicted loss should be taken with care, in one sentence; empty where nothing speaks against it."""
    asked = expected(data)
    if asked is None or not asked.doubts:
        return ""
    return f"Take the predicted loss with care: {'; '.join(asked.doubts)}."


def _expected(asked: Expected | None, confidence: float) -> Fact:
    """The law's prediction at the selection's own place."""
    label = "Expect, by the law"
    if asked is None:
        return Fact(label, "none", "no form of the law was chosen or could be fitted")
    p = asked.prediction
    level = f"{100 * confidence:g}\N{NO-BREAK SPACE}%: {span(p.low, p.high)}" if math.isfinite(p.low) else "no interval"
    care = "; with care, see below" if asked.doubts else ""
    place = f"at mean {perplexity(asked.mu)}, spread {perplexity(asked.sigma)} and {asked.tokens:,} tokens"
    return Fact(label, f"{number(p.loss)} nats a token", f"{level}; {place}{care}")


def _measured(data: "ReportInput", asked: Expected | None) -> Fact:
    """The measured loss of the selection, and whether it lies where it was predicted."""
    losses = plots.final_losses(data.strategy_losses).filter(pl.col("strategy") == SELECTED)["test_loss"]
    if not len(losses):
        return Fact("Measured", "not yet", "train the strategies to know")
    mean = float(losses.mean())  # type: ignore[arg-type]
    seeds = f"mean of {len(losses)} seeds" if len(losses) > 1 else "one seed"
    value = f"{number(mean)} nats a token"
    if asked is None or not math.isfinite(asked.prediction.low):
        return Fact("Measured", value, f"{seeds}, held-out test text")
    inside = asked.prediction.low <= mean <= asked.prediction.high
    return Fact("Measured", value, f"{seeds}; {'inside' if inside else 'outside'} the prediction's interval")


def _gain(gain: Gain) -> Fact:
    """The gain over random, or the loss against it, as the reader's main figure."""
    mean = gain.difference.mean
    side = "lower" if mean > 0 else "higher"
    relative = f"test perplexity {abs(100.0 * math.expm1(-mean)):.1f}\N{NO-BREAK SPACE}% {side}"
    note = f"{relative}; {comparison.interval_text(gain.difference)}"
    return Fact(f"Gain over {plots.words(gain.rival)}", f"{comparison.nats(mean)} nats a token", note)


def _forgets(data: "ReportInput") -> list[Fact]:
    """What training on the selection does to the loss of general text, and how that compares with random."""
    finals = plots.final_losses(data.strategy_losses).filter(pl.col("general_loss").is_finite())
    before = plots.base_losses(data.strategy_losses)[1]
    mine = finals.filter(pl.col("strategy") == SELECTED).select("seed", "general_loss")
    if before is None or mine.is_empty():
        return []
    after = float(mine["general_loss"].mean())  # type: ignore[arg-type]
    note = "forgotten" if after > before else "nothing is forgotten"
    both = mine.join(finals.filter(pl.col("strategy") == RANDOM), on="seed", suffix="_random")
    if not both.is_empty():
        d = comparison.paired_difference(both["general_loss"], both["general_loss_random"], data.confidence)
        side = "more" if d.mean > 0 else "less"
        size = comparison.absolute(d)
        note += f"; {comparison.nats(size.mean)} {side} than random ({comparison.interval_text(size)})"
    change = comparison.nats(abs(after - before))
    return [Fact("General loss", f"{number(before)} to {number(after)} nats a token", f"{change} {note}")]


def _random_needs(data: "ReportInput", forecasts: list[StrategyForecast]) -> list[Fact]:
    """Tokens that random needs for the selection's loss, and the selection for random's; nothing before both ran."""
    mine = next((row for row in forecasts if row.strategy == SELECTED), None)
    theirs = next((row for row in forecasts if row.strategy == RANDOM), None)
    if mine is None or theirs is None or mine.random_needs is None:
        return []
    needs = tokens_needed(mean_curve(data, SELECTED), theirs.measured)
    by_law = f"by the law about {rounded(mine.random_needs_by_law)}; " if mine.random_needs_by_law else ""
    if needs.kind == "more_than":
        back = f"the selection does not reach random's final loss in its {needs.tokens:,.0f}"
    else:
        back = f"the selection has random's final loss after {needs.text}"
    return [Fact("Random needs for the same loss", f"{mine.random_needs.text} tokens", f"{by_law}{back}")]


def _price(data: "ReportInput", head: Headline) -> Fact:
    """What the trials cost, in tokens, and what they bought: the gain over the best rival, which needs none."""
    label = "Price: tokens of the trials"
    free = head.best_free
    if free is None:
        bought = "no rival but random was trained"
    else:
        d = free.difference
        bought = (
            f"gain over '{free.rival}', which needs none: {comparison.nats(d.mean)} ({comparison.interval_text(d)})"
        )
    if data.trial_losses.is_empty():
        return Fact(label, "none", f"no trial was run; {bought}")
    tokens, runs = trial_tokens(data.trial_losses)
    share = tokens / max(1, int(data.selection["tokens"][0]))
    scored = f", and {data.evaluated_tokens:,} held-out tokens scored" if data.evaluated_tokens else ""
    note = f"trained in {runs} runs, {share:.1f} times the selection{scored}; {bought}"
    return Fact(label, f"{tokens:,} tokens", note)


def trial_tokens(trial_losses: pl.DataFrame) -> tuple[int, int]:
    """Tokens trained in all trials, and their number."""
    runs = trial_losses.group_by("trial").agg(pl.col("tokens").max())
    return int(runs["tokens"].sum()), len(runs)
