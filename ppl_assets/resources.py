"""What the assets are given: the study, its lake, and one way to write a table with its lineage.

The only module outside ``assets.py``, ``automation/`` and ``definitions.py`` that knows Dagster.
"""

import os
import shutil
import subprocess
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from ppl_assets import __version__, progress
from ppl_assets.column_sources import COLUMN_SOURCES
from ppl_assets.discovery import listing
from ppl_assets.failures import DeviceLostError, machine_failure
from ppl_assets.fingerprint import fingerprint
from ppl_assets.lake import Commit, Lake, Provenance, Snapshot, Write
from ppl_assets.study import Study, discovery_folder, load_study
from ppl_assets.tables import LakeTable

# Three features that are worth their label: observations give a corpus its data version from content, checks with
# partitions stop what is downstream of a broken corpus alone, and a condition of our own needs the code server.
_BETA = "observable_source_asset|DataVersionsByPartition|use_user_code_server"
warnings.filterwarnings("ignore", message=f".*({_BETA}).*", category=dg.BetaWarning)
warnings.filterwarnings("ignore", message=".*partitions_def on an AssetCheckSpec.*", category=dg.PreviewWarning)

STUDY_VARIABLE = "PPL_ASSETS_STUDY"
"""Environment variable that names the study file; ``study.toml`` in the working directory where it is not set."""

CORPUS_PARTITIONS = dg.DynamicPartitionsDefinition(name="corpus")
TRIAL_PARTITIONS = dg.DynamicPartitionsDefinition(name="trial")
STRATEGY_PARTITIONS = dg.DynamicPartitionsDefinition(name="strategy")

ALL_CORPORA = dg.AllPartitionMapping()
"""How trials and strategies depend on a table of corpora: on all of it. Dagster would take a trial's name for that of a
corpus, and refuse to backfill."""

GPU_POOL = "gpu"
"""Pool of every step that runs the model: its limit is the number of devices."""

CORPORA_TAG = "ppl_assets/corpora"
"""Tag of a run that observes several corpora at once: their partition keys, with spaces between."""


def tag_of_corpora(partitions: Iterable[str]) -> dict[str, str]:
    """The tag of a run that observes these corpora."""
    return {CORPORA_TAG: " ".join(partitions)}


def tagged_corpora(tags: Mapping[str, str]) -> list[str]:
    """The corpora that a run's tag names; none where it has no such tag."""
    return tags.get(CORPORA_TAG, "").split()


FORCE_TAG = "ppl_assets/force"
"""Tag of a run that computes anew what its inputs already made; ``true`` in the UI's dialog, or ``--force``."""

SECONDS_BEFORE_RETRY = 10
"""How long a step waits for a lost GPU to come back."""

Metadata = Mapping[str, Any]


@dataclass(frozen=True)
class Inputs:
    """Everything one asset partition is computed from.

    Attributes:
        parts: JSON-like values; their digest decides whether anything has to be computed.
        facts: identities worth having in the lineage under their own name.
    """

    parts: Sequence[Any]
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Fingerprint of the inputs."""
        return fingerprint(*self.parts)


class Platform(dg.ConfigurableResource):
    """The study and its lake."""

    study_path: str = Field(
        default="", description=f"Study file; empty: ${STUDY_VARIABLE}, else study.toml in the working directory."
    )

    @property
    def study_file(self) -> Path:
        """The study file in force."""
        return Path(self.study_path or os.environ.get(STUDY_VARIABLE) or "study.toml").resolve()

    @property
    def study(self) -> Study:
        """The validated study."""
        return _loaded(self.study_file)

    @property
    def lake(self) -> Lake:
        """The study's lake; one connection a process."""
        storage = self.study.storage
        return _opened(storage.root, storage.catalog, storage.tables)

    @property
    def root(self) -> Path:
        """Folder of everything the study writes."""
        return self.study.storage.root

    def step(self, context: dg.AssetExecutionContext, code_version: str) -> "Step":
        """The running step's view of the lake."""
        partition = context.partition_key if context.has_partition_key else ""
        asset = context.asset_key.to_user_string()
        price = self.study.study.device_hour_price if context.op_def.pool == GPU_POOL else None
        is_forced = context.run.tags.get(FORCE_TAG) == "true"
        snapshot, say = self.lake.snapshot(), context.log.info
        return Step(
            self.lake, snapshot, asset, partition, context.run_id, code_version, say, price=price, is_forced=is_forced
        )


