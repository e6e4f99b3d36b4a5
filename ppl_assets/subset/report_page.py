"""What the report page says: figures in words, table rows, and the HTML made from them.

Belongs here: numbers as a reader sees them. Does not belong here: statistics (``comparison``), charts (``plots``),
files (``report``).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl
from jinja2 import Environment, PackageLoader, StrictUndefined

from ppl_assets import plots
from ppl_assets.subset import comparison
from ppl_assets.subset.comparison import MATCHED, RANDOM, SELECTED, Gain, Headline

if TYPE_CHECKING:
    from ppl_assets.subset.report import ReportInput

MISSING = "\N{EN DASH}"
"""What stands in a cell whose value is not known."""


@dataclass(frozen=True)
class Fact:
    """A figure of the first screen: what it is, its value, and what a reader should know beside it."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class GainRow:
    """A line of the comparison table.

    Attributes:
        gain: the comparison.
        start: left end of the interval bar, 0 to 100 across the cell.
        end: right end.
        dot: place of the mean.
        zero: place of zero.
        beyond: right or left where the mean lies outside the scale; empty where it lies inside.
        words: what the interval allows to be said.
    """

    gain: Gain
    start: float
    end: float
    dot: float
    zero: float
    beyond: str
    words: str


def number(value: float | None, decimals: int = 3) -> str:
    """A number with thousands separators, a real minus sign and fixed decimals; a dash where it is not known."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:,.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def perplexity(value: float | None) -> str:
    """A perplexity with three digits; a dash where it is not known."""
    return MISSING if value is None or not math.isfinite(value) else plots.perplexity_text(value)


def span(low: float | None, high: float | None, decimals: int = 3) -> str:
    """An interval as 'low to high'; says so where there is none."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return "no interval"
    return f"{number(low, decimals)} to {number(high, decimals)}"


def short(value: float) -> str:
    """A figure of unknown size with three digits."""
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")


def losses_by_seed(finals: pl.DataFrame) -> dict[str, dict[int, float]]:
    """Final test loss by strategy and seed, nats a token."""
    table: dict[str, dict[int, float]] = {}
    for row in finals.iter_rows(named=True):
        table.setdefault(row["strategy"], {})[row["seed"]] = row["test_loss"]
    return table


def summarize(data: "ReportInput") -> Headline:
    """The headline that the report opens with; its gains are the columns of table ``selection_report``."""
    return headline_of(data.strategy_losses, int(data.selection["tokens"][0]), data.confidence)


def headline_of(strategy_losses: pl.DataFrame, selected_tokens: int, confidence: float) -> Headline:
    """The headline of a selection and of what was trained on it and its rivals.

    Args:
        strategy_losses: ``strategy_losses`` of this selection and its rivals, rows of one setting; may be empty.
        selected_tokens: tokens of the selection.
        confidence: level of the intervals.
    """
    finals = plots.final_losses(strategy_losses)
    trained = finals.filter(pl.col("strategy") == SELECTED)["tokens"].to_list()
    base, _ = plots.base_losses(strategy_losses)
    return comparison.headline(
        losses_by_seed(finals), selected_tokens, max(trained) if trained else None, base, confidence
    )


def chosen_law(data: "ReportInput") -> dict[str, Any] | None:
    """The row of the form whose optimum is the target, or None where none was chosen."""
    return next(data.fitted_law.filter(pl.col("is_chosen")).iter_rows(named=True), None)


def facts(data: "ReportInput", head: Headline) -> list[Fact]:
    """The figures of the first screen, selection first, cost last."""
    row = data.selection.row(0, named=True)
    law = chosen_law(data)
    aimed = f"aimed at {perplexity(row['mu_target'])} and {perplexity(row['sigma_target'])}"
    predicted = Fact("Predicted at the optimum", "none", "no form of the law was chosen")
    if law is not None:
        interval = (
            f"{100 * data.confidence:g} %, if this form is right: {span(law['predicted_low'], law['predicted_high'])}"
        )
        predicted = Fact("Predicted at the optimum", number(law["predicted_loss"]), interval)
    return [
        Fact("Selected", f"{row['tokens']:,} tokens", f"{row['chunks']:,} chunks; budget {row['tokens_target']:,}"),
        Fact("Mean and spread of perplexity", f"{perplexity(row['mu'])} and {perplexity(row['sigma'])}", aimed),
        predicted,
        _measured(data, law),
        *(_gain_fact(gain) for gain in head.gains if gain.rival == RANDOM),
        _cost(data),
    ]


