"""From law to target: where the final subset should sit, and why there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from ppl_assets.errors import UserError
from ppl_assets.lake import Snapshot
from ppl_assets.law.checks import BELIEVED, FULL_TRAINING
from ppl_assets.perplexity.candidates import current_scorer
from ppl_assets.tables import FITTED_LAW, LAW_FINDINGS, PERPLEXITY_LANDSCAPE

SAME = 1e-3
"""Relative distance below which moments are the corpus' own."""


class TargetError(UserError, ValueError):
    """The law cannot say where the subset should sit; the message says why and what to do."""


@dataclass(frozen=True)
class ChosenTarget:
    """The moments aimed at.

    Attributes:
        mu: mean perplexity.
        sigma: standard deviation of perplexity.
        reason: where they come from, in a sentence; a second one where the law is not one of full training.
    """

    mu: float
    sigma: float
    reason: str


def scope_moments(snapshot: Snapshot) -> dict[str, tuple[float, float]]:
    """Mean and deviation of every scope of the landscape."""
    rows = snapshot.read(PERPLEXITY_LANDSCAPE, ["scope", "mean", "deviation"])
    return {row["scope"]: (row["mean"], row["deviation"]) for row in rows.iter_rows(named=True)}


def law_scorer(snapshot: Snapshot) -> str:
    """The scorer of the perplexities that the newest law was fitted to."""
    commit = snapshot.latest("fitted_law")
    return commit.facts.get("scorer_id", "unknown") if commit else "unknown"


def choose_target(
    snapshot: Snapshot, aim: Literal["nearest_as_good", "optimum", "matched"] = "nearest_as_good"
) -> ChosenTarget:
    """Where the chosen law puts the subset; where it cannot say, the test set's own moments, which need no law.

    Args:
        snapshot: the lake.
        aim: the place as good as the optimum that is nearest the corpus, if the law predicts better than tokens alone
            and better than chance and its optimum promises little that no trial has shown; the optimum, whatever
            the law is worth; or the test set's own moments, whatever the law says.

    Raises:
        LakeError: no law was fitted yet.
        TargetError: the law speaks of another scorer's perplexities than the landscape.
    """
    if aim == "matched":
        mu, sigma, whose = _without_law(snapshot)
        return ChosenTarget(mu, sigma, f"The subset is matched to {whose}, as asked for (selection.aim = 'matched').")
    row = snapshot.only_row(FITTED_LAW, {"is_chosen": True})
    fitted, current = law_scorer(snapshot), current_scorer(snapshot)
    if fitted != current:
        raise TargetError(
            f"the law was fitted to perplexities of scorer {fitted}, the landscape is of {current}: materialize "
            "regime_partitions, trial_losses and fitted_law first"
        )
    moments, said = scope_moments(snapshot), [row["optimum_sentence"], *_failed(snapshot, [FULL_TRAINING])]
    doubts = _failed(snapshot, BELIEVED) if aim != "optimum" else []
    if row["mu_optimum"] is None or row["sigma_optimum"] is None or doubts:
        mu, sigma, whose = _without_law(snapshot)
        said += [*doubts, f"The subset is matched to {whose} instead, which needs no law."]
        return ChosenTarget(mu, sigma, " ".join(said))
    if aim == "optimum" or row["as_good_mu"] is None:
        return ChosenTarget(row["mu_optimum"], row["sigma_optimum"], " ".join(said))
    mu, sigma, cost = row["as_good_mu"], row["as_good_sigma"], row["as_good_cost_pct"]
    is_corpus = np.allclose((mu, sigma), moments["candidates"], rtol=SAME)
    what = "the corpus' own moments are" if is_corpus else "the place nearest to the corpus' own moments is"
    said.append(
        f"Aimed at is mean {mu:.4g} and deviation {sigma:.4g} instead: {what} as good to within the noise, at "
        f"{cost:.2f} % of predicted loss (selection.aim = 'optimum' takes the optimum)."
    )
    if is_corpus:
        said.append("So the subset is a sample like the corpus: these trials do not show that choosing helps.")
    return ChosenTarget(mu, sigma, " ".join(said))


def _without_law(snapshot: Snapshot) -> tuple[float, float, str]:
    """Moments that need no law, and whose they are."""
    moments = scope_moments(snapshot)
    if "test" in moments:
        return *moments["test"], "the test set's own moments"
    return *moments["candidates"], "the corpus' own moments"


def _failed(snapshot: Snapshot, names: Sequence[str]) -> list[str]:
    """The sentences of these findings of the law where they failed."""
    rows = snapshot.read(LAW_FINDINGS, where={"passed": False}).filter(pl.col("name").is_in(list(names)))
    return rows["sentence"].to_list()
