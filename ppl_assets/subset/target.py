"""From law to target: where the final subset should sit, and why there."""

from dataclasses import dataclass

import polars as pl

from ppl_assets.lake import Snapshot
from ppl_assets.tables import FITTED_LAW, PERPLEXITY_LANDSCAPE


@dataclass(frozen=True)
class ChosenTarget:
    """The moments aimed at.

    Attributes:
        mu: mean perplexity.
        sigma: standard deviation of perplexity.
        reason: where they come from, in one sentence.
    """

    mu: float
    sigma: float
    reason: str


def scope_moments(snapshot: Snapshot) -> dict[str, tuple[float, float]]:
    """Mean and deviation of every scope of the landscape."""
    rows = snapshot.read(PERPLEXITY_LANDSCAPE, ["scope", "mean", "deviation"])
    return {row["scope"]: (row["mean"], row["deviation"]) for row in rows.iter_rows(named=True)}


def choose_target(snapshot: Snapshot) -> ChosenTarget:
    """The chosen law's optimum; where there is none, the test set's own moments, which need no law."""
    row = snapshot.read(FITTED_LAW).filter(pl.col("is_chosen")).row(0, named=True)
    if row["mu_optimum"] is not None and row["sigma_optimum"] is not None:
        return ChosenTarget(row["mu_optimum"], row["sigma_optimum"], row["optimum_sentence"])
    moments = scope_moments(snapshot)
    mu, sigma = moments.get("test", moments["candidates"])
    whose = "the test set's own moments" if "test" in moments else "the corpus' own moments"
    return ChosenTarget(
        mu, sigma, f"{row['optimum_sentence']} The subset is matched to {whose} instead, which needs no law."
    )
