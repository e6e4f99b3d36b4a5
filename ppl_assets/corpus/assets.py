"""The corpus group in Dagster: raw_corpus, test_documents, chunks."""

from collections.abc import Iterable, Iterator

import dagster as dg
import polars as pl
import pyarrow as pa

from ppl_assets.corpus.budget import last_kept_id, within_budget
from ppl_assets.corpus.files import corpus_version
from ppl_assets.corpus.held_out import TestDocument, TestSet, select_test_documents
from ppl_assets.corpus.leaks import near_test_violations
from ppl_assets.corpus.pipeline import ChunkStream, build_chunks
from ppl_assets.corpus.tokenizer import load_tokenizer
from ppl_assets.fingerprint import fingerprint_of_rows
from ppl_assets.lake import Commit, Lake, Snapshot, Write
from ppl_assets.markdown import as_markdown_table
from ppl_assets.resources import CORPUS_PARTITIONS, Inputs, Platform, Step, column_schema, table_metadata
from ppl_assets.study import Study
from ppl_assets.tables import BASE_MODEL, CHUNKS, CLEANING_COUNTS, REJECTED_ROWS, TEST_DOCUMENTS

CODE_VERSION = "1"
"""Of this stage's output: raised when the same files would give other rows."""

REJECTED_SHOWN = 20
"""Rejected rows shown in the metadata; all are in the table."""

NOT_TEXT = "rejected:binary_file"
"""Pictures and libraries lie in many text trees: listed, but no reason to warn."""

MOST_REJECTED = 0.2
"""Share of rejected rows from which a corpus deserves a warning."""


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


def held_out_inputs(study: Study, lake: Lake, _snapshot: Snapshot, _partition: str = "") -> Inputs:
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
    inputs = held_out_inputs(study, step.lake, step.snapshot)
    commit = step.unchanged(inputs)
    if commit is None:
        columns = [column.name for column in TEST_DOCUMENTS.columns]
        documents = [{name: getattr(d, name) for name in columns} for d in select_test_documents(study)]
        rows = pl.DataFrame(documents, schema=pl.Schema(TEST_DOCUMENTS.schema))
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
        [
            CODE_VERSION,
            version,
            settings.on_bad_row,
            study.chunks.model_dump(),
            tokenizer,
            fingerprint_of_rows(test.iter_rows()),
        ],
        {"corpus_version": version, "tokenizer": tokenizer},
    )


def stored_test_set(study: Study, snapshot: Snapshot) -> TestSet:
    """The test and general documents of the lake, ready to be kept out of candidates."""
    rows = snapshot.read(TEST_DOCUMENTS, ["doc_id", "corpus", "split", "text", "text_hash"]).iter_rows(named=True)
    return TestSet.of((TestDocument(**row) for row in rows), study)


