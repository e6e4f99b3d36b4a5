"""The corpus group in Dagster: raw_corpus, test_documents, chunks."""

import time
from collections.abc import Iterable, Iterator

import dagster as dg
import polars as pl
import pyarrow as pa
from dagster._core.definitions.data_version import DATA_VERSION_IS_USER_PROVIDED_TAG, DATA_VERSION_TAG

from ppl_assets.corpus.budget import last_kept_id, within_budget
from ppl_assets.corpus.digest import UnorderedDigest
from ppl_assets.corpus.errors import CorpusError
from ppl_assets.corpus.files import corpus_version
from ppl_assets.corpus.held_out import no_test_document, select_test_documents
from ppl_assets.corpus.leaks import near_test_violations
from ppl_assets.corpus.pipeline import ChunkStream, build_chunks, require_context
from ppl_assets.corpus.stored import stored_documents, stored_rows, stored_test_set
from ppl_assets.corpus.tokenizer import cached_tokenizer
from ppl_assets.fingerprint import fingerprint, fingerprint_of_rows
from ppl_assets.lake import Commit, Lake, Snapshot, Write
from ppl_assets.markdown import as_markdown_table
from ppl_assets.resources import (
    CORPUS_PARTITIONS,
    Inputs,
    Platform,
    Step,
    column_schema,
    in_plain_words,
    table_metadata,
    tagged_corpora,
)
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
    group_name="1_corpus",
    partitions_def=CORPUS_PARTITIONS,
    description="The team's files. Observed, never written: one data version a corpus, from the files' content.",
)
def raw_corpus(context: dg.OpExecutionContext, platform: Platform) -> dg.DataVersionsByPartition:
    """Data version of each corpus partition asked for, by its key or by the run's tag, or of all.

    Raises:
        CorpusError: some cannot be read; the others are observed all the same.
    """
    study = platform.study
    tagged = tagged_corpora(context.run.tags) or study.corpus_partitions()
    asked = list(context.partition_keys) if context.has_partition_key else tagged
    versions: dict[str, str] = {}
    unread: dict[str, str] = {}
    for partition in asked:
        _, settings, bucket = study.corpus_of(partition)
        try:
            version = corpus_version(settings, bucket)
        except (CorpusError, OSError) as error:
            unread[partition] = str(error).rstrip(".")
        else:
            versions[partition] = version
            context.log.info(f"corpus {partition} has content version {version}")
    if unread:
        for partition, version in versions.items():
            tags = {DATA_VERSION_TAG: version, DATA_VERSION_IS_USER_PROVIDED_TAG: "true"}
            context.log_event(dg.AssetObservation("raw_corpus", partition=partition, tags=tags))
        raise CorpusError("; ".join(f"corpus {partition}: {sentence}" for partition, sentence in unread.items()))
    return dg.DataVersionsByPartition(versions)


def held_out_inputs(study: Study, _lake: Lake, snapshot: Snapshot, _partition: str = "") -> Inputs:
    """What decides which documents are set aside: what decides split test, and apart from it general text.

    Documents held out of the corpora are drawn once: as long as the share and the corpora that they were drawn from
    stay, neither new documents nor other general text move the test set, since every trial ever run is measured on it.
    A target that the study names is read again whenever its version changes.
    """
    near = study.chunks.model_dump(include={"near_duplicate_threshold", "shingle", "permutations"})
    drawn_from, test = _held_out_corpora(study, snapshot)
    if study.has_target:
        drawn_from, test = "target text", fingerprint(CODE_VERSION, versions_of(study, ("test",)), near)
    general = [study.held_out.general_share, versions_of(study, ("general",)), near]
    return Inputs([CODE_VERSION, test, general], {"drawn_from": drawn_from, "test_inputs": test})


