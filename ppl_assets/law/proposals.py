"""The sequential mode on a study: from the lake to a decision, and from its picks to trials that can be run.

Belongs here: what ``next_trials`` decides and draws. Does not belong here: the value of a trial (``sequential.py``).
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from ppl_assets.lake import Snapshot
from ppl_assets.law.law_rows import observations
from ppl_assets.law.observations import FloatArray, measured_noise
from ppl_assets.law.predictions import reachable_at
from ppl_assets.law.region import Reachable, SearchRegion
from ppl_assets.law.sequential import Pick, SequentialStep, StopRule, next_step
from ppl_assets.regimes.cost import affordable, budget_problem, cost_of_trials
from ppl_assets.regimes.design import Regime, Trial, build_trials, open_places
from ppl_assets.regimes.pool import Pool, trial_rows
from ppl_assets.regimes.reachable import ReachableRegion
from ppl_assets.regimes.stored import all_trials, design, design_version, proposals
from ppl_assets.study import Study
from ppl_assets.tables import FITTED_LAW, NEXT_TRIALS, SEQUENTIAL_STEPS

LEVELS = 9
"""Levels a side of the grid between the design's faces: 81 places, the design's 3 x 3 among them."""

EVERY = 4
"""Every fourth point a side of the region searched may be a place: 16 levels over the hull, some 150 inside it."""

SAME = 1e-6
"""Relative distance below which two regimes are one place."""

NEAR = 0.03
"""Nearer than this in log units, 3 %, to a place that is offered already, a place of the hull is not offered too."""


@dataclass(frozen=True, eq=False)
class Decision:
    """What was decided.

    Attributes:
        status: fixed, waiting, or that of the sequential step.
        sentence: why, in plain words.
        trials: the new trials, drawn and ordered; empty unless the status is propose.
        step: the sequential step; None where none was made.
    """

    status: str
    sentence: str
    trials: tuple[Trial, ...] = ()
    step: SequentialStep | None = None


FIXED = Decision("fixed", "trials.mode = 'fixed': the design's trials are all, and nothing is proposed.")


def decide(
    study: Study, snapshot: Snapshot, losses: pl.DataFrame, pool: Pool, tokens: int, prefixes: list[int]
) -> Decision:
    """Propose a batch, wait for trials that were not run yet, or stop; also where the budget pays for those no more.

    Args:
        study: the study, in sequential mode.
        snapshot: the lake, with a fitted law.
        losses: comparable trial losses.
        pool: the candidates.
        tokens: the selection's tokens, at which the optimum is sought.
        prefixes: token counts at which a trial is measured.
    """
    asked = all_trials(snapshot)
    unmeasured = asked.filter(~pl.col("trial").is_in(losses["trial"].unique().to_list()))
    if unmeasured.height:
        names = ", ".join(unmeasured["trial"].head(4)) + (", ..." if unmeasured.height > 4 else "")
        sentence = f"{unmeasured.height} of {asked.height} trials are not measured yet"
        if problem := budget_problem(study, cost_of_trials(study, snapshot, asked)):
            return Decision("budget_spent", f"{sentence} ({names}), and the budget no longer pays for them: {problem}.")
        return Decision("waiting", f"{sentence}: materialize them first ({names}).")
    obs = observations(losses, asked.select("trial", "regime"))
    region = SearchRegion.of(obs, reachable_at(pool, study.selection.of_each_copy(tokens), study.regimes.inside))
    grid = open_places(
        ReachableRegion.at_share(pool.candidates, study.trials.tokens),
        study.regimes.inside,
        LEVELS,
        study.regimes.quantiles,
    )
    law = snapshot.only_row(FITTED_LAW, {"is_chosen": True})
    further = None if law["further_mu"] is None else (law["further_mu"], law["further_sigma"])
    reachable = reachable_at(pool, study.trials.tokens, study.regimes.inside)
    step = next_step(
        obs,
        region,
        candidate_places(asked, grid, region, reachable, further),
        prefixes,
        float(tokens),
        batch=study.trials.batch,
        affordable=affordable(study, cost_of_trials(study, snapshot, asked)),
        rule=StopRule(study.trials.stop_regret_pct, study.trials.stop_location_pct),
        recommended=None if law["mu_optimum"] is None else (law["mu_optimum"], law["sigma_optimum"]),
        noise_pct=measured_noise(obs),
        seed=study.study.seed,
    )
    if step.is_over:
        return Decision(step.status, step.sentence, step=step)
    regimes = _regimes(step.picks, grid, asked)
    trials = build_trials(pool.candidates, regimes, study.trials.tokens, study.study.seed, prefixes)
    return Decision(step.status, step.sentence, tuple(trials), step)


def proposed_rows(snapshot: Snapshot, decision: Decision, pool: Pool) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows of ``proposed_regimes`` and ``next_trials`` after a decision.

    Earlier proposals for the present design stay and the new ones follow them; in fixed mode none stay.
    """
    kept, version = proposals(snapshot), design_version(snapshot)
    members = snapshot.read(NEXT_TRIALS, where={"design_version": version})
    if decision.status == FIXED.status:
        return kept.clear(), members.clear()
    if not decision.trials:
        return kept, members
    number = int(kept["batch"].max() or 0) + 1  # type: ignore[arg-type]
    mark = {"batch": pl.lit(number, pl.Int64), "design_version": pl.lit(version)}
    regimes, drawn = (rows.with_columns(**mark) for rows in trial_rows(decision.trials, pool))
    return pl.concat([kept, regimes.select(kept.columns)]), pl.concat([members, drawn.select(members.columns)])