@dg.asset(
    group_name="corpus",
    deps=[raw_corpus, test_documents, "base_model"],
    partitions_def=CORPUS_PARTITIONS,
    kinds={"duckdb", "parquet", "huggingface"},
    code_version=CODE_VERSION,
    metadata={**table_metadata(CHUNKS), "rejected_rows": column_schema(REJECTED_ROWS)},
    description=(
        "Fixed-length token chunks of clean, deduplicated documents; split into candidate, test and general. "
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
            load_tokenizer(base["path"]),
            base["tokenizer_fingerprint"],
            stored_test_set(study, step.snapshot),
            progress=lambda documents, made: progress.update(documents, note=f"{made:,} chunks"),
        )
        ids: list[tuple[str, str]] = []
        chunk_rows = _staged_chunks(step, stream, study.chunks.max_tokens, ids)
        writes = [chunk_rows, step.stage(REJECTED_ROWS, stream.rejected), step.stage(CLEANING_COUNTS, stream.counts)]
        commit = step.write(writes, inputs, fingerprint_of_rows(sorted(ids)))
    return _chunks_result(step, commit)


def _staged_chunks(step: Step, stream: ChunkStream, max_tokens: int | None, ids: list[tuple[str, str]]) -> Write:
    """The stream's chunks, staged; where there is a budget, only as many candidates as fit."""
    if max_tokens is None:
        return step.stage(CHUNKS, _noting_ids(stream, ids))
    everything = step.stage(CHUNKS, stream)
    columns = ["chunk_id", "n_tokens", "split"]
    rows = (row for batch in step.lake.staged_rows(everything, columns) for row in batch.to_pylist())
    sizes = ((row["chunk_id"], row["n_tokens"]) for row in rows if row["split"] == "candidate")
    kept = within_budget(step.lake.staged_rows(everything), last_kept_id(sizes, max_tokens))
    write = step.stage(CHUNKS, _noting_ids(kept, ids))
    step.lake.discard(everything)
    step.log(f"{write.rows:,} of {everything.rows:,} chunks kept: chunks.max_tokens = {max_tokens:,}")
    return write


def _noting_ids(stream: Iterable[pa.RecordBatch], ids: list[tuple[str, str]]) -> Iterator[pa.RecordBatch]:
    """The batches as they are; split and chunk id of every row are noted on the way, for the data version."""
    for batch in stream:
        ids.extend(zip(batch["split"].to_pylist(), batch["chunk_id"].to_pylist(), strict=True))
        yield batch


def _chunks_result(step: Step, commit: Commit) -> dg.MaterializeResult:
    """Row counts by split, what became of the documents, and the first rejected rows."""
    snapshot, where = step.lake.snapshot(), {"corpus": step.partition}
    splits = snapshot.read(CHUNKS, ["split", "n_tokens", "n_bytes"], where)
    counts = splits.group_by("split").agg(pl.len().alias("chunks"), pl.col("n_tokens", "n_bytes").sum()).sort("split")
    outcomes = snapshot.read(CLEANING_COUNTS, ["outcome", "documents", "characters"], where).sort("outcome")
    rejected = snapshot.read(REJECTED_ROWS, ["source", "position", "reason", "detail"], where)
    metadata = {
        "corpus_version": commit.facts.get("corpus_version", ""),
        "tokens": int(splits["n_tokens"].sum()),
        "splits": dg.MetadataValue.md(as_markdown_table(counts)),
        "documents": dg.MetadataValue.md(as_markdown_table(outcomes)),
        "rejected_rows": rejected.height,
        "rejected_rows_first": dg.MetadataValue.md(as_markdown_table(rejected.head(REJECTED_SHOWN))),
    }
    return step.result(commit, metadata, table=CHUNKS, rows=splits.height)


@dg.asset_check(
    asset=chunks,
    blocking=True,
    partitions_def=CORPUS_PARTITIONS,
    description="No candidate chunk holds text of a test document: judged from the stored texts alone.",
)
def no_candidate_holds_test_text(context: dg.AssetCheckExecutionContext, platform: Platform) -> dg.AssetCheckResult:
    """Look for test text in every candidate chunk of the partition."""
    snapshot = platform.lake.snapshot()
    guard = stored_test_set(platform.study, snapshot).guard
    where = {"corpus": context.partition_key, "split": "candidate"}
    batches = snapshot.scan(CHUNKS, ["chunk_id", "text"], where)
    pairs = (pair for b in batches for pair in zip(b["chunk_id"].to_pylist(), b["text"].to_pylist(), strict=True))
    violations = list(near_test_violations(pairs, guard))
    shown = "; ".join(f"chunk {v.chunk_id}: {v.reason}" for v in violations[:3])
    sentence = f"{len(violations)} candidate chunks hold test text{': ' + shown if shown else '.'}"
    return dg.AssetCheckResult(passed=not violations, description=sentence, metadata={"violations": len(violations)})


@dg.asset_check(
    asset=chunks,
    blocking=True,
    partitions_def=CORPUS_PARTITIONS,
    description="Chunk ids are distinct, no chunk is longer than the window, each has as many token ids as it says.",
)
def chunks_are_sound(context: dg.AssetCheckExecutionContext, platform: Platform) -> dg.AssetCheckResult:
    """Count what would break scoring or training."""
    sql = """SELECT count(*) AS chunks, count(*) - count(DISTINCT chunk_id) AS doubled,
                    count(*) FILTER (n_tokens > $window OR n_tokens < 1) AS too_long,
                    count(*) FILTER (len(tokens) <> n_tokens OR strlen(text) <> n_bytes) AS inconsistent
             FROM {chunks} WHERE corpus = $corpus"""
    parameters = {"corpus": context.partition_key, "window": platform.study.chunks.tokens}
    found = platform.lake.snapshot().query(sql, (CHUNKS,), parameters).row(0, named=True)
    sentence = (
        f"{found['chunks']:,} chunks: {found['doubled']} ids twice, {found['too_long']} of impossible length, "
        f"{found['inconsistent']} with lengths that disagree."
    )
    return dg.AssetCheckResult(
        passed=not (found["doubled"] or found["too_long"] or found["inconsistent"]), description=sentence
    )


@dg.asset_check(
    asset=chunks,
    partitions_def=CORPUS_PARTITIONS,
    description="The corpus gives at least one chunk, and few of its rows are rejected.",
)
def most_rows_are_used(context: dg.AssetCheckExecutionContext, platform: Platform) -> dg.AssetCheckResult:
    """Warn where much of a corpus is lost on the way."""
    counts = platform.lake.snapshot().read(CLEANING_COUNTS, where={"corpus": context.partition_key})
    documents = counts.filter(~pl.col("outcome").str.ends_with("_chunk") & (pl.col("outcome") != NOT_TEXT))
    total = int(documents["documents"].sum())
    rejected = int(documents.filter(pl.col("outcome").str.starts_with("rejected"))["documents"].sum())
    used = int(documents.filter(pl.col("outcome").is_in(["kept", "held_out"]))["documents"].sum())
    sentence = (
        f"{used:,} of {total:,} documents are used, {rejected:,} rows are rejected; table cleaning_counts says why."
    )
    passed = used > 0 and rejected <= MOST_REJECTED * max(total, 1)
    return dg.AssetCheckResult(passed=passed, severity=dg.AssetCheckSeverity.WARN, description=sentence)


ASSETS = [raw_corpus, test_documents, chunks]
CHECKS = [no_candidate_holds_test_text, chunks_are_sound, most_rows_are_used]