def _measured(data: "ReportInput", law: dict[str, Any] | None) -> Fact:
    """The measured loss of the selection, and whether it lies where it was predicted."""
    losses = plots.final_losses(data.strategy_losses).filter(pl.col("strategy") == SELECTED)["test_loss"]
    if not len(losses):
        return Fact("Measured test loss", "not yet", "train the strategies to know")
    mean = float(losses.mean())  # type: ignore[arg-type]
    seeds = f"mean of {len(losses)} seeds" if len(losses) > 1 else "one seed"
    if law is None or law["predicted_low"] is None or law["predicted_high"] is None:
        return Fact("Measured test loss", number(mean), f"{seeds}, nats a token")
    inside = law["predicted_low"] <= mean <= law["predicted_high"]
    return Fact(
        "Measured test loss", number(mean), f"{seeds}; {'inside' if inside else 'outside'} the prediction's interval"
    )


def _gain_fact(gain: Gain) -> Fact:
    """The gain over random, or the loss against it, as the reader's main figure."""
    mean = gain.difference.mean
    side = "lower" if mean > 0 else "higher"
    relative = f"test perplexity {abs(100.0 * math.expm1(-mean)):.1f}\N{NO-BREAK SPACE}% {side}"
    note = f"{relative}; {comparison.interval_text(gain.difference)}"
    return Fact(f"Gain over {plots.words(gain.rival)}", f"{comparison.nats(mean)} nats a token", note)


def _cost(data: "ReportInput") -> Fact:
    """What the trials cost, in tokens trained."""
    if data.trial_losses.is_empty():
        return Fact("Cost of the trials", "none", "no trial was run")
    runs = data.trial_losses.group_by("trial").agg(pl.col("tokens", "seconds").max())
    tokens, share = int(runs["tokens"].sum()), runs["tokens"].sum() / max(1, int(data.selection["tokens"][0]))
    return Fact(
        "Cost of the trials",
        f"{tokens:,} tokens",
        f"{len(runs)} runs, {share:.1f} times the selection; matched needs none",
    )


def gain_rows(head: Headline) -> list[GainRow]:
    """The comparison table, random and matched first, with intervals on one common scale that holds zero.

    The scale is made for random and matched: a rival far off (often lowest perplexity) would squeeze them to dots.
    """
    order = sorted(head.gains, key=lambda gain: (gain.rival != RANDOM, gain.rival != MATCHED, gain.rival))
    near = [gain for gain in order if gain.rival in {RANDOM, MATCHED}] or order
    ends = [0.0, *(end for gain in near for end in _ends(gain))]
    margin = 0.15 * (max(ends) - min(ends)) or 1.0
    low, high = min(ends) - margin, max(ends) + margin

    def place(value: float) -> float:
        return min(max(100.0 * (value - low) / (high - low), 0.0), 100.0)

    rows = []
    for gain in order:
        d = gain.difference
        start, end = _ends(gain)
        if d.n == 1:
            sure = "one seed: nothing is sure"
        elif not d.excludes_zero:
            sure = "not sure: includes zero"
        else:
            sure = "selection better" if d.mean > 0 else "selection worse"
        beyond = "right" if d.mean > high else "left" if d.mean < low else ""
        rows.append(GainRow(gain, place(start), place(end), place(d.mean), place(0.0), beyond, sure))
    return rows


def _ends(gain: Gain) -> tuple[float, float]:
    """Ends of a gain's interval; its mean twice where one seed gives none."""
    d = gain.difference
    return (d.mean, d.mean) if d.n == 1 else (d.low, d.high)


def reach_sentences(data: "ReportInput") -> list[str]:
    """How many tokens each side needs for the other's final loss, from the mean curves."""
    finished = plots.final_losses(data.strategy_losses).select("strategy", "seed")
    trained = data.strategy_losses.filter(pl.col("tokens") > 0).join(finished, on=["strategy", "seed"], how="semi")
    curves = trained.group_by("strategy", "tokens").agg(pl.col("test_loss").mean()).sort("tokens")
    mine, theirs = (curves.filter(pl.col("strategy") == name) for name in (SELECTED, RANDOM))
    if mine.is_empty() or theirs.is_empty():
        return []
    sentences = []
    pairs = (("The selection", mine, "random", theirs), ("Random", theirs, "the selection", mine))
    for name, curve, other, rival in pairs:
        target = float(rival["test_loss"][-1])
        tokens = comparison.tokens_to_reach(curve["tokens"], curve["test_loss"], target)
        goal = f"the loss at which {other} ends ({target:.3f} after {rival['tokens'][-1]:,} tokens)"
        if tokens is None:
            sentences.append(f"{name} does not reach {goal} within the {curve['tokens'][-1]:,} tokens measured.")
        elif tokens <= curve["tokens"][0]:
            sentences.append(f"{name} is past {goal} at its first measurement, {curve['tokens'][0]:,} tokens.")
        else:
            sentences.append(
                f"{name} reaches {goal} after about {round(tokens, 2 - len(str(int(tokens)))):,.0f} tokens."
            )
    return sentences


