"""The command-line run: every stage in order, in one process, skipping what its inputs already made.

It runs the same jobs as the UI, in the same Dagster instance, so that a run from here is seen there.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContext
from dagster_shared.error import SerializableErrorInfo
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ppl_assets import progress
from ppl_assets.automation.instance import LAUNCHER_TAG, this_process
from ppl_assets.automation.jobs import LOOP, STAGE_JOBS
from ppl_assets.automation.plan import partitions_of, pending, remark
from ppl_assets.errors import UserError
from ppl_assets.failures import DeviceLostError, machine_failure
from ppl_assets.resources import Platform

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
"""Dagster's own console log would drown the progress display; the run's log is in the UI."""


BELOW_FILES = ("test_documents", "base_model")
"""Assets of which Dagster says that they depend on all files, while a new corpus moves neither."""


class RunError(UserError):
    """A stage failed; the message is the sentence to show.

    Attributes:
        ends_process: whether nothing more can be computed in this process: its GPU is lost.
    """

    ends_process = False


@dataclass
class StageOutcome:
    """What happened to one asset: how many partitions were computed, and how many did not have to be."""

    asset: str
    computed: int = 0
    unchanged: int = 0
    seconds: float = 0.0

    def add(self, other: "StageOutcome") -> None:
        """Count another round of the same stage in; what did not have to be computed is that of the last round."""
        self.computed += other.computed
        self.unchanged = other.unchanged
        self.seconds += other.seconds

    def sentence(self) -> str:
        """One line for the terminal."""
        work = {"perplexity_scores": "scored", "trial_losses": "trained", "strategy_losses": "trained"}.get(
            self.asset, "computed"
        )
        if not self.computed:
            return f"unchanged: nothing {work}" + (f" ({self.unchanged} partitions)" if self.unchanged > 1 else "")
        counts = f"{self.computed} partitions, " if self.computed + self.unchanged > 1 else ""
        kept = f"{self.unchanged} unchanged, " if self.unchanged else ""
        return f"{counts}{kept}{self.seconds:.1f} s"


class Display:
    """Where the run is: one line a finished stage, and a live line for the stage at work."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.fields[stage]:<32}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._stage = ""
        self._task = self._bar.add_task("", stage="", state="", total=None)
        self._plain = progress.every(
            10.0, lambda sentence: console.print(f"    {self._stage}: {sentence}", highlight=False)
        )

    def begin(self, stage: str) -> None:
        """Show that a stage, or one partition of it, is at work."""
        self._stage = stage
        self._bar.reset(self._task, total=None, stage=stage, state="")

    def listen(self, state: progress.Progress) -> None:
        """Show progress within the stage; a line every ten seconds where the output is no terminal."""
        if not self.console.is_terminal:
            self._plain(state)
            return
        self._bar.update(self._task, completed=state.done, total=state.total, state=state.sentence())

    def __enter__(self) -> "Display":
        if self.console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def run_study(
    definitions: dg.Definitions, platform: Platform, instance: dg.DagsterInstance, console: Console
) -> list[StageOutcome]:
    """Bring every asset of the study up to date and say what was done.

    In sequential mode the stages of ``LOOP`` are repeated until no more trials are proposed.

    Raises:
        RunError: a stage failed, or a corpus could not be read; what was finished stays, and the next run goes on from
            there.
    """
    with Display(console) as display, progress.listening(display.listen):
        display.begin("raw_corpus")
        unread = _observe(definitions, platform, instance)

        def stage(outcome: StageOutcome) -> StageOutcome:
            return _stage(definitions, platform, instance, display, outcome)

        outcomes = {asset: StageOutcome(asset) for asset in STAGE_JOBS}
        try:
            for asset, outcome in outcomes.items():
                done = stage(outcome)
                while asset == LOOP[-1] and done.computed and _is_due(platform, instance):
                    for again in LOOP:
                        done = stage(outcomes[again])
        except RunError as error:
            if unread:
                raise RunError(f"{unread}\n{error}") from error
            raise
    if unread:
        raise unread
    return list(outcomes.values())


def _observe(definitions: dg.Definitions, platform: Platform, instance: dg.DagsterInstance) -> RunError | None:
    """Look at the corpora; what is wrong with some of them, which keeps the others from nothing."""
    try:
        execute(definitions, platform, instance, "observe_corpora", None)
    except RunError as error:
        return error
    return None


