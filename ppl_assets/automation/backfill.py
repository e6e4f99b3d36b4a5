"""Backfill from the command line: one asset, any of its partitions, in one process, past whatever fails.

The UI's backfill gives each partition a process, which takes seconds to start; here two hundred small corpora pay that
once. Both run the same jobs, so each is seen by the other.
"""

import difflib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import dagster as dg
from rich.console import Console

from ppl_assets import progress
from ppl_assets.automation.broken import MAINTAINED, OBSERVED, broken_partitions, mending_command
from ppl_assets.automation.jobs import STAGE_JOBS, observe_corpora
from ppl_assets.automation.plan import partitions_of
from ppl_assets.automation.run import Display, RunError, execute
from ppl_assets.errors import UserError
from ppl_assets.resources import FORCE_TAG, Platform, tag_of_corpora

JOBS = {OBSERVED: observe_corpora, **STAGE_JOBS}
"""The job of everything that can be backfilled."""

BACKFILL_TAG = "ppl_assets/backfill"
"""Tag of the runs of one backfill: the UI's runs can be filtered by it."""

SHOWN = 16
"""Names listed in a message; the closest come first."""


class BackfillError(UserError, ValueError):
    """There is no such asset or partition, or it is not said which."""


@dataclass(frozen=True)
class Wanted:
    """Which partitions a person asked for.

    Attributes:
        keys: by name.
        is_all: all of them.
        is_failed: those that are broken now.
    """

    keys: Sequence[str] = ()
    is_all: bool = False
    is_failed: bool = False


@dataclass
class Outcome:
    """What a backfill came to.

    Attributes:
        asset: what was backfilled.
        computed: partitions whose rows were made anew.
        unchanged: partitions whose inputs had already made their rows.
        failed: partition and what was wrong.
        left: partitions that were not tried any more.
    """

    asset: str
    computed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)

    def failure(self, platform: Platform) -> str:
        """Which partitions failed, and how to run them again."""
        names = ", ".join(self.failed) if any(self.failed) else self.asset
        return f"failed: {names}. What was finished is kept. Again: {mending_command(self.asset, platform)}"

    def sentence(self, seconds: float) -> str:
        """One line for the terminal."""
        counts = [f"{len(self.computed)} computed"]
        counts += [f"{len(self.unchanged)} unchanged"] if self.unchanged else []
        counts += [f"{len(self.failed)} failed"] if self.failed else []
        counts += [f"{len(self.left)} not tried"] if self.left else []
        return f"{self.asset}: {', '.join(counts)}; {seconds:.1f} s."


def chosen_partitions(asset: str, wanted: Wanted, platform: Platform, instance: dg.DagsterInstance) -> list[str]:
    """The partitions to run, in their usual order; one empty key for an asset without partitions.

    Raises:
        BackfillError: the asset or a partition does not exist, or it is not said which partitions.
    """
    if asset not in JOBS:
        if asset == MAINTAINED:
            raise BackfillError(f"{asset} is not backfilled; run ppl-assets maintain")
        said = f"there is no asset {asset!r}" if asset else "name an asset"
        raise BackfillError(f"{said}; there are {_closest(asset, list(JOBS))}")
    keys = partitions_of(asset, platform, instance)
    if keys == [""] and wanted.keys:
        raise BackfillError(f"{asset} has no partitions; leave --partitions out")
    if keys == [""] and not wanted.is_failed:
        return keys
    if not keys:
        raise BackfillError(f"{asset} has no partitions yet; run ppl-assets backfill regime_partitions first")
    if unknown := [key for key in wanted.keys if key not in keys]:
        raise BackfillError(f"{asset} has no partition {unknown[0]!r}; there are {_closest(unknown[0], keys)}")
    if wanted.is_failed:
        broken = broken_partitions(asset, platform, instance)
        return [key for key in keys if key in broken]
    if not wanted.is_all and not wanted.keys:
        raise BackfillError(
            f"{asset} has {len(keys)} partitions; say which: --partitions {','.join(keys[:2])}, --all, or --failed"
        )
    return [key for key in keys if wanted.is_all or key in wanted.keys]


def backfill(
    definitions: dg.Definitions,
    platform: Platform,
    instance: dg.DagsterInstance,
    console: Console,
    asset: str,
    partitions: Sequence[str],
    *,
    is_forced: bool = False,
) -> Outcome:
    """Run the asset's job for each partition, one after the other; what fails does not keep the others from their turn.

    Args:
        definitions: the code location.
        platform: the study and its lake.
        instance: the study's instance.
        console: where progress is shown.
        asset: asset key.
        partitions: their keys; one empty key for an asset without any.
        is_forced: compute anew what its inputs already made.
    """
    outcome, began = Outcome(asset), time.monotonic()
    tags = {BACKFILL_TAG: f"{asset}-{time.strftime('%Y%m%d-%H%M%S')}"} | ({FORCE_TAG: "true"} if is_forced else {})
    with Display(console) as display, progress.listening(display.listen):
        for number, partition in enumerate(partitions, 1):
            name = f"{asset} {partition}".strip()
            display.begin(f"{number}/{len(partitions)} {name}")
            started = time.monotonic()
            is_over = False
            key, said_so = (None, tag_of_corpora([partition])) if asset == OBSERVED else (partition, {})
            try:
                result = execute(definitions, platform, instance, JOBS[asset].name, key, tags | said_so)
            except RunError as error:
                outcome.failed[partition], said, is_over = str(error), f"failed: {error}", error.ends_process
            else:
                is_computed = _is_computed(result, asset)
                (outcome.computed if is_computed else outcome.unchanged).append(partition)
                said = f"{time.monotonic() - started:.1f} s" if is_computed else "unchanged"
            console.print(f"{number:>4}/{len(partitions)} {name:<32} {said}", highlight=False, markup=False)
            if is_over:
                outcome.left = list(partitions[number:])
                break
    console.print(outcome.sentence(time.monotonic() - began), highlight=False)
    return outcome


def _is_computed(result: dg.ExecuteInProcessResult, asset: str) -> bool:
    """Whether the run made rows, or found that its inputs had already made them; an observation is always made."""
    made = [
        event.step_materialization_data.materialization for event in result.all_events if event.is_step_materialization
    ]
    return not any(
        str(one.metadata["outcome"].value).startswith("unchanged")
        for one in made
        if one.asset_key.to_user_string() == asset
    )


def _closest(name: str, names: Sequence[str]) -> str:
    """The names there are, the closest to ``name`` first."""

    def distance(other: str) -> float:
        return -difflib.SequenceMatcher(None, name, other).ratio()

    listed = sorted(names, key=distance) if name else list(names)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more
