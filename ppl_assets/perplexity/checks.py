"""Whether stored scores are complete and right: what the checks of ``perplexity_scores`` find, in one sentence each."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from ppl_assets.lake import Snapshot
from ppl_assets.perplexity.held_out import token_arrays
from ppl_assets.perplexity.policy import ScorePolicy
from ppl_assets.tables import CHUNKS, PERPLEXITY_SCORES

if TYPE_CHECKING:
    import transformers

ORACLE_SAMPLE = 4
"""Chunks a partition that a check scores again in float64."""


@dataclass(frozen=True)
class Tolerance:
    """How far a summed NLL may lie from the float64 value: ``relative * NLL + per_root_token * sqrt(scored tokens)``.

    Attributes:
        relative: share of the NLL.
        per_root_token: nats. A token's loss is a difference of two numbers of a logit's size and keeps their rounding
            however small it is itself; those of several tokens are independent, so their sum grows with the root.
    """

    relative: float
    per_root_token: float = 0.0

    def shares(self, nll: np.ndarray, truth: np.ndarray, n_scored: np.ndarray) -> np.ndarray:
        """How much of the tolerance each difference takes; over 1, or not a number, is too far. All [n]."""
        return np.abs(nll - truth) / (self.relative * np.abs(truth) + self.per_root_token * np.sqrt(n_scored))


TOLERANCE = {"float32": Tolerance(1e-6, 2e-5), "float16": Tolerance(4e-4, 5e-3), "bfloat16": Tolerance(1e-2)}
"""What the check accepts of each dtype.

float32: the 1e-6 that is promised, and beside it what chunks need that are short or known by heart. Seen: SmolLM2-135M,
30 layers, 34 chunks of 4 to 256 tokens: at most 1.7e-5 nats times the root of the tokens, which for 8 tokens is 1e-6 of
the NLL; a model that knows 1,000 tokens by heart, 0.005 nats each: 4e-6 of the NLL, 2e-5 nats in all. A chunk of 128
tokens at 3 nats may be off by 1.6e-6 of its NLL, one of 1,024 by 1.2e-6.

float16: emulated on SmolLM2, 192 tokens at 2.7 nats, at most 0.00055 nats a token: 2e-4 of the NLL, or 0.0076 nats
times the root of the tokens, which is what is left where a chunk is short or known by heart. That takes two fifths of
what is accepted; a bias of 1e-3 of the NLL is refused from 32 tokens at 3 nats, or 128 at 1 nat, on. bfloat16 rounds
eight times coarser; no digits are promised.
"""


NON_FINITE_SHARE = 0.01
"""Share of a partition's chunks up to which the study goes on without those that have no finite score; one always may.
A model that fails on more is broken, or its dtype is too narrow."""

NAMED_CHUNKS = 5
"""Chunks that a sentence names."""


@dataclass(frozen=True)
class Verdict:
    """What a check found.

    Attributes:
        passed: whether all is well.
        sentence: what was found, in plain words.
        worst_relative: largest relative difference from the float64 value; 0 where none was taken.
        blocks: whether nothing may be built on what did not pass.
    """

    passed: bool
    sentence: str
    worst_relative: float = 0.0
    blocks: bool = True


def judge_completeness(chunks: pl.DataFrame, rows: pl.DataFrame) -> Verdict:
    """Whether every chunk has exactly one row, and every score is finite and positive.

    Chunks on which the model returned no finite number are no candidates, and the next run computes them again: up to
    :data:`NON_FINITE_SHARE` of them block nothing. Held-out ones always do, since losses are measured on them.

    Args:
        chunks: chunk_id and split of the partition's chunks.
        rows: chunk_id, nll and status of the partition under one scorer.
    """
    missing = len(set(chunks["chunk_id"]) - set(rows["chunk_id"]))
    doubled = rows.height - rows["chunk_id"].n_unique()
    wrong = rows.filter((pl.col("status") == "ok") & ~(pl.col("nll").is_finite() & (pl.col("nll") > 0))).height
    lost = chunks.join(rows.filter(pl.col("status") == "non_finite"), "chunk_id", "semi").sort("chunk_id")
    sentence = (
        f"{chunks.height:,} chunks: {missing} without a score, {doubled} scored twice, {wrong} with an impossible "
        f"score, {lost.height} on which the model returned no finite number{_named(lost['chunk_id'])}."
    )
    if lost.height:
        sentence += (
            " They are no candidates, and the next materialization computes them again; where they stay, set [score] "
            'dtype = "float32" or remove their documents.'
        )
    held_out = lost.filter(pl.col("split") != "candidate").height
    if held_out:
        sentence += (
            f" {held_out} of them are held-out text, on which losses are measured: nothing goes on without them."
        )
    many = lost.height > max(1.0, NON_FINITE_SHARE * chunks.height)
    if many:
        sentence += f" More than {NON_FINITE_SHARE:.0%} are too many to go on without."
    broken = bool(missing or doubled or wrong or held_out or many)
    return Verdict(not broken and lost.is_empty(), sentence, blocks=broken)


def _named(chunk_ids: pl.Series) -> str:
    """The first chunks' ids in brackets; empty where there are none."""
    more = ", ..." if chunk_ids.len() > NAMED_CHUNKS else ""
    return f" ({', '.join(chunk_ids[:NAMED_CHUNKS])}{more})" if chunk_ids.len() else ""