def strategy_rows(data: "ReportInput") -> list[dict[str, Any]]:
    """Final losses of each strategy, best first; diverged runs are counted, not averaged."""
    finals = plots.final_losses(data.strategy_losses)
    summary = finals.group_by("strategy").agg(
        pl.len().alias("seeds"),
        pl.col("test_loss", "general_loss", "predicted_loss", "mu", "sigma", "seconds").mean(),
        pl.col("test_loss").std().alias("seed_deviation"),
    )
    diverged = data.strategy_losses.group_by("strategy").agg(
        pl.col("seed").filter(pl.col("status") != "ok").n_unique().alias("diverged")
    )
    return diverged.join(summary, on="strategy", how="left").sort("test_loss", "strategy", nulls_last=True).to_dicts()


def cleaning_rows(data: "ReportInput") -> tuple[list[str], list[dict[str, Any]]]:
    """Outcomes in the order of their size, kept first; and a row per corpus with the documents of each."""
    counts = data.cleaning_counts
    totals = (
        counts.group_by("outcome").agg(pl.col("documents").sum()).sort("documents", "outcome", descending=[True, False])
    )
    outcomes = sorted(totals["outcome"].to_list(), key=lambda outcome: outcome != "kept")
    rows = []
    for (corpus,), group in counts.sort("corpus").group_by("corpus", maintain_order=True):
        documents: dict[str, int] = dict(group.group_by("outcome").agg(pl.col("documents").sum()).iter_rows())
        total = sum(documents.values())
        kept = 100.0 * documents.get("kept", 0) / total if total else 0.0
        characters = int(group.filter(pl.col("outcome") == "kept")["characters"].sum())
        rows.append(
            {"corpus": corpus, "documents": documents, "total": total, "kept_pct": kept, "characters": characters}
        )
    return outcomes, rows


def trial_rows(data: "ReportInput") -> list[dict[str, Any]]:
    """Design and outcome of every trial."""
    last = data.trial_losses.sort("tokens").group_by("trial", maintain_order=True).last()
    final = last.select("trial", "test_loss", "general_loss", "seconds", "status", pl.col("tokens").alias("seen"))
    return data.regimes.join(final, on="trial", how="left").sort("mu", "sigma", "trial").to_dicts()


def render(data: "ReportInput", images: Mapping[str, tuple[str, str]]) -> str:
    """The page as HTML; everything that comes from data is escaped.

    Args:
        data: the report's input.
        images: base64 PNG for a wide and for a narrow screen, by name of the chart; a chart that is not there is said
            to be missing.
    """
    loader = PackageLoader("ppl_assets.subset", "templates")
    environment = Environment(
        autoescape=True, loader=loader, lstrip_blocks=True, trim_blocks=True, undefined=StrictUndefined
    )
    environment.filters.update(
        number=number, perplexity=perplexity, words=plots.words, short=short, nats=comparison.nats
    )
    environment.globals.update(span=span, zip=zip)
    head = summarize(data)
    outcomes, cleaning = cleaning_rows(data)
    law = data.fitted_law.sort(~pl.col("is_chosen"), "loo_median_pct", "link", "form", nulls_last=True)
    return environment.get_template("page.html.j2").render(
        data=data,
        head=head,
        facts=facts(data, head),
        gains=gain_rows(head),
        reach=reach_sentences(data),
        chosen=chosen_law(data),
        law=law.to_dicts(),
        strategies=strategy_rows(data),
        findings=sorted(data.findings, key=lambda finding: finding.passed),
        landscape=data.landscape.to_dicts(),
        trials=trial_rows(data),
        outcomes=outcomes,
        cleaning=cleaning,
        base=data.base_model.to_dicts(),
        selection=data.selection.row(0, named=True),
        images=images,
    )
