"""The corpus group in Dagster: raw_corpus, test_documents, chunks."""

from collections.abc import Mapping
from typing import Any

import dagster as dg
import polars as pl
import pyarrow.compute as pc

from ppl_assets.corpus.cleaning import TestGuard
from ppl_assets.corpus.files import corpus_version
from ppl_assets.corpus.held_out import select_test_documents
from ppl_assets.corpus.pipeline import build_chunks, near_test_violations
from ppl_assets.corpus.tokenizer import load_fast_tokenizer
from ppl_assets.fingerprint import fingerprint_of_rows
from ppl_assets.lake import Lake, Snapshot
from ppl_assets.resources import CORPUS_PARTITIONS, Inputs, Platform, column_schema, table_metadata
from ppl_assets.study import Study
from ppl_assets.tables import BASE_MODEL, CHUNKS, CLEANING_COUNTS, REJECTED_ROWS, TEST_DOCUMENTS

CODE_VERSION = "1"
"""Of this stage's output: raised when the same files would give other rows."""


def versions_of(study: Study, roles: tuple[str, ...]) -> dict[str, str]:
    """Content version of every corpus partition with one of these roles."""
    versions = {}
    for partition in study.corpus_partitions():
        _, settings, bucket = study.corpus_of(partition)
        if settings.role in roles:
            versions[partition] = corpus_version(settings, bucket)
    return versions


@dg.observable_source_asset(
    group_name="corpus",
    partitions_def=CORPUS_PARTITIONS,
    description="The team's files. Observed, never written: one data version a corpus, from the files' content.",
)
def raw_corpus(context: dg.OpExecutionContext, platform: Platform) -> dg.DataVersionsByPartition:
    """Data version of each corpus partition asked for, or of all."""
    study = platform.study
    asked = list(context.partition_keys) if context.has_partition_key else study.corpus_partitions()
    versions = {}
    for partition in asked:
        _, settings, bucket = study.corpus_of(partition)
        versions[partition] = corpus_version(settings, bucket)
        context.log.info(f"corpus {partition} has content version {versions[partition]}")
    return dg.DataVersionsByPartition(versions)


def test_documents_inputs(study: Study, lake: Lake, _snapshot: Snapshot, _partition: str = "") -> Inputs:
    """What decides which documents are set aside.

    Documents held out of the corpora are drawn once: as long as the share and the corpora stay, new documents do not
    move the test set, since every trial ever run is measured on it.
    """
    drawn_from = versions_of(study, ("test", "general"))
    if not study.has_target:
        latest = lake.latest("test_documents")
        frozen = latest.facts.get("drawn_from", "") if latest else ""
        present = sorted(study.with_role("candidate"))
        drawn_from["held_out"] = frozen if frozen and set(frozen.split()) <= set(present) else " ".join(present)
    held_out = study.held_out.model_dump(include={"test_share", "general_share"})
    return Inputs([CODE_VERSION, drawn_from, held_out], {"drawn_from": drawn_from.get("held_out", "target text")})


@dg.asset(
    group_name="corpus",
    deps=[dg.AssetDep(raw_corpus)],
    kinds={"duckdb", "parquet"},
    code_version=CODE_VERSION,
    metadata=table_metadata(TEST_DOCUMENTS),
    description=(
        "Documents set aside before anything is scored: the target text that the study names (or documents held out of "
        "the corpora by hash), and general text to measure forgetting."
    ),
)
def test_documents(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
    """Set test and general documents aside."""
    study, step = platform.study, platform.step(context, CODE_VERSION)
    inputs = test_documents_inputs(study, step.lake, step.snapshot)
    commit = step.unchanged(inputs)
    if commit is None:
        documents = list(select_test_documents(study))
        rows = pl.DataFrame(
            [{c.name: _plain(getattr(document, c.name)) for c in TEST_DOCUMENTS.columns} for document in documents],
            schema=pl.Schema(TEST_DOCUMENTS.schema),
        )
        version = fingerprint_of_rows(rows.select("doc_id", "split", "text_hash").sort("doc_id").iter_rows())
        commit = step.write([step.stage(TEST_DOCUMENTS, rows)], inputs, version)
    stored = step.lake.snapshot().read(TEST_DOCUMENTS, ["split", "characters"])
    counts = stored.group_by("split").agg(pl.len().alias("documents"), pl.col("characters").sum()).sort("split")
    metadata = {"documents": dg.MetadataValue.md(as_markdown_table(counts))}
    return step.result(commit, metadata, table=TEST_DOCUMENTS, rows=stored.height)


def chunks_inputs(study: Study, _lake: Lake, snapshot: Snapshot, partition: str) -> Inputs:
    """What decides a corpus' chunks: its content, the cleaning rules, the tokenizer and the test documents."""
    _, settings, bucket = study.corpus_of(partition)
    version = corpus_version(settings, bucket)
    tokenizer = snapshot.read(BASE_MODEL, ["tokenizer_fingerprint"]).item()
    test = snapshot.read(TEST_DOCUMENTS, ["doc_id", "text_hash"]).sort("doc_id")
    return Inputs(
        [CODE_VERSION, version, study.chunks.model_dump(), settings.role, tokenizer, fingerprint_of_rows(test.iter_rows())],
        {"corpus_version": version, "tokenizer": tokenizer},
    )


@dg.asset(
    group_name="corpus",
    deps=[raw_corpus, test_documents, "base_model"],
    partitions_def=CORPUS_PARTITIONS,
    kinds={"duckdb", "parquet", "huggingface"},
    code_version=CODE_VERSION,
    metadata={**table_metadata(CHUNKS), "rejected_rows": column_schema(REJECTED_ROWS)},
    description=(
        "Fixed-length token chunks of clean, deduplicated documents; split into candidates and test. "
        "Bad rows are listed in table rejected_rows, every document's fate in cleaning_counts."
    ),
)
def chunks(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
    """Clean, deduplicate and chunk one corpus; the old rows stay where anything fails."""
    study, step = platform.study, platform.step(context, CODE_VERSION)
    inputs = chunks_inputs(study, step.lake, step.snapshot, step.partition)
    commit = step.unchanged(inputs)
    if commit is None:
        base = step.snapshot.read(BASE_MODEL).row(0, named=True)
        progress = step.progress("documents")
        stream = build_chunks(
            study,
            step.partition,
            load_fast_tokenizer(base["path"]),
            base["tokenizer_fingerprint"],
            step.snapshot.read(TEST_DOCUMENTS, ["doc_id", "split", "text_hash", "text"]),
            progress=lambda documents, made: progress.update(documents, note=f"{made:,} chunks"),
        )
        ids: list[str] = []
        chunk_rows = step.stage(CHUNKS, _watched(stream, ids))
        writes = [chunk_rows, step.stage(REJECTED_ROWS, stream.rejected), step.stage(CLEANING_COUNTS, stream.counts)]
        commit = step.write(writes, inputs, fingerprint_of_rows(sorted(ids)))
    return step.result(commit, *_chunks_metadata(step.lake.snapshot(), step.partition))


def _watched(stream: Any, ids: list[str]) -> Any:
    """The batches as they are, their chunk ids noted on the way."""
    for batch in stream:
        ids.extend(
            f"{split} {chunk}" for split, chunk in zip(batch["split"].to_pylist(), batch["chunk_id"].to_pylist(), strict=True)
        )
        yield batch
