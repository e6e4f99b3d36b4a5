"""What the command line prints at the end of a run, and the lineage of a selected chunk."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from ppl_assets.automation.run import StageOutcome
from ppl_assets.lake import Lake
from ppl_assets.resources import Platform
from ppl_assets.tables import FITTED_LAW, SELECTION_REPORT, SELECTIONS, STRATEGY_LOSSES

LINEAGE_QUERY = Path(__file__).resolve().parents[1] / "lineage.sql"
"""The documented query from a selected chunk back to run, code, model and corpus version."""


def summary(platform: Platform, outcomes: Sequence[StageOutcome], seconds: float) -> str:
    """The selection's summary, where everything lies, and how to open the UI."""
    snapshot = platform.lake.snapshot()
    selection = snapshot.read(SELECTIONS).row(0, named=True)
    law = snapshot.read(FITTED_LAW).filter(pl.col("is_chosen")).row(0, named=True)
    report = snapshot.read(SELECTION_REPORT).row(0, named=True)
    losses = snapshot.read(STRATEGY_LOSSES, where={"strategy": platform.study.strategies.names})
    option = "" if platform.study_file.name == "study.toml" else f" STUDY={_shown(platform.study_file)}"
    computed = sum(outcome.computed for outcome in outcomes)
    work = (
        f"{computed} asset partitions computed"
        if computed
        else "nothing had changed: nothing was scored, nothing trained"
    )
    lines = [
        "",
        f"[bold]Selection {selection['selection_id']}[/]",
        f"  {report['headline']}",
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
        f"  report     {report['path']}",
        f"  UI         make ui{option}",
        "",
        f"{work}; {seconds:.0f} s.",
    ]
    return "\n".join(lines)


def _left_out(error_pct: float | None) -> str:
    return "" if error_pct is None else f"; leave-one-run-out error {error_pct:.2f} % (median)"


def _shown(path: Path) -> str:
    """The path relative to the working directory, where it lies below it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _strategy_lines(losses: pl.DataFrame) -> list[str]:
    last = losses.sort("point").group_by("strategy", "seed").last()
    means = last.group_by("strategy").agg(pl.col("test_loss").mean(), pl.len().alias("seeds")).sort("test_loss")
    return [f"  trained    {name:<11} test loss {loss:.4f} ({seeds} seeds)" for name, loss, seeds in means.iter_rows()]


def lineage_table(lake: Lake, chunk_id: str | None) -> str:
    """The lineage of a selected chunk, one fact a line.

    Raises:
        LookupError: no such chunk is selected.
    """
    lake.snapshot()
    with lake.cursor() as cursor:
        found = cursor.execute(LINEAGE_QUERY.read_text("utf-8"), {"chunk_id": chunk_id}).pl()
    if found.is_empty():
        raise LookupError(
            f"chunk {chunk_id!r} is not in final_subset; take a chunk_id from it (make sql), or leave it out"
        )
    row = found.row(0, named=True)
    width = max(len(name) for name in row)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in row.items())
