"""The Dagster instance of a study: its home, its partitions, and the limit of its GPU pool."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from ppl_assets.resources import CORPUS_PARTITIONS, GPU_POOL, STRATEGY_PARTITIONS
from ppl_assets.study import Study

TEMPLATE = Path(__file__).with_name("dagster.yaml")
"""The tracked settings of the instance, copied into every study's DAGSTER_HOME."""


def dagster_home(study: Study) -> Path:
    """DAGSTER_HOME of a study, made with the tracked ``dagster.yaml`` in it."""
    home = study.storage.root / "dagster"
    home.mkdir(parents=True, exist_ok=True)
    settings = home / "dagster.yaml"
    if not settings.is_file() or settings.read_bytes() != TEMPLATE.read_bytes():
        shutil.copyfile(TEMPLATE, settings)
    os.environ["DAGSTER_HOME"] = str(home)
    return home


def sync_partitions(instance: dg.DagsterInstance, name: str, keys: list[str]) -> None:
    """Make the keys of a dynamic partition exactly ``keys``: new ones are added, vanished ones removed."""
    present = instance.get_dynamic_partitions(name)
    for vanished in sorted(set(present) - set(keys)):
        instance.delete_dynamic_partition(name, vanished)
    if new := [key for key in keys if key not in present]:
        instance.add_dynamic_partitions(name, new)


@contextmanager
def study_instance(study: Study) -> Iterator[dg.DagsterInstance]:
    """The instance of a study: its corpora and strategies registered, the GPU pool limited to one step."""
    dagster_home(study)
    with dg.DagsterInstance.get() as instance:
        sync_partitions(instance, str(CORPUS_PARTITIONS.name), study.corpus_partitions())
        sync_partitions(instance, str(STRATEGY_PARTITIONS.name), study.strategies.names)
        instance.event_log_storage.set_concurrency_slots(GPU_POOL, 1)
        yield instance