def step_rows(study: Study, snapshot: Snapshot, decision: Decision, proposed: pl.DataFrame) -> pl.DataFrame:
    """Rows of ``sequential_steps``: the decisions on the present design, the newest last.

    Args:
        study: the study.
        snapshot: the lake.
        decision: the newest.
        proposed: ``proposed_regimes`` after it.
    """
    version, designed = design_version(snapshot), design(snapshot)
    history = snapshot.read(SEQUENTIAL_STEPS, where={"design_version": version}).sort("step")
    asked = pl.concat([designed, proposed.select(designed.columns)])
    known = decision.step.knowledge if decision.step else None
    row = {
        "step": history.height + 1,
        "status": decision.status,
        "sentence": decision.sentence,
        "trials": asked.height,
        "tokens": cost_of_trials(study, snapshot, asked).tokens,
        "proposed": len(decision.trials),
        "mu": known.mu if known else None,
        "mu_low": known.mu_interval[0] if known else None,
        "mu_high": known.mu_interval[1] if known else None,
        "sigma": known.sigma if known else None,
        "sigma_low": known.sigma_interval[0] if known else None,
        "sigma_high": known.sigma_interval[1] if known else None,
        "regret_pct": known.regret_pct if known else None,
        "regret_bound_pct": known.regret_bound_pct if known else None,
        "forms": "; ".join(f"{name} {weight:.2f}" for name, weight in known.forms) if known else "",
        "design_version": version,
    }
    return pl.concat([history, pl.DataFrame([row], schema=pl.Schema(SEQUENTIAL_STEPS.schema))])


def candidate_places(
    asked: pl.DataFrame,
    grid: list[Regime],
    region: SearchRegion,
    reachable: Reachable,
    further: tuple[float, float] | None = None,
) -> FloatArray:
    """[c, 2] (mu, sigma) at which a further trial may be run.

    Wherever the optimum is looked for a trial can be put: the hull of the trials holds the anchors, which may lie
    outside the design's faces.

    Args:
        asked: all trials asked for so far, the anchors among them: each place may be repeated.
        grid: places between the design's faces.
        region: where the optimum is looked for.
        reachable: what a trial can have.
        further: the trial that would settle an optimum on the edge, if there is one.
    """
    inner = region.cells[::EVERY, ::EVERY]
    u, v = np.meshgrid(*(axis[::EVERY] for axis in region.axes), indexing="ij")
    hull = [(float(np.exp(a)), float(np.exp(b))) for a, b in zip(u[inner], v[inner], strict=True)]
    beyond = [further] if further else []
    new = [place for place in (*hull, *beyond) if bool(np.asarray(reachable(*np.array(place).reshape(2, 1)))[0])]
    offered: list[tuple[float, float]] = []
    for places, distance in (
        (asked.select("mu_target", "sigma_target").iter_rows(), SAME),
        (((place.mu, place.sigma) for place in grid), SAME),
        (new, NEAR),
    ):
        for mu, sigma in places:
            if all(np.hypot(np.log(mu / a), np.log(sigma / b)) > distance for a, b in offered):
                offered.append((mu, sigma))
    return np.array(offered).reshape(-1, 2)


def _regimes(picks: tuple[Pick, ...], grid: list[Regime], asked: pl.DataFrame) -> list[Regime]:
    """The picks as regimes: one at a place that has trials already repeats it, with the next seed.

    A new place off the grid is named by its number among all trials asked for, so that no two places share a name.
    """
    known = [
        Regime(name, mu, sigma) for name, mu, sigma in asked.select("regime", "mu_target", "sigma_target").iter_rows()
    ]
    chosen: list[Regime] = []
    for pick in picks:
        there = [regime for regime in (*known, *chosen) if _is_at(regime, pick)]
        number = f"place-{len(known) + len(chosen) + 1}"
        name = next((regime.name for regime in (*there, *grid) if _is_at(regime, pick)), number)
        chosen.append(Regime(name, pick.mu, pick.sigma, replicate=len(there)))
    return chosen


def _is_at(regime: Regime, pick: Pick) -> bool:
    return bool(np.allclose([regime.mu, regime.sigma], [pick.mu, pick.sigma], rtol=SAME, atol=0.0))
