"""What trials cost, said before the first is trained: tokens, and device time as far as speed was measured."""

from dataclasses import dataclass

import polars as pl

from ppl_assets.lake import Snapshot
from ppl_assets.perplexity.device import resolve_device
from ppl_assets.perplexity.held_out import held_out_chunks
from ppl_assets.perplexity.stored import stored_base_model, study_policy
from ppl_assets.regimes.stored import all_trials
from ppl_assets.regimes.token_counts import branch_token_counts, measured_token_counts
from ppl_assets.study import Study
from ppl_assets.tables import SCORERS, TRIAL_LOSSES

BACKWARD = 3.0
"""A training step costs three forward passes: one forward, two for the gradients of states and of weights."""


@dataclass(frozen=True)
class Speed:
    """Tokens per second, and where they were measured.

    Attributes:
        training: tokens a second of a training step.
        scoring: tokens a second of an evaluation.
        source: in words.
    """

    training: float
    scoring: float
    source: str


@dataclass(frozen=True)
class TrialCost:
    """What a number of trials costs at most.

    Attributes:
        trials: their number.
        trained: tokens trained on, those of decay branches too.
        evaluated: held-out tokens scored, at every measurement, after every branch and before any training.
        seconds: of the device; None where no speed was measured.
        source: where the speed comes from, or that there is none.
    """

    trials: int
    trained: int
    evaluated: int
    seconds: float | None
    source: str

    @property
    def tokens(self) -> int:
        """Trained and evaluated."""
        return self.trained + self.evaluated

    @property
    def hours(self) -> float | None:
        """Device hours."""
        return None if self.seconds is None else self.seconds / 3600.0

    @property
    def sentence(self) -> str:
        """One line."""
        time = "device time unknown" if self.seconds is None else f"about {_duration(self.seconds)}"
        return (
            f"{self.trials} trials: {self.tokens:,} tokens ({self.trained:,} trained, {self.evaluated:,} evaluated), "
            f"{time} ({self.source})"
        )

    def times(self, trials: int) -> "TrialCost":
        """The cost of so many trials that cost as much as these on average."""
        share = trials / self.trials if self.trials else 0.0
        seconds = None if self.seconds is None else self.seconds * share
        return TrialCost(trials, round(self.trained * share), round(self.evaluated * share), seconds, self.source)


def cost_of_trials(study: Study, snapshot: Snapshot, trials: pl.DataFrame | None = None) -> TrialCost:
    """What the trials cost, trained already or not; all that are asked for now where none are given.

    Args:
        study: the study.
        snapshot: the lake.
        trials: rows of table ``regimes``.
    """
    rows = all_trials(snapshot) if trials is None else trials
    speed = measured_speed(study, snapshot)
    branches = [decay_branches(study, tokens) for tokens in rows["tokens"]]
    trained = int(rows["tokens"].sum()) + sum(map(sum, branches))
    measurements = sum(len(measured_prefixes(study)) + 1 + len(lengths) for lengths in branches)
    evaluated = measurements * evaluation_tokens(study, snapshot)
    if speed is None:
        source = "nothing was scored or trained on this device yet, so no speed is known"
        return TrialCost(rows.height, trained, evaluated, None, source)
    seconds = trained / speed.training + evaluated / speed.scoring
    return TrialCost(rows.height, trained, evaluated, seconds, speed.source)


def measured_prefixes(study: Study) -> list[int]:
    """Token counts at which a trial is measured."""
    trials = study.trials
    return measured_token_counts(trials.tokens, trials.batch_tokens, trials.span, trials.points)


def decay_branches(study: Study, tokens: int) -> list[int]:
    """Tokens of each decay branch of a trial of so many tokens."""
    trials = study.trials
    total, share = min(tokens, trials.tokens), trials.decay_share
    counts = branch_token_counts(measured_prefixes(study), total, trials.decay_branches, share)
    return [round(share * count) for count in counts]


def evaluation_tokens(study: Study, snapshot: Snapshot) -> int:
    """Held-out tokens of one measurement: test and general text."""
    corpora = study.corpus_partitions()
    wanted = {"test": study.held_out.test_tokens, "general": study.held_out.general_tokens}
    return sum(
        int(held_out_chunks(snapshot, split, corpora, tokens)["tokens"].list.len().sum())
        for split, tokens in wanted.items()
    )


def measured_speed(study: Study, snapshot: Snapshot) -> Speed | None:
    """Speed on the study's device: of earlier trials of the same model, else of the scorer, else unknown."""
    base, device = stored_base_model(snapshot), resolve_device(study.study.device)
    facts = [commit.facts for commit in snapshot.commits("trial_losses").values()]
    ours = [fact for fact in facts if fact.get("model_id") == base.model_id and fact.get("device") == device]
    names = [fact["trial_fingerprint"] for fact in ours]
    runs = snapshot.read(TRIAL_LOSSES, ["trial_fingerprint", "tokens", "seconds"], {"trial_fingerprint": names})
    last = runs.group_by("trial_fingerprint").agg(pl.col("tokens", "seconds").max())
    if last["seconds"].sum() > 0:
        training = float(last["tokens"].sum()) / float(last["seconds"].sum())
        return Speed(
            training, BACKWARD * training, f"{training:,.0f} tokens/s in {last.height} earlier trials, {device}"
        )
    where = {"scorer_id": study_policy(study, base).scorer_id, "device": device}
    scorer = snapshot.read(SCORERS, ["tokens_per_second"], where)["tokens_per_second"].drop_nulls()
    if scorer.is_empty() or scorer[0] <= 0:
        return None
    scoring = float(scorer[0])
    return Speed(scoring / BACKWARD, scoring, f"a third of the scorer's {scoring:,.0f} tokens/s, {device}")


def budget_problem(study: Study, cost: TrialCost) -> str:
    """Why these trials may not be run, in one sentence; empty where they may."""
    trials = study.trials
    keys = ["trials.tokens", "trials.points", "regimes.grid"] + ["trials.decay_branches"] * (trials.decay_branches > 0)
    remedy = f"lower {', '.join(keys)} or regimes.repeats"
    if trials.max_tokens is not None and cost.tokens > trials.max_tokens:
        return (
            f"trials.max_tokens = {trials.max_tokens:,}, but the {cost.trials} trials take {cost.tokens:,} tokens "
            f"({cost.trained:,} trained, {cost.evaluated:,} evaluated): raise it to {cost.tokens:,}, or {remedy}"
        )
    if trials.max_hours is not None and cost.hours is not None and cost.hours > trials.max_hours:
        return (
            f"trials.max_hours = {trials.max_hours:g}, but the {cost.trials} trials take about {cost.hours:.3g} device "
            f"hours ({cost.source}): raise it to {cost.hours:.3g}, or {remedy}"
        )
    return ""


def affordable(study: Study, cost: TrialCost) -> int | None:
    """Further trials that the budget pays for beside those of ``cost``; None: without limit.

    Args:
        study: the study.
        cost: of all trials asked for so far; at least one.
    """
    trials, each, limits = study.trials, cost.times(1), []
    if trials.max_tokens is not None:
        limits.append((trials.max_tokens - cost.tokens) / max(each.tokens, 1))
    if trials.max_hours is not None and cost.seconds and each.seconds:
        limits.append((3600.0 * trials.max_hours - cost.seconds) / each.seconds)
    return max(0, int(min(limits))) if limits else None


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