def in_plain_words(compute: Callable[..., dg.MaterializeResult]) -> Callable[..., dg.MaterializeResult]:
    """The body of an asset that says in one sentence what a failure of the machine means.

    A lost GPU is tried once more: an executor that gives each step a process of its own begins with a sound device.
    Everything else that fails would fail again.
    """

    @wraps(compute)
    def body(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
        try:
            return compute(context, platform)
        except Exception as error:
            failure = machine_failure(error, context.asset_key.to_user_string(), platform.root)
            if failure is None:
                raise
            if isinstance(failure, DeviceLostError):
                failure.__cause__ = error
                raise dg.RetryRequested(max_retries=1, seconds_to_wait=SECONDS_BEFORE_RETRY) from failure
            raise failure from error

    return body


def _loaded(file: Path) -> Study:
    """The study, read again only when the file, the overrides or the corpora of its discovery folder change."""
    overrides = tuple(sorted(item for item in os.environ.items() if item[0].upper().startswith("PPL__")))
    modified = file.stat().st_mtime_ns if file.is_file() else 0
    folder = _cached_folder(file, modified, overrides)
    return _cached_study(file, modified, overrides, listing(folder) if folder else ())


@lru_cache(maxsize=8)
def _cached_folder(file: Path, _modified: int, _overrides: tuple[tuple[str, str], ...]) -> Path | None:
    return discovery_folder(file)


@lru_cache(maxsize=8)
def _cached_study(
    file: Path, _modified: int, _overrides: tuple[tuple[str, str], ...], _found: tuple[str, ...]
) -> Study:
    return load_study(file)


@lru_cache(maxsize=8)
def _opened(root: Path, catalog: str, tables: str) -> Lake:
    return Lake.under(root, catalog, tables)


@dataclass
class Step:
    """One asset partition being materialized: what it reads is remembered, what it writes is one commit.

    Attributes:
        lake: the lake.
        snapshot: the lake as it was when the step began; everything is read from it.
        asset: asset key.
        partition: partition key, empty where there is none.
        run_id: Dagster run.
        code_version: version of the asset's code.
        log: writes a line to the run's log.
        price: of an hour of the device; 0 where the study names none, None where the step does not hold the device.
        is_forced: whether everything is computed anew, whatever the inputs.
    """

    lake: Lake
    snapshot: Snapshot
    asset: str
    partition: str
    run_id: str
    code_version: str
    log: Callable[[str], None]
    price: float | None = None
    is_forced: bool = False
    started: float = field(default_factory=time.monotonic)

    def progress(self, unit: str) -> progress.Progress:
        """Begin to report progress in ``unit``."""
        return progress.start(unit, self.log)

    def unchanged(self, inputs: Inputs) -> Commit | None:
        """The commit that these very inputs already made, if there is one and the run is not forced."""
        return None if self.is_forced else self.made_from(inputs)

    def made_from(self, inputs: Inputs) -> Commit | None:
        """The commit that these very inputs already made, in a forced run too."""
        latest = self.snapshot.latest(self.asset, self.partition)
        return latest if latest and latest.inputs == inputs.digest else None

    def stage(self, table: LakeTable, rows: Any, *, whole: bool = False) -> Write:
        """Stage rows that replace this partition of a table, or the whole table."""
        return self.lake.stage(table, rows, None if whole or not table.partition else self.partition)

    def write(self, writes: Sequence[Write], inputs: Inputs, data_version: str) -> Commit:
        """Commit staged rows with their lineage."""
        provenance = Provenance(
            asset=self.asset,
            partition=self.partition,
            run_id=self.run_id,
            code_version=self.code_version,
            inputs=inputs.digest,
            data_version=data_version,
            reads=dict(self.snapshot.reads),
            facts={**inputs.facts, **_code_identity()},
        )
        number = self.lake.commit(writes, provenance)
        return Commit(number, inputs.digest, data_version, self.run_id, provenance.facts)

    def result(self, commit: Commit, metadata: Metadata, *, table: LakeTable, rows: int) -> dg.MaterializeResult:
        """What Dagster is told: data version, rows, table, columns' sources, lake snapshot, whether computed, cost."""
        computed = commit.run_id == self.run_id
        seconds = time.monotonic() - self.started
        row_key = "dagster/partition_row_count" if self.partition else "dagster/row_count"
        standard: dict[str, Any] = {
            row_key: rows,
            "dagster/table_name": f"lake.{table.name}",
            "lake_snapshot": commit.snapshot,
            "outcome": "computed" if computed else "unchanged: nothing had to be computed",
            "seconds": dg.MetadataValue.float(round(seconds, 3)),
            "dagster/column_lineage": column_lineage(table),
            **(self._cost(seconds) if computed else {}),
        }
        shown = {**standard, **{name: _shown(value) for name, value in metadata.items()}}
        return dg.MaterializeResult(metadata=shown, data_version=dg.DataVersion(commit.data_version))

    def _cost(self, seconds: float) -> dict[str, Any]:
        """Hours for which the device was held, loading and checks included, and their price; empty without a device."""
        if self.price is None:
            return {}
        hours = seconds / 3600.0
        cost = {"cost": dg.MetadataValue.float(round(hours * self.price, 4))} if self.price else {}
        return {"device_hours": dg.MetadataValue.float(round(hours, 5)), **cost}


def _shown(value: Any) -> Any:
    """A number as a person reads it, six significant digits; the lake keeps all of them."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


@lru_cache(maxsize=1)
def _code_identity() -> dict[str, str]:
    """Version of this package, and the commit of its checkout where it runs from one."""
    folder, git = Path(__file__).parent, shutil.which("git")
    commit = "unknown"
    if git:
        command = [git, "-C", str(folder), "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - a fixed command
        commit = done.stdout.strip() if done.returncode == 0 else commit
    return {"package_version": __version__, "git_commit": commit}


def column_schema(table: LakeTable) -> dg.TableSchema:
    """The declared columns as Dagster shows them, each with the columns it is computed from.

    Dagster's open-source webserver (1.13.27) does not show a materialization's column lineage, so it stands here too.
    """
    sources = COLUMN_SOURCES.get(table.name, {})
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=column.name,
                type=str(column.type),
                description=_with_sources(column.description, sources.get(column.name, ())),
                constraints=dg.TableColumnConstraints(nullable=column.nullable),
            )
            for column in table.columns
        ]
    )


def _with_sources(description: str, sources: Sequence[str]) -> str:
    """The description, and behind it the columns of other assets that a column is computed from."""
    return f"{description} From {', '.join(sources)}." if sources else description


def column_lineage(table: LakeTable) -> dg.TableColumnLineage:
    """Which columns of other assets each column is computed from; one from settings, seeds or clocks alone has none."""
    sources = COLUMN_SOURCES.get(table.name, {})
    return dg.TableColumnLineage(
        {column: [dg.TableColumnDep(*source.split(".")) for source in names] for column, names in sources.items()}
    )


def table_metadata(table: LakeTable) -> dict[str, Any]:
    """Definition metadata of the asset that writes ``table``."""
    return {"dagster/column_schema": column_schema(table), "dagster/table_name": f"lake.{table.name}"}
