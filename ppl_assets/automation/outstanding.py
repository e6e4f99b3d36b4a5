"""What a change of code, settings or base model leaves to be scored again, and what that would cost.

Nothing here is started by itself: one line of code would send every chunk of the team through the model again. It is
said, in the check ``scores_are_current``, and a person decides.
"""

from dataclasses import dataclass

import polars as pl

from ppl_assets.corpus import assets as corpus
from ppl_assets.corpus.assets import chunks_inputs_at
from ppl_assets.fingerprint import fingerprint
from ppl_assets.lake import Lake, Snapshot
from ppl_assets.perplexity import assets as perplexity
from ppl_assets.perplexity.assets import perplexity_scores_inputs
from ppl_assets.perplexity.device import resolve_device
from ppl_assets.perplexity.policy import SCORER_VERSION
from ppl_assets.perplexity.stored import stored_base_model, study_policy
from ppl_assets.regimes.cost import duration
from ppl_assets.study import Study
from ppl_assets.tables import CHUNKS, PERPLEXITY_SCORES, SCORERS

NAMED = 8
"""Partitions named in the sentence; all are in the check's metadata."""


@dataclass(frozen=True)
class Outstanding:
    """Partitions that are out of date, and the work that they stand for.

    Attributes:
        chunks: corpus partitions that were cut by other code or settings.
        scores: corpus partitions whose scores are of other code, settings, model or chunks, those of ``chunks`` among
            them.
        n_chunks: chunks to be scored; where a partition has to be cut again, as many as it has now.
        n_tokens: their tokens.
        speed: tokens a second of the last scoring run on the study's device; None where there was none.
    """

    chunks: list[str]
    scores: list[str]
    n_chunks: int
    n_tokens: int
    speed: float | None

    @property
    def seconds(self) -> float | None:
        """Device time at that speed."""
        return None if not self.speed else self.n_tokens / self.speed

    def sentence(self, option: str) -> str:
        """What is out of date, what scoring it takes, and how to ask for it.

        Args:
            option: what ``make demo`` needs for this study.
        """
        if not self.scores:
            return "Every score is of the present code, settings, base model and chunks."
        assets = "chunks and perplexity_scores" if self.chunks else "perplexity_scores"
        time = (
            "for how long is unknown, since nothing was scored on this device yet"
            if self.seconds is None
            else f"about {duration(self.seconds)} at the last measured {self.speed:,.0f} tokens/s"
        )
        named = f"{', '.join(self.scores[:NAMED])}{', ...' if len(self.scores) > NAMED else ''}"
        return (
            f"{assets} of {len(self.scores)} corpora ({named}) are of earlier code, settings, base model or chunks. To "
            f"bring them up to date {self.n_chunks:,} chunks of {self.n_tokens:,} tokens are scored, {time}. This "
            f"waits for a person: materialize {assets} of these partitions in the UI; make demo{option} brings "
            "everything up to date, trials too."
        )


def outstanding(study: Study, lake: Lake, snapshot: Snapshot) -> Outstanding:
    """Compare what is stored with what the present code and study would make of the same files.

    Files are not read: a corpus whose content changed is followed by itself.
    """
    cut = [key for key in study.corpus_partitions() if _is_cut_otherwise(study, snapshot, key)]
    scores = [
        key for key in study.corpus_partitions() if key in cut or _is_scored_otherwise(study, lake, snapshot, key)
    ]
    policy = study_policy(study, stored_base_model(snapshot))
    sql = """SELECT count(*) AS chunks, coalesce(sum(n_tokens), 0)::BIGINT AS tokens FROM {chunks} AS c
             WHERE list_contains($scores, corpus) AND (list_contains($cut, corpus) OR NOT EXISTS (
               SELECT 1 FROM {perplexity_scores} AS s WHERE s.chunk_id = c.chunk_id AND s.scorer_id = $scorer))"""
    parameters = {"scores": scores, "cut": cut, "scorer": policy.scorer_id}
    row = snapshot.query(sql, (CHUNKS, PERPLEXITY_SCORES), parameters).row(0, named=True)
    speed = _last_speed(study, snapshot, policy.scorer_id)
    return Outstanding(cut, scores, row["chunks"], row["tokens"], speed)


def versions_in_force(study: Study) -> str:
    """Fingerprint of the code and the settings that decide what is out of date; of no file's content."""
    settings = study.model_dump(mode="json", exclude={"corpora", "discovery", "storage", "export"})
    return fingerprint(corpus.CODE_VERSION, perplexity.CODE_VERSION, SCORER_VERSION, settings)


def _is_cut_otherwise(study: Study, snapshot: Snapshot, partition: str) -> bool:
    """Whether a partition's chunks are of other code, settings, tokenizer or test documents; not: of other files."""
    commit = snapshot.latest("chunks", partition)
    if commit is None:
        return False
    version = commit.facts.get("corpus_version", "")
    return commit.inputs != chunks_inputs_at(study, snapshot, partition, version).digest


def _is_scored_otherwise(study: Study, lake: Lake, snapshot: Snapshot, partition: str) -> bool:
    if snapshot.latest("chunks", partition) is None:
        return False
    commit = snapshot.latest("perplexity_scores", partition)
    return commit is None or commit.inputs != perplexity_scores_inputs(study, lake, snapshot, partition).digest


def _last_speed(study: Study, snapshot: Snapshot, scorer_id: str) -> float | None:
    """Tokens a second of scoring on the study's device: under the present scorer, else under another."""
    rows = snapshot.read(SCORERS, ["scorer_id", "tokens_per_second"], {"device": resolve_device(study.study.device)})
    rows = rows.drop_nulls().sort(pl.col("scorer_id") != scorer_id, maintain_order=True)
    return float(rows["tokens_per_second"][0]) if rows.height else None