def sampled_scores(
    snapshot: Snapshot, corpus: str, scorer_id: str, draw: str, earlier: Snapshot | None = None
) -> pl.DataFrame:
    """A random sample of a partition's scores with their chunks: chunk_id, tokens, nll, n_scored.

    At least half are scores that are new, where there are as many: few new ones among many old would hardly be drawn.

    Args:
        snapshot: the lake.
        corpus: corpus partition.
        scorer_id: the scorer.
        draw: which sample; another text draws another one.
        earlier: the lake before the latest scores; None: none is new.
    """
    where = {"corpus": corpus, "scorer_id": scorer_id, "status": "ok"}
    ids = snapshot.read(PERPLEXITY_SCORES, ["chunk_id"], where)
    known = ids if earlier is None else earlier.read(PERPLEXITY_SCORES, ["chunk_id"], where)
    new = _drawn(ids.join(known, "chunk_id", "anti"), ORACLE_SAMPLE // 2, draw)
    others = _drawn(ids.join(new, "chunk_id", "anti"), ORACLE_SAMPLE - new.height, draw)
    sql = """SELECT c.chunk_id, c.tokens, s.nll, s.n_scored FROM {perplexity_scores} AS s
             JOIN {chunks} AS c ON c.chunk_id = s.chunk_id AND c.corpus = s.corpus
             WHERE s.corpus = $corpus AND s.scorer_id = $scorer AND list_contains($ids, s.chunk_id)"""
    parameters = {"corpus": corpus, "scorer": scorer_id, "ids": [*new["chunk_id"], *others["chunk_id"]]}
    return snapshot.query(sql, (PERPLEXITY_SCORES, CHUNKS), parameters)


def _drawn(ids: pl.DataFrame, count: int, draw: str) -> pl.DataFrame:
    """At most so many rows, drawn by ``draw``."""
    seed = int.from_bytes(hashlib.blake2b(draw.encode(), digest_size=6).digest())
    return ids.sort("chunk_id").sample(min(count, ids.height), seed=seed)


def judge_against_oracle(sample: pl.DataFrame, model64: transformers.PreTrainedModel, policy: ScorePolicy) -> Verdict:
    """Whether sampled scores equal the float64 one-chunk-at-a-time value within their dtype's :data:`TOLERANCE`.

    Args:
        sample: of :func:`sampled_scores`, not empty.
        model64: the oracle's model.
        policy: the scores' policy.
    """
    from ppl_assets.perplexity.oracle import oracle_nll  # noqa: PLC0415 - torch takes seconds, the other checks need none

    nll, n_scored = sample["nll"].to_numpy(), sample["n_scored"].to_numpy()
    truth = np.array([oracle_nll(model64, tokens, policy) for tokens in token_arrays(sample["tokens"])])
    tolerance = TOLERANCE[policy.dtype]
    share = float(np.max(tolerance.shares(nll, truth, n_scored)))
    worst = float(np.max(np.abs(nll / truth - 1.0)))
    root = f" plus {tolerance.per_root_token:.0e} nats times the root of the tokens" if tolerance.per_root_token else ""
    sentence = (
        f"Largest relative difference of {sample.height} sampled chunks from the float64 value: {worst:.1e}; accepted "
        f"for {policy.dtype}: {tolerance.relative:.0e}{root}, of which {share:.0%} was taken."
    )
    return Verdict(share <= 1.0, sentence, worst)
