"""A partition is scored once, whatever happens on the way, and says how fast it was."""

import io
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ppl_assets.lake import Lake, Provenance
from ppl_assets.perplexity.ahead import ahead
from ppl_assets.perplexity.score_rows import ScoreSpool, carried_rows, merged, score_rows
from ppl_assets.perplexity.scored import Scored, StageSeconds
from ppl_assets.perplexity.scorer import Scorer
from ppl_assets.perplexity.scores import scores_of
from ppl_assets.perplexity.scoring import COMPILE_TOKENS, batch_chunks, compiles, score_batches
from ppl_assets.perplexity.speed import forward_flops, matmul_ceiling
from ppl_assets.progress import Progress
from ppl_assets.tables import CHUNKS as CHUNKS_TABLE
from ppl_assets.tables import PERPLEXITY_SCORES
from ppl_assets_tests.perplexity.tiny import chunks_of, policy, tiny_model

CHUNKS, BATCH = 60, 16


def stored_chunks():
    lengths = (np.arange(CHUNKS) * 7 % 50 + 3).tolist()
    return pl.DataFrame(
        {
            "chunk_id": [f"c{i:03d}" for i in range(CHUNKS)],
            "tokens": [chunk.tolist() for chunk in chunks_of(lengths)],
            "n_tokens": lengths,
            "n_bytes": [3 * n for n in lengths],
            "first_token_bytes": [2] * CHUNKS,
        },
        schema_overrides={"tokens": pl.List(pl.Int32)},
    )


def run(folder, scored=None, known=()):
    """Score what has no score and is not ``known``; the whole partition's rows."""
    spool, chunks = ScoreSpool(folder), stored_chunks()
    known = {*spool.rows()["chunk_id"], *known}
    batches = chunks.to_arrow().to_batches(max_chunksize=BATCH)
    progress = Progress("tokens", lambda state: scored.append(state.done) if scored is not None else None)
    total = int(chunks.filter(~pl.col("chunk_id").is_in(list(known)))["n_tokens"].sum())
    scorer = Scorer(tiny_model(), policy(), row_tokens=128)
    done = score_batches(scorer, batches, BATCH, known, "c", spool, progress, total)
    return merged([spool.rows()], set(chunks["chunk_id"])), done


def as_bytes(rows):
    buffer = io.BytesIO()
    rows.write_parquet(buffer)
    return buffer.getvalue()


def test_a_partition_is_scored_in_batches_and_reports_tokens_up_to_the_total(tmp_path):
    told = []
    rows, scored = run(tmp_path, told)
    assert rows.height == scored.chunks == CHUNKS
    assert told[-1] == scored.tokens == rows["n_tokens"].sum()
    assert told == sorted(told)
    assert scored.packing_efficiency == 1.0
    assert 0.0 < scored.fraction_of_ceiling < 1.0
    assert 0.0 < scored.seconds.backbone < scored.elapsed
    assert "tokens/s" in scored.sentence
    assert run(tmp_path)[1].chunks == 0


KILL = {
    "while_computing": "scoring.Scorer.score = after(2, scoring.Scorer.score)",
    "before_a_batch_has_its_name": "Path.rename = after(2, Path.rename)",
    "after_a_batch_has_its_name": "named = Path.rename\nPath.rename = lambda *given: (named(*given), after(1, die)())",
}


@pytest.mark.parametrize("moment", KILL)
def test_a_run_killed_at_any_moment_goes_on_to_the_bytes_of_an_undisturbed_one(tmp_path, moment):
    program = f"""
import os, signal, sys
from pathlib import Path
from ppl_assets.perplexity import scoring
from ppl_assets_tests.perplexity.test_scoring import run

def die(*_given):
    os.kill(os.getpid(), signal.SIGKILL)

def after(calls, function):
    counted = iter(range(calls))
    return lambda *given: function(*given) if next(counted, None) is not None else die()

{textwrap.dedent(KILL[moment])}
run(Path({str(tmp_path / "killed")!r}))
"""
    killed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert killed.returncode == -9, killed.stderr
    kept = ScoreSpool(tmp_path / "killed").rows().height
    assert kept in {BATCH, 2 * BATCH}
    rows, scored = run(tmp_path / "killed")
    assert scored.chunks == CHUNKS - kept
    assert as_bytes(rows) == as_bytes(run(tmp_path / "undisturbed")[0])


def test_a_batch_never_takes_the_name_of_another(tmp_path):
    spool, rows = ScoreSpool(tmp_path), run(tmp_path / "scored")[0]
    for at in range(3):
        spool.add(rows[at : at + 1])
    (tmp_path / "000000.parquet").unlink()
    spool.add(rows[3:4])
    assert sorted(file.stem for file in tmp_path.glob("*.parquet")) == ["000001", "000002", "000003"]
    assert spool.rows()["chunk_id"].to_list() == rows["chunk_id"][1:4].to_list()


