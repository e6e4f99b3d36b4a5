"""Memory that runs out, a lost GPU, a full disk: what a person reads, and that no row is lost or half-written."""

import errno
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console

from ppl_assets import resources
from ppl_assets.automation import run
from ppl_assets.automation.backfill import backfill
from ppl_assets.automation.instance import study_instance
from ppl_assets.automation.run import RunError, execute
from ppl_assets.corpus import assets as corpus_assets
from ppl_assets.errors import UserError
from ppl_assets.failures import DeviceLostError, DiskFullError, MemoryLackError, machine_failure
from ppl_assets.lake import Lake, LakeError
from ppl_assets.perplexity import scoring
from ppl_assets.perplexity.scorer import Scorer
from ppl_assets.subset import shards
from ppl_assets.tables import CHUNKS, PERPLEXITY_SCORES, SELECTIONS, TRIAL_LOSSES
from ppl_assets.trials.trainer import Trainer

FULL = OSError(errno.ENOSPC, "No space left on device")
LOST = "CUDA error: unspecified launch failure\nCUDA kernel errors might be asynchronously reported"


def raises(error: BaseException):
    def fail(*_args, **_named):
        raise error

    return fail


def said(study, job: str, partition: str | None = None) -> str:
    """What the command line says of a job that fails."""
    with study_instance(study.platform.study) as instance, pytest.raises(RunError) as caught:
        execute(study.definitions, study.platform, instance, job, partition)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def table(study, name) -> pl.DataFrame:
    held = study.platform.lake.snapshot().read(name)
    return held.sort([column for column in held.columns if not held[column].dtype.is_nested()])


def staged(study) -> list[Path]:
    return [file for file in study.platform.lake.staging.rglob("*") if file.is_file()]


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), MemoryLackError, "of the GPU"),
        (MemoryError(), MemoryLackError, "trials.micro_tokens"),
        (np.exceptions.AxisError("nothing"), type(None), ""),
        (RuntimeError(LOST), DeviceLostError, "nvidia-smi"),
        (RuntimeError("CUDA error: device-side assert triggered"), DeviceLostError, "device-side assert triggered"),
        (RuntimeError("No CUDA GPUs are available"), DeviceLostError, "new process"),
        (RuntimeError("shapes do not match"), type(None), ""),
        (FULL, DiskFullError, "MB are free"),
        (duckdb.IOException('Could not write file "x": No space left on device'), DiskFullError, "storage.root"),
        (UserError("a text says no space left on device"), type(None), ""),
        (UserError("one chunk does not fit"), type(None), ""),
    ],
)
def test_a_failure_of_the_machine_is_told_from_every_other_error(error, kind, words, tmp_path):
    failure = machine_failure(error, "trial_losses", tmp_path)
    assert isinstance(failure, kind)
    assert words in str(failure)
    assert len(str(failure).splitlines()) == 1


def test_the_cause_of_an_error_counts_and_a_file_it_names_is_the_place(tmp_path):
    error = LakeError("could not write")
    error.__cause__ = OSError(errno.EDQUOT, "Disk quota exceeded", str(tmp_path / "tables" / "part.parquet"))
    assert f"the disk that holds {tmp_path} is full" in str(machine_failure(error, "chunks", Path("/")))


def test_scoring_halves_its_passes_where_gpu_memory_runs_out_and_gives_the_same_scores(study, monkeypatch):
    monkeypatch.setenv("PPL__SCORE__FIRST_TOKEN", "unscored")
    sizes, states = [], Scorer.hidden_states

    def small_device(scorer, rows, products=None):
        if len(rows.targets) > 640:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        sizes.append(len(rows.targets))
        return states(scorer, rows, products)

    monkeypatch.setattr(Scorer, "hidden_states", small_device)
    assert study.materialize("score_corpus", "easy").success
    assert 0 < max(sizes) <= 640