def _held_out_corpora(study: Study, snapshot: Snapshot) -> tuple[str, str]:
    """Names of the corpora that test documents are held out of, and the fingerprint of what decides that draw.

    Those of the stored draw where its share is the study's and the study still has them all; else all candidates.
    """

    def of(names: str) -> tuple[str, str]:
        return names, fingerprint(CODE_VERSION, study.held_out.test_share, names)

    present, latest = sorted(study.with_role("candidate")), snapshot.latest("test_documents")
    if latest:
        names = latest.facts.get("drawn_from", "")
        if set(names.split()) <= set(present) and latest.facts.get("test_inputs") == of(names)[1]:
            return of(names)
    return of(" ".join(present))


@dg.asset(
    group_name="1_corpus",
    deps=[dg.AssetDep(raw_corpus)],
    kinds={"duckdb", "parquet"},
    code_version=CODE_VERSION,
    metadata=table_metadata(TEST_DOCUMENTS),
    description=(
        "Documents set aside before anything is scored: the target text that the study names (or documents held out of "
        "the corpora by hash), and general text to measure forgetting."
    ),
)
@in_plain_words
def test_documents(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
    """Set test and general documents aside."""
    study, step = platform.study, platform.step(context, CODE_VERSION)
    inputs = held_out_inputs(study, step.lake, step.snapshot)
    commit = step.unchanged(inputs)
    if commit is None:
        rows = _selected(study, step, inputs)
        version = fingerprint_of_rows(rows.select("doc_id", "split", "text_hash").sort("doc_id").iter_rows())
        commit = step.write([step.stage(TEST_DOCUMENTS, rows)], inputs, version)
    stored = step.lake.snapshot().read(TEST_DOCUMENTS, ["split", "characters"])
    counts = stored.group_by("split").agg(pl.len().alias("documents"), pl.col("characters").sum()).sort("split")
    metadata = {"documents": dg.MetadataValue.md(as_markdown_table(counts))}
    return step.result(commit, metadata, table=TEST_DOCUMENTS, rows=stored.height)


def _selected(study: Study, step: Step, inputs: Inputs) -> pl.DataFrame:
    """Rows of ``TEST_DOCUMENTS``; those of split test are the stored ones where what decides them has not changed.

    Raises:
        CorpusError: there is no document of split test.
    """
    latest, drawn = step.snapshot.latest("test_documents"), None
    if latest and latest.facts.get("test_inputs") == inputs.facts["test_inputs"]:
        drawn = stored_documents(step.snapshot, {"split": "test"})
    columns = [column.name for column in TEST_DOCUMENTS.columns]
    documents = [{name: getattr(d, name) for name in columns} for d in select_test_documents(study, drawn)]
    rows = pl.DataFrame(documents, schema=pl.Schema(TEST_DOCUMENTS.schema))
    found = set(rows["split"])
    if "test" not in found:
        raise CorpusError(no_test_document(study))
    if study.with_role("general") and "general" not in found:
        share = study.held_out.general_share
        step.log(f"no general document is set aside at held_out.general_share = {share:g}: forgetting is not measured")
    return rows


def chunks_inputs(study: Study, _lake: Lake, snapshot: Snapshot, partition: str) -> Inputs:
    """What decides a corpus' chunks: its content, the cleaning rules, the tokenizer and the test documents."""
    _, settings, bucket = study.corpus_of(partition)
    return chunks_inputs_at(study, snapshot, partition, corpus_version(settings, bucket))


def chunks_inputs_at(study: Study, snapshot: Snapshot, partition: str, version: str) -> Inputs:
    """As :func:`chunks_inputs`, for a content version that is known."""
    _, settings, _ = study.corpus_of(partition)
    tokenizer = snapshot.only_row(BASE_MODEL)["tokenizer_fingerprint"]
    test = stored_rows(snapshot, ["doc_id", "text_hash"]).sort("doc_id")
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


@dg.asset(
    group_name="1_corpus",
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
@in_plain_words
def chunks(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
    """Clean, deduplicate and chunk one corpus; the old rows stay where anything fails."""
    study, step = platform.study, platform.step(context, CODE_VERSION)
    base = step.snapshot.only_row(BASE_MODEL)
    require_context(study.chunks.tokens, base["context_length"], base["source"])
    inputs = chunks_inputs(study, step.lake, step.snapshot, step.partition)
    commit = step.unchanged(inputs)
    if commit is None:
        progress = step.progress("documents")
        stream = build_chunks(
            study,
            step.partition,
            cached_tokenizer(base["path"]),
            base["tokenizer_fingerprint"],
            stored_test_set(study, step.snapshot),
            progress=lambda documents, made: progress.update(documents, note=f"{made:,} chunks"),
        )
        digest = UnorderedDigest()
        chunk_rows = _staged_chunks(step, stream, study.chunks.max_tokens, digest)
        writes = [chunk_rows, step.stage(REJECTED_ROWS, stream.rejected), step.stage(CLEANING_COUNTS, stream.counts)]
        commit = step.write(writes, inputs, digest.hexdigest())
    return _chunks_result(step, commit)


def _staged_chunks(step: Step, stream: ChunkStream, max_tokens: int | None, digest: UnorderedDigest) -> Write:
    """The stream's chunks, staged; where there is a budget, only as many candidates as fit."""
    if max_tokens is None:
        return step.stage(CHUNKS, _digested(stream, digest))
    everything = step.stage(CHUNKS, stream)
    columns = ["chunk_id", "n_tokens", "split"]
    rows = (row for batch in step.lake.staged_rows(everything, columns) for row in batch.to_pylist())
    sizes = ((row["chunk_id"], row["n_tokens"]) for row in rows if row["split"] == "candidate")
    kept = within_budget(step.lake.staged_rows(everything), last_kept_id(sizes, max_tokens))
    write = step.stage(CHUNKS, _digested(kept, digest))
    step.lake.discard(everything)
    step.log(f"{write.rows:,} of {everything.rows:,} chunks kept: chunks.max_tokens = {max_tokens:,}")
    return write


def _digested(stream: Iterable[pa.RecordBatch], digest: UnorderedDigest) -> Iterator[pa.RecordBatch]:
    """The batches as they are; split, id and origin of every row go into the data version on the way."""
    for batch in stream:
        columns = [batch[name].to_pylist() for name in ("split", "chunk_id", "doc_id", "source")]
        digest.update(" ".join(row) for row in zip(*columns, strict=True))
        yield batch


def _chunks_result(step: Step, commit: Commit) -> dg.MaterializeResult:
    """Row counts by split, what became of the documents, and the first rejected rows."""
    snapshot, where = step.lake.snapshot(), {"corpus": step.partition}
    splits = snapshot.read(CHUNKS, ["split", "n_tokens", "n_bytes"], where)
    counts = splits.group_by("split").agg(pl.len().alias("chunks"), pl.col("n_tokens", "n_bytes").sum()).sort("split")
    outcomes = snapshot.read(CLEANING_COUNTS, ["outcome", "documents", "characters"], where).sort("outcome")
    rejected = snapshot.read(REJECTED_ROWS, ["source", "position", "reason", "detail"], where)
    tokens = int(splits["n_tokens"].sum())
    metadata: dict[str, object] = {
        "corpus_version": commit.facts.get("corpus_version", ""),
        "tokens": tokens,
        "splits": dg.MetadataValue.md(as_markdown_table(counts)),
        "documents": dg.MetadataValue.md(as_markdown_table(outcomes)),
        "rejected_rows": rejected.height,
        "rejected_rows_first": dg.MetadataValue.md(as_markdown_table(rejected.head(REJECTED_SHOWN))),
    }
    if commit.run_id == step.run_id:
        metadata["tokens_per_second"] = round(tokens / max(time.monotonic() - step.started, 1e-9), 1)
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
