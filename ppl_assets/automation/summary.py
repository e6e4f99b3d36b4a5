"""What the command line prints at the end of a run, and the lineage of a selected chunk."""

from collections.abc import Sequence

import polars as pl

from ppl_assets.automation.run import StageOutcome
from ppl_assets.lake import Lake
from ppl_assets.lineage import lineage_of
from ppl_assets.resources import Platform
from ppl_assets.study import study_option
from ppl_assets.subset.assets import trained_strategies
from ppl_assets.subset.report_page import headline_of, is_matched
from ppl_assets.tables import FITTED_LAW, PERPLEXITY_LANDSCAPE, SELECTION_REPORT, SELECTIONS, STRATEGY_LOSSES


def summary(platform: Platform, outcomes: Sequence[StageOutcome], seconds: float) -> str:
    """The selection's summary, where everything lies, and how to open the UI."""
    study, snapshot = platform.study, platform.lake.snapshot()
    selection = snapshot.only_row(SELECTIONS)
    law = snapshot.only_row(FITTED_LAW, {"is_chosen": True})
    report = snapshot.only_row(SELECTION_REPORT)
    trained = trained_strategies(study, platform.lake, snapshot)
    losses = snapshot.read(STRATEGY_LOSSES, where={"strategy": trained})
    stale = "" if report["selection_id"] == selection["selection_id"] else f" (of selection {report['selection_id']})"
    matched = is_matched(selection, snapshot.read(PERPLEXITY_LANDSCAPE))
    option = study_option(platform.study_file)
    computed = sum(outcome.computed for outcome in outcomes)
    work = (
        f"{computed} asset partitions computed"
        if computed
        else "nothing had changed: nothing was scored, nothing trained"
    )
    lines = [
        "",
        f"[bold]Selection {selection['selection_id']}[/]",
        f"  {headline_of(losses, selection['tokens'], study.law.confidence, is_matched=matched).text}",
        "",
        f"  subset     {selection['tokens']:,} tokens in {selection['chunks']:,} chunks",
        (
            f"  perplexity mean {selection['mu']:.4g} (target {selection['mu_target']:.4g}), "
            f"deviation {selection['sigma']:.4g} (target {selection['sigma_target']:.4g})"
        ),
        f"  law        {law['form']}, {law['link']} link{_left_out(law['loo_median_pct'])}",
        f"  optimum    {law['optimum_kind']}: {law['optimum_sentence']}",
        *_strategy_lines(losses),
        "",
        f"  exported   {selection['export_path']}",
        f"  report     {report['path']}{stale}",
        f"  UI         make ui{option}",
        "",
        f"{work}; {seconds:.0f} s.",
    ]
    return "\n".join(lines)


def _left_out(error_pct: float | None) -> str:
    return "" if error_pct is None else f"; leave-one-run-out error {error_pct:.2f} % (median)"


def _strategy_lines(losses: pl.DataFrame) -> list[str]:
    last = losses.sort("point").group_by("strategy", "seed").last()
    means = last.group_by("strategy").agg(pl.col("test_loss").mean(), pl.len().alias("seeds")).sort("test_loss")
    return [f"  trained    {name:<11} test loss {loss:.4f} ({seeds} seeds)" for name, loss, seeds in means.iter_rows()]


def lineage_table(lake: Lake, chunk_id: str | None) -> str:
    """The lineage of a selected chunk, one fact a line.

    Raises:
        LookupError: no such chunk is selected.
    """
    row = lineage_of(lake, chunk_id)
    width = max(len(name) for name in row)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in row.items())