def test_memory_that_no_smaller_pass_mends_is_answered_with_the_setting_to_lower(study, monkeypatch):
    before = table(study, TRIAL_LOSSES)
    monkeypatch.setenv("PPL__TRIALS__LEARNING_RATE", "0.001")
    trial = before["trial"][0]
    monkeypatch.setattr(Trainer, "step", raises(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")))
    sentence = said(study, "run_trial", trial)
    assert "the memory of the GPU does not hold trial_losses" in sentence
    assert "trials.gradient_checkpointing = true" in sentence
    assert table(study, TRIAL_LOSSES).equals(before)
    monkeypatch.setattr(corpus_assets, "build_chunks", raises(MemoryError()))
    monkeypatch.setenv("PPL__CHUNKS__MIN_TOKENS", "16")
    assert "corpora.NAME.buckets" in said(study, "chunk_corpus", "easy")


class Losing:
    """A GPU that fails at the third batch, so many times."""

    def __init__(self, monkeypatch, times: int) -> None:
        self.calls, self.times, score = 0, times, Scorer.score
        monkeypatch.setattr(resources, "SECONDS_BEFORE_RETRY", 0)
        monkeypatch.setenv("PPL__SCORE__FIRST_TOKEN", "unscored")
        monkeypatch.setitem(scoring.BATCH_TOKENS, "cpu", 64 * 32)

        def scored(scorer, chunks, progress=None):
            self.calls += 1
            if self.calls >= 3 and self.times:
                self.times -= 1
                raise RuntimeError(LOST)
            return score(scorer, chunks, progress)

        monkeypatch.setattr(Scorer, "score", scored)


def test_a_lost_gpu_is_tried_once_more_and_the_rows_so_far_are_kept(copies, monkeypatch):
    undisturbed, disturbed = copies("undisturbed"), copies("disturbed")
    losing = Losing(monkeypatch, times=0)
    assert undisturbed.materialize("score_corpus", "easy").success
    batches, losing.calls, losing.times = losing.calls, 0, 1
    result = disturbed.materialize("score_corpus", "easy")
    assert result.success
    assert len([event for event in result.all_events if event.is_step_up_for_retry]) == 1
    assert losing.calls == batches + 1  # nothing that was finished is scored again
    assert table(disturbed, PERPLEXITY_SCORES).equals(table(undisturbed, PERPLEXITY_SCORES))


def test_a_gpu_that_stays_lost_is_one_sentence_and_the_rest_of_the_backfill_waits_for_another_process(
    study, monkeypatch
):
    from rich.console import Console

    losing = Losing(monkeypatch, times=99)
    with study_instance(study.platform.study) as instance:
        keys = ["easy", "hard", "general"]
        done = backfill(study.definitions, study.platform, instance, Console(quiet=True), "perplexity_scores", keys)
    assert list(done.failed) == ["easy"]
    assert done.left == ["hard", "general"]
    assert (
        "the GPU failed while perplexity_scores was computed (CUDA error: unspecified launch failure)"
        in (done.failed["easy"])
    )
    assert losing.times == 97  # once, and once more
    assert len(list((study.platform.root / "spool").rglob("*.parquet"))) == 2


def test_a_disk_that_is_full_while_rows_are_staged_leaves_the_old_ones(study, monkeypatch):
    before = table(study, CHUNKS)
    monkeypatch.setenv("PPL__CHUNKS__MIN_TOKENS", "16")
    with monkeypatch.context() as full:
        full.setattr(pq.ParquetWriter, "write_batch", raises(FULL))
        sentence = said(study, "chunk_corpus", "easy")
    assert f"the disk that holds {study.platform.root} is full" in sentence
    assert " MB are free" in sentence
    assert table(study, CHUNKS).equals(before)
    assert staged(study) == []
    assert study.materialize("chunk_corpus", "easy").success


def test_a_disk_that_is_full_while_a_commit_is_written_leaves_the_old_rows(study, monkeypatch):
    before = table(study, CHUNKS)
    monkeypatch.setenv("PPL__CHUNKS__MIN_TOKENS", "16")
    with monkeypatch.context() as full:
        full.setattr(Lake, "_transact_once", raises(duckdb.IOException("IO Error: No space left on device")))
        assert "is full" in said(study, "chunk_corpus", "easy")
    assert table(study, CHUNKS).equals(before)
    assert staged(study) == []


def test_a_disk_that_is_full_while_exporting_leaves_no_half_export(study, monkeypatch):
    monkeypatch.setenv("PPL__SELECTION__TOKENS", "2048")
    with monkeypatch.context() as full:
        full.setattr(shards, "_line", raises(FULL))
        assert "is full" in said(study, "select_subset")
    selection = table(study, SELECTIONS).row(0, named=True)
    exports = study.platform.root / "exports"
    assert selection["selection_id"] not in [path.name for path in exports.iterdir()]
    assert not [path for path in exports.iterdir() if path.name.startswith(".")]
    assert study.materialize("select_subset").success
    assert (exports / selection["selection_id"] / "manifest.json").is_file()


def test_a_disk_that_is_full_while_scores_are_kept_leaves_whole_batches_only(study, monkeypatch):
    monkeypatch.setenv("PPL__SCORE__FIRST_TOKEN", "unscored")
    monkeypatch.setitem(scoring.BATCH_TOKENS, "cpu", 64 * 32)
    write, calls = pl.DataFrame.write_parquet, []

    def two_then_full(frame, file, *args, **named):
        calls.append(file)
        if len(calls) > 2:
            Path(file).write_bytes(b"half")
            raise FULL
        return write(frame, file, *args, **named)

    monkeypatch.setattr(pl.DataFrame, "write_parquet", two_then_full)
    assert "is full" in said(study, "score_corpus", "easy")
    kept = [path.name for path in (study.platform.root / "spool").rglob("*") if path.is_file()]
    assert sorted(kept) == ["000000.parquet", "000001.parquet"]


def test_a_corpus_that_cannot_be_read_is_told_though_a_stage_fails_too(monkeypatch):
    def fails(*_given):
        raise RunError("the stage broke")

    monkeypatch.setattr(run, "_observe", lambda *_given: RunError("easy cannot be read"))
    monkeypatch.setattr(run, "_stage", fails)
    with pytest.raises(RunError, match=r"easy cannot be read\nthe stage broke"):
        run.run_study(None, None, None, Console(quiet=True))
