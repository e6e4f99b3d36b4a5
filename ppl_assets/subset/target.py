"""From law to target: where the final subset should sit, and why there."""

from dataclasses import dataclass

from ppl_assets.errors import UserError
from ppl_assets.lake import Snapshot
from ppl_assets.law.checks import FULL_TRAINING
from ppl_assets.perplexity.candidates import current_scorer
from ppl_assets.tables import FITTED_LAW, LAW_FINDINGS, PERPLEXITY_LANDSCAPE


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


def choose_target(snapshot: Snapshot) -> ChosenTarget:
    """The chosen law's optimum; where there is none, the test set's own moments, which need no law.

    Raises:
        LakeError: no law was fitted yet.
        TargetError: the law speaks of another scorer's perplexities than the landscape.
    """
    row = snapshot.only_row(FITTED_LAW, {"is_chosen": True})
    fitted, current = law_scorer(snapshot), current_scorer(snapshot)
    if fitted != current:
        raise TargetError(
            f"the law was fitted to perplexities of scorer {fitted}, the landscape is of {current}: materialize "
            "regime_partitions, trial_losses and fitted_law first"
        )
    if row["mu_optimum"] is not None and row["sigma_optimum"] is not None:
        reason = " ".join([row["optimum_sentence"], *_screening(snapshot)])
        return ChosenTarget(row["mu_optimum"], row["sigma_optimum"], reason)
    moments = scope_moments(snapshot)
    mu, sigma = moments.get("test", moments["candidates"])
    whose = "the test set's own moments" if "test" in moments else "the corpus' own moments"
    return ChosenTarget(
        mu, sigma, f"{row['optimum_sentence']} The subset is matched to {whose} instead, which needs no law."
    )


def _screening(snapshot: Snapshot) -> list[str]:
    """What the law says of itself where it was fitted to losses of adapters; nothing else."""
    found = snapshot.read(LAW_FINDINGS, where={"name": FULL_TRAINING})
    return [row["sentence"] for row in found.iter_rows(named=True) if not row["passed"]]
