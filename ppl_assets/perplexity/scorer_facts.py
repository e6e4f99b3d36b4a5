"""Rows of table ``scorers``: what a scorer's id stands for, and how the scores under it were last computed.

Belongs here: the facts of a run. Does not belong here: what decides a score, which is :class:`ScorePolicy`.

The facts are no part of ``scorer_id``. They move a score by rounding alone, within what its dtype promises, and a
device that does more than that shows in the dtype, which is part of the id: ``auto`` is float32 on CPU and narrower
on CUDA. A corpus that had to be rescored after every patch release of torch, or because its other half was scored on
another machine, would cost days for digits that nobody reads. Code of ours that moves a score raises
``SCORER_VERSION``; a library or a device that does is caught by the check ``scores_match_the_oracle``, and these facts
then say where to look.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import polars as pl

from ppl_assets import __version__
from ppl_assets.lake import Snapshot
from ppl_assets.perplexity.policy import ScorePolicy
from ppl_assets.tables import SCORERS

if TYPE_CHECKING:
    from ppl_assets.perplexity.scorer import Scorer

_SCHEMA = pl.Schema(SCORERS.schema)


@dataclass(frozen=True)
class ScorerFacts:
    """How a run computed scores; None where no run said so.

    Attributes:
        device: kind of device, cpu or cuda.
        shares_rows: whether documents shared rows; otherwise the model's own attention took batches of equal length.
        torch_version: version of torch.
        transformers_version: version of transformers.
        package_version: version of this package.
        tokens_per_second: speed of the run; what a trial costs is estimated from it until one was trained.
    """

    device: str | None = None
    shares_rows: bool | None = None
    torch_version: str | None = None
    transformers_version: str | None = None
    package_version: str | None = None
    tokens_per_second: float | None = None


def facts_of(scorer: Scorer, tokens_per_second: float | None = None) -> ScorerFacts:
    """The facts of the scorer at work."""
    import torch  # noqa: PLC0415 - here they are loaded already; what only reads the lake does without
    import transformers  # noqa: PLC0415

    return ScorerFacts(
        scorer.device.type,
        scorer.packs,
        str(torch.__version__),  # which build, too: the metadata of a wheel from PyPI do not say it
        transformers.__version__,
        __version__,
        tokens_per_second,
    )


def changed_scorer(snapshot: Snapshot, policy: ScorePolicy, facts: ScorerFacts | None) -> pl.DataFrame | None:
    """The row that a run has to write for its scorer, or None where the stored one stays.

    A run that computed something writes its facts; the lake's earlier snapshots keep those of the runs before it. One
    that computed nothing leaves the stored row as it is, or writes one without facts where there is none: the scores
    then come from the spool of a run that was killed before its commit, which took its facts with it.

    Args:
        snapshot: the lake as the step found it.
        policy: the scorer's policy.
        facts: of the scorer that computed something; None where nothing had to be computed.
    """
    if facts is None and not snapshot.read(SCORERS, ["scorer_id"], {"scorer_id": policy.scorer_id}).is_empty():
        return None
    row = {**asdict(policy), "scorer_id": policy.scorer_id, **asdict(facts or ScorerFacts())}
    return pl.DataFrame([row], schema=_SCHEMA)