def test_a_batch_and_its_name_are_on_the_disk_when_it_is_kept(tmp_path, monkeypatch):
    synced, rows = [], run(tmp_path / "scored")[0]
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(Path(f"/proc/self/fd/{number}").readlink()))
    ScoreSpool(tmp_path).add(rows)
    assert synced == [tmp_path / "000000.parquet.part", tmp_path]


def test_work_done_ahead_keeps_its_order_and_passes_errors_on():
    def squares():
        for number in range(5):
            if number == 4:
                raise ValueError("four")
            yield number * number

    found = []
    with pytest.raises(ValueError, match="four"):
        found.extend(iter_into(found, ahead(squares())))
    assert found == [0, 1, 4, 9]


def iter_into(found, items):
    for item in items:
        found.append(item)
    return []


def test_batches_follow_the_device_and_the_chunk_length_alone():
    assert batch_chunks("cpu", 128) == 256
    assert batch_chunks("cuda", 1024) == 2048
    assert batch_chunks("cpu", 100_000) == 1


def test_compiling_is_for_large_partitions_on_cuda_unless_asked():
    assert not compiles("auto", "cpu", 10**12)
    assert compiles("auto", "cuda", COMPILE_TOKENS)
    assert not compiles("auto", "cuda", COMPILE_TOKENS - 1)
    assert compiles("on", "cpu", 1)
    assert not compiles("off", "cuda", 10**12)


def test_the_work_of_a_forward_pass_is_two_operations_a_weight_and_the_attention():
    model = tiny_model()  # tied: the embedding is the head's matrix too
    matrices = 2 * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 48) + 97 * 32
    pairs = 10 * 11 / 2 + 3 * 4 / 2
    assert forward_flops(model, [10, 3]) == 2 * matrices * 13 + 4 * 2 * 32 * pairs
    model.config.num_experts = 4
    assert forward_flops(model, [10]) is None


def test_the_slowest_stage_is_named_and_the_ceiling_measured():
    assert StageSeconds(head=2.0, backbone=1.0).slowest == "head"
    assert Scored().tokens_per_second == 0.0
    assert matmul_ceiling("cpu", "float32") > 1e8


def test_new_chunks_that_lie_far_apart_are_scored_together(tmp_path, monkeypatch):
    score, sizes = Scorer.score, []
    monkeypatch.setattr(
        Scorer,
        "score",
        lambda scorer, chunks, progress=None: sizes.append(len(chunks)) or score(scorer, chunks, progress),
    )
    new = [f"c{i:03d}" for i in range(0, CHUNKS, 3)]
    rows, _ = run(tmp_path, known={f"c{i:03d}" for i in range(CHUNKS)} - set(new))
    assert sorted(rows["chunk_id"]) == new
    assert sizes == [BATCH, len(new) - BATCH]


def test_a_score_is_carried_over_from_another_corpus_with_the_bytes_of_this_one(tmp_path):
    lake = Lake.under(tmp_path)
    rows = pl.DataFrame(
        {
            "chunk_id": ["a" * 32, "b" * 32, "c" * 32, "d" * 32],
            "n_tokens": [4] * 4,
            "n_bytes": [12] * 4,
            "first_token_bytes": [3] * 4,
        }
    )
    sums = np.array([[1.0] * 4, [2.0] * 4, [5.0] * 4, [2.0] * 4])
    lost = scores_of(np.where([[False, False, True, False]] * 4, np.nan, sums), np.full(4, 3), [4] * 4)
    stored = score_rows(rows, lost, "old", "s").filter(pl.col("chunk_id") != "d" * 32)
    chunks = pl.DataFrame(
        [
            {column.name: {"string": "x", "int64": 1}.get(str(column.type)) for column in CHUNKS_TABLE.columns}
            | {
                "chunk_id": name * 32,
                "corpus": corpus,
                "n_tokens": 4,
                "n_bytes": size,
                "first_token_bytes": 2,
                "tokens": [1],
            }
            for corpus, size, names in (("old", 12, "abc"), ("new", 11, "acd"))
            for name in names
        ],
        schema=pl.Schema(CHUNKS_TABLE.schema),
    )
    writes = [lake.stage(PERPLEXITY_SCORES, stored), lake.stage(CHUNKS_TABLE, chunks)]
    lake.commit(writes, Provenance("perplexity_scores", "old", "run", "1", "inputs", "version"))
    (carried,) = carried_rows(lake.snapshot(), "new", "s").to_dicts()
    assert (carried["chunk_id"], carried["corpus"], carried["nll"]) == ("a" * 32, "new", 3.0)
    assert carried["scored_bytes"] == 11 - 2
    assert carried["bits_per_byte"] == pytest.approx(3.0 / np.log(2) / 9)
    assert carried_rows(lake.snapshot(), "new", "another scorer").is_empty()
    lake.close()
