"""The trials read back from the lake: those of the design, and those that were proposed in addition.

Belongs here: which table a trial lies in. Nothing else asks, so that a trial is the same thing wherever it comes from.
"""

import polars as pl

from ppl_assets.errors import UserError
from ppl_assets.lake import Snapshot
from ppl_assets.tables import NEXT_TRIALS, PROPOSED_REGIMES, REGIME_PARTITIONS, REGIMES


class UnknownTrialError(UserError, LookupError):
    """There is no such trial now."""


def design_version(snapshot: Snapshot) -> str:
    """Data version of the present design: proposals made for another one are void."""
    commit = snapshot.latest("regime_partitions")
    return commit.data_version if commit else ""


def design(snapshot: Snapshot) -> pl.DataFrame:
    """Rows of the design alone; columns of ``regimes``."""
    return snapshot.read(REGIMES)


def proposals(snapshot: Snapshot) -> pl.DataFrame:
    """Rows of the proposals that add to the present design, in the order in which they were made."""
    rows = snapshot.read(PROPOSED_REGIMES, where={"design_version": design_version(snapshot)})
    return rows.sort("batch", maintain_order=True)


def all_trials(snapshot: Snapshot) -> pl.DataFrame:
    """Every trial that is asked for now: the design's, then the proposed ones; columns of ``regimes``."""
    rows = design(snapshot)
    return pl.concat([rows, proposals(snapshot).select(rows.columns)])


def trial_subset(snapshot: Snapshot, trial: str) -> tuple[pl.DataFrame, int]:
    """A trial's chunks (rank, chunk_id, corpus, ppl) in training order, and its seed.

    Raises:
        UnknownTrialError: neither the design nor a proposal for it has such a trial.
    """
    known = all_trials(snapshot)
    row = known.filter(pl.col("trial") == trial)
    if row.is_empty():
        names = ", ".join(known["trial"]) or "none yet"
        raise UnknownTrialError(
            f"trial {trial!r} is not in the present design ({names}); materialize regime_partitions, then its trials"
        )
    columns = ["rank", "chunk_id", "corpus", "ppl"]
    found = [snapshot.read(table, columns, {"trial": trial}) for table in (REGIME_PARTITIONS, NEXT_TRIALS)]
    rows = next(members for members in found if not members.is_empty())
    return rows.sort("rank"), int(row["seed"][0])
