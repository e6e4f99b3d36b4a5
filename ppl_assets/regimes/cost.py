"""What trials cost, said before the first is trained: tokens, and device time as far as speed was measured."""

import math
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

SPEED_SLACK = 0.2
"""Share of trials.max_hours by which the trials of a design that is begun may pass it, so that noise in the speed does
not strand it: of two like steps in turn on a crowded machine one takes 0.88 to 1.13 times the other (quartiles).
"""


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
        is_begun: a trial was trained since the present design was made and checked.
    """

    trials: int
    trained: int
    evaluated: int
    seconds: float | None
    source: str
    is_begun: bool = False

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
        time = "device time unknown" if self.seconds is None else f"about {duration(self.seconds)}"
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

    Training that is done counts with the seconds that it took, everything else at the present speed.

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
    is_begun = _is_begun(snapshot, rows)
    if speed is None:
        source = "nothing was scored or trained on this device yet, so no speed is known"
        return TrialCost(rows.height, trained, evaluated, None, source, is_begun)
    done = _measured_runs(study, snapshot).filter(pl.col("trial").is_in(rows["trial"].to_list()), pl.col("is_whole"))
    left = trained - int(rows.filter(pl.col("trial").is_in(done["trial"].to_list()))["tokens"].sum())
    seconds = float(done["seconds"].sum()) + left / speed.training + evaluated / speed.scoring
    return TrialCost(rows.height, trained, evaluated, seconds, speed.source, is_begun)


def _is_begun(snapshot: Snapshot, trials: pl.DataFrame) -> bool:
    """Whether one of these trials was trained after the present design, under its present budget, was written."""
    designed, commits = snapshot.latest("regime_partitions"), snapshot.commits("trial_losses")
    ours = [commits[trial].snapshot for trial in trials["trial"] if trial in commits]
    return designed is not None and max(ours, default=-1) > designed.snapshot


def _measured_runs(study: Study, snapshot: Snapshot) -> pl.DataFrame:
    """Tokens and training seconds of every trial's newest run of the present model on the study's device.

    A run that diverged is not whole: it says how fast training is, and not how long a trial takes.
    """
    model_id, device = stored_base_model(snapshot).model_id, resolve_device(study.study.device)
    facts = [commit.facts for commit in snapshot.commits("trial_losses").values()]
    ours = [fact for fact in facts if fact.get("model_id") == model_id and fact.get("device") == device]
    where = {"trial_fingerprint": [fact["trial_fingerprint"] for fact in ours]}
    columns = ["trial", "trial_fingerprint", "tokens", "seconds", "status"]
    return (
        snapshot.read(TRIAL_LOSSES, columns, where)
        .group_by("trial_fingerprint")
        .agg(
            pl.col("trial").first(),
            pl.col("tokens", "seconds").max(),
            (pl.col("status") == "ok").all().alias("is_whole"),
        )
    )


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
    last = _measured_runs(study, snapshot)
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
    """Why these trials may not be run, in one sentence; empty where they may.

    Tokens are counted, so their limit is exact. Hours are an estimate: before the first trial of a design it has to
    stay within trials.max_hours, after that within so much more as :data:`SPEED_SLACK` says.
    """
    trials = study.trials
    keys = ["trials.tokens", "trials.points", "regimes.grid"] + ["trials.decay_branches"] * (trials.decay_branches > 0)
    held_out = "held_out.test_tokens and held_out.general_tokens, "
    remedy = f"lower {held_out if cost.evaluated > cost.trained else ''}{', '.join(keys)} or regimes.repeats"
    if trials.max_tokens is not None and cost.tokens > trials.max_tokens:
        return (
            f"trials.max_tokens = {trials.max_tokens:,}, but the {cost.trials} trials take {cost.tokens:,} tokens "
            f"({cost.trained:,} trained, {cost.evaluated:,} evaluated): raise it to {cost.tokens:,}, or {remedy}"
        )
    if trials.max_hours is not None and cost.hours is not None:
        most, needed = trials.max_hours * (1.0 + SPEED_SLACK * cost.is_begun), _rounded_up(cost.hours)
        if cost.hours > most:
            return (
                f"trials.max_hours = {trials.max_hours:g}, but the {cost.trials} trials take about {needed:g} device "
                f"hours ({cost.source}): raise it to {needed:g}, or {remedy}"
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


def _rounded_up(hours: float) -> float:
    """To three digits, upwards: who sets it as the limit is within it."""
    if hours <= 0.0:
        return 0.0
    digits = 2 - math.floor(math.log10(hours))
    return math.ceil(hours * 10.0**digits) / 10.0**digits


def duration(seconds: float) -> str:
    """Seconds as a person reads them."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
