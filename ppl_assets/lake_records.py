"""What goes into the lake and what it remembers: writes, their provenance, past commits."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ppl_assets.errors import UserError
from ppl_assets.tables import LakeTable


class LakeError(UserError):
    """The lake cannot be read or written as asked; the message says what to do."""


@dataclass(frozen=True)
class Provenance:
    """What a commit says about itself: the lineage of every row it writes.

    Attributes:
        asset: asset key.
        partition: partition key, empty for an unpartitioned asset.
        run_id: Dagster run.
        code_version: version of the asset's code.
        inputs: fingerprint of everything the rows were computed from; equal inputs give equal rows.
        data_version: digest of the rows' content.
        reads: lake snapshot of every table that was read.
        facts: further identities, such as the corpus version or the model.
    """

    asset: str
    partition: str
    run_id: str
    code_version: str
    inputs: str
    data_version: str
    reads: Mapping[str, int] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> str:
        """The commit's extra info."""
        return json.dumps({name: getattr(self, name) for name in self.__dataclass_fields__}, sort_keys=True)


@dataclass(frozen=True)
class Commit:
    """A past commit of one asset partition.

    Attributes:
        snapshot: lake snapshot it made.
        inputs: fingerprint of what it was computed from.
        data_version: digest of what it wrote.
        run_id: Dagster run that wrote it.
        facts: further identities.
    """

    snapshot: int
    inputs: str
    data_version: str
    run_id: str
    facts: Mapping[str, str]


@dataclass(frozen=True)
class Write:
    """Rows on their way into a table: staged as one Parquet file, replacing one partition.

    Attributes:
        table: the table.
        partition: value of its partition column to replace; None replaces the whole table.
        file: the staged Parquet file.
        rows: its rows.
    """

    table: LakeTable
    partition: str | None
    file: Path
    rows: int
