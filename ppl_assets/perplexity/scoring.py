"""Scoring a partition: chunks stream from the lake through the scorer into the spool.

Belongs here: how reading, computing and keeping overlap, and what is reported of it. Chunks are read and finished
batches are written in threads of their own, so that the device waits for neither. Batches are cut by the device and the
partition alone, never by how fast it goes: a run that was killed and goes on forms the same batches as an undisturbed
one, and with them the same bytes.
"""

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
import polars as pl
import pyarrow as pa
import torch

from ppl_assets.perplexity.ahead import ahead
from ppl_assets.perplexity.held_out import token_arrays
from ppl_assets.perplexity.score_rows import ScoreSpool, score_rows
from ppl_assets.perplexity.scored import Scored
from ppl_assets.perplexity.scorer import Scorer
from ppl_assets.perplexity.scores import Scores
from ppl_assets.perplexity.speed import forward_flops, matmul_ceiling
from ppl_assets.progress import Progress

CHUNK_COLUMNS = ["chunk_id", "tokens", "n_tokens", "n_bytes", "first_token_bytes"]

BATCH_TOKENS = {"cpu": 32_768, "cuda": 2_097_152}
"""Tokens read, scored and spooled at a time, about: what a killed run can lose. A minute and a half of a model of 135 M
parameters on two cores; some seconds of a GPU, which drains once a batch."""

COMPILE_TOKENS = 20_000_000
"""Tokens of a partition from which compiling for CUDA, about a minute, is repaid."""


def batch_chunks(device: str, chunk_tokens: int) -> int:
    """Chunks of one batch."""
    return max(1, BATCH_TOKENS[torch.device(device).type] // chunk_tokens)


def compiles(wanted: str, device: str, tokens: int) -> bool:
    """Whether the model is compiled: ``wanted`` is on, off or auto, ``tokens`` are those of the whole partition."""
    return wanted == "on" or (wanted == "auto" and device.startswith("cuda") and tokens >= COMPILE_TOKENS)


def score_batches(
    scorer: Scorer,
    batches: Iterable[pa.RecordBatch],
    size: int,
    known: set[str],
    corpus: str,
    spool: ScoreSpool,
    progress: Progress,
    total: int,
) -> Scored:
    """Score what is not known, and keep it batch by batch.

    Args:
        scorer: the scorer.
        batches: :data:`CHUNK_COLUMNS` of the partition's chunks.
        size: chunks that are scored and kept at a time.
        known: chunk ids that have a score.
        corpus: corpus partition.
        spool: where finished batches wait.
        progress: told of tokens done.
        total: tokens to be scored.
    """
    scored, seconds, lengths = Scored(), scorer.seconds, []
    kept: Future[None] | None = None
    began = moment = time.perf_counter()
    with ThreadPoolExecutor(1) as writer:
        for rows, tokens in ahead(_unknown(batches, known, size)):
            seconds.reading += time.perf_counter() - moment
            scores = scorer.score(tokens, partial(_report, progress, scored.tokens, total))
            moment = time.perf_counter()
            if kept is not None:
                kept.result()
            kept = writer.submit(_keep, spool, rows, scores, corpus, scorer.policy.scorer_id)
            seconds.writing += time.perf_counter() - moment
            scored.chunks, scored.tokens = scored.chunks + rows.height, scored.tokens + int(rows["n_tokens"].sum())
            lengths.append(scores.n_scored)
            moment = time.perf_counter()
        if kept is not None:
            kept.result()
    seconds.writing += time.perf_counter() - moment
    scored.seconds, scored.elapsed = seconds, time.perf_counter() - began
    scored.overflowed = scorer.overflowed
    scored.packing_efficiency = scorer.tokens / max(scorer.slots, 1)
    scored.fraction_of_ceiling = _fraction_of_ceiling(scorer, np.concatenate(lengths or [np.zeros(0)]), scored.elapsed)
    return scored


def _unknown(
    batches: Iterable[pa.RecordBatch], known: set[str], size: int
) -> Iterator[tuple[pl.DataFrame, list[np.ndarray]]]:
    """Rows and token ids of the chunks that have no score yet, ``size`` at a time.

    Those of several batches are put together: where one chunk in a hundred is new, each batch has a few of them, and a
    pass of the model over so few costs several times as much a token.
    """
    waiting: list[pl.DataFrame] = []
    for batch in batches:
        is_new = pl.Series(
            [chunk_id not in known for chunk_id in batch.column("chunk_id").to_pylist()], dtype=pl.Boolean
        )
        if is_new.any():
            waiting.append(pl.DataFrame(pl.from_arrow(batch)).filter(is_new))
        while sum(rows.height for rows in waiting) >= size:
            rows = pl.concat(waiting)
            waiting = [rows[size:]] if rows.height > size else []
            yield _split(rows[:size])
    if waiting:
        yield _split(pl.concat(waiting))


def _split(rows: pl.DataFrame) -> tuple[pl.DataFrame, list[np.ndarray]]:
    return rows.drop("tokens"), token_arrays(rows["tokens"])


def _keep(spool: ScoreSpool, rows: pl.DataFrame, scores: Scores, corpus: str, scorer_id: str) -> None:
    spool.add(score_rows(rows, scores, corpus, scorer_id))


def _report(progress: Progress, before: int, total: int, done: int, _in_batch: int) -> None:
    progress.update(before + done, total)


def _fraction_of_ceiling(scorer: Scorer, lengths: np.ndarray, elapsed: float) -> float | None:
    """Share of the device's matrix products; None where it is unknown.

    Narrow products on a CPU have no ceiling worth the name: its large ones are up to a hundred times slower than in
    float32, and ten of them take minutes.
    """
    if scorer.device.type == "cpu" and scorer.policy.dtype != "float32":
        return None
    work = forward_flops(scorer.model, lengths)
    if work is None:
        return None
    try:
        return work / elapsed / matmul_ceiling(str(scorer.device), scorer.policy.dtype)
    except RuntimeError:  # no room for two large matrices beside the model: a figure is not worth a failed step
        return None