def _stage(
    definitions: dg.Definitions, platform: Platform, instance: dg.DagsterInstance, display: Display, whole: StageOutcome
) -> StageOutcome:
    """Bring one asset up to date, say what was done, add it to the ``whole`` and return this round of it.

    Raises:
        RunError: a partition failed.
    """
    asset, console = whole.asset, display.console
    outcome, failures, started = StageOutcome(asset), [], time.monotonic()
    for partition in _partitions(asset, platform, instance, outcome):
        display.begin(f"{asset} {partition}".strip())
        try:
            execute(definitions, platform, instance, STAGE_JOBS[asset].name, partition)
        except RunError as error:  # one broken corpus or trial does not keep the others from their turn
            failures.append(str(error))
            if error.ends_process:
                break
        else:
            outcome.computed += 1
    if failures:
        raise RunError("\n".join(failures))
    if asset in BELOW_FILES and not outcome.computed and _is_unsynced(asset, definitions, instance):
        execute(definitions, platform, instance, STAGE_JOBS[asset].name, None)
    outcome.seconds = time.monotonic() - started
    number = list(STAGE_JOBS).index(asset) + 1
    console.print(f"[bold]{number:>2}/{len(STAGE_JOBS)}[/] {asset:<22} {outcome.sentence()}", highlight=False)
    if said := remark(asset, platform):
        console.print(f"      {said}", highlight=False, markup=False)
    whole.add(outcome)
    return outcome


class _Loading(LoadingContext):
    """What Dagster's own resolver reads the instance through."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance, self._loaders = instance, dict[type, Any]()

    @property
    def instance(self) -> dg.DagsterInstance:
        """The study's."""
        return self._instance

    @property
    def loaders(self) -> dict[type, Any]:
        """Of what was asked for so far."""
        return self._loaders


def _is_unsynced(asset: str, definitions: dg.Definitions, instance: dg.DagsterInstance) -> bool:
    """Whether the UI calls an asset unsynced that has nothing to compute: files changed that it does not depend on."""
    resolver = CachingStaleStatusResolver(instance, definitions.resolve_asset_graph(), _Loading(instance))
    return resolver.get_status(dg.AssetKey(asset)) == StaleStatus.STALE


def _is_due(platform: Platform, instance: dg.DagsterInstance) -> bool:
    """Whether a trial, the law or the next proposal has to be computed: a batch was proposed, or dropped."""
    return any(
        pending(asset, partition, platform, instance)
        for asset in LOOP
        for partition in partitions_of(asset, platform, instance)
    )


def _partitions(asset: str, platform: Platform, instance: dg.DagsterInstance, outcome: StageOutcome) -> Iterator[str]:
    """The partitions of an asset that have to be computed; the others are counted as unchanged."""
    for partition in partitions_of(asset, platform, instance):
        if pending(asset, partition, platform, instance):
            yield partition
        else:
            outcome.unchanged += 1


def execute(
    definitions: dg.Definitions,
    platform: Platform,
    instance: dg.DagsterInstance,
    job: str,
    partition: str | None,
    tags: Mapping[str, str] | None = None,
) -> dg.ExecuteInProcessResult:
    """Run one job in this process.

    Raises:
        RunError: a step failed, or a blocking check did, or the history could not be written.
    """
    where = f"{job} {partition or ''}".strip()
    try:
        result = definitions.resolve_job_def(job).execute_in_process(
            instance=instance,
            partition_key=partition or None,
            run_config=QUIET,
            raise_on_error=False,
            tags={LAUNCHER_TAG: this_process(), **(tags or {})},
        )
    except Exception as error:  # of Dagster's own storage: a step's error is in its result
        failure = machine_failure(error, job, platform.root)
        if failure is None:
            raise
        raise RunError(f"{where}: {failure}") from error
    failed = [
        evaluation
        for evaluation in result.get_asset_check_evaluations()
        if not evaluation.passed and evaluation.blocking and evaluation.severity == dg.AssetCheckSeverity.ERROR
    ]
    for evaluation in failed:
        raise RunError(f"{where}: blocking check {evaluation.check_name} failed: {evaluation.description}")
    if not result.success:
        if _was_interrupted(result):
            raise KeyboardInterrupt
        kind, cause = cause_of(result)
        failed_run = RunError(
            f"{where}: {cause.rstrip('.')}. The stack trace is in the UI under run {result.run_id[:8]}."
        )
        failed_run.ends_process = kind == DeviceLostError.__name__
        raise failed_run
    return result


def _was_interrupted(result: dg.ExecuteInProcessResult) -> bool:
    """Whether the run ended because somebody pressed Ctrl-C or ended the process, not because a step failed."""
    errors = [event.step_failure_data.error for event in result.all_events if event.is_step_failure]
    return any(error and error.cls_name == "DagsterExecutionInterruptedError" for error in errors)


def cause_of(result: dg.ExecuteInProcessResult) -> tuple[str, str]:
    """Class and sentence of the error that a step raised."""
    for event in result.all_events:
        if event.is_step_failure and event.step_failure_data.error:
            return innermost(event.step_failure_data.error)
    return "", "the run failed."


def innermost(error: SerializableErrorInfo) -> tuple[str, str]:
    """Class and sentence of a step's own error: Dagster wraps it, and it may have causes of its own."""
    while error.cause and (error.cls_name or "").startswith(("Dagster", "RetryRequested")):
        error = error.cause
    return error.cls_name or "", error.message.strip().partition(": ")[2] or error.message.strip()
