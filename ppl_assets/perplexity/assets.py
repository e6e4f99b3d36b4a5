"""The perplexity group in Dagster: base_model, perplexity_scores, perplexity_landscape."""

from dataclasses import asdict
from pathlib import Path

import dagster as dg
import polars as pl

from ppl_assets import plots
from ppl_assets.corpus.assets import chunks, raw_corpus, test_documents, versions_of
from ppl_assets.corpus.general import general_texts
from ppl_assets.fingerprint import fingerprint, fingerprint_of_rows
from ppl_assets.lake import Commit, Lake, Snapshot
from ppl_assets.markdown import as_markdown_table
from ppl_assets.perplexity.accepted import ScoringError
from ppl_assets.perplexity.base_model import BaseModel
from ppl_assets.perplexity.checks import judge_against_oracle, judge_completeness, sampled_scores
from ppl_assets.perplexity.device import resolve_device
from ppl_assets.perplexity.landscape_rows import landscape_rows
from ppl_assets.perplexity.policy import ScorePolicy
from ppl_assets.perplexity.scopes import landscape_scopes
from ppl_assets.perplexity.score_rows import ScoreSpool, carried_rows, digest, merged
from ppl_assets.perplexity.scored import Scored
from ppl_assets.perplexity.scorer_facts import ScorerFacts, changed_scorer, facts_of
from ppl_assets.perplexity.stored import content_versions, stored_base_model, study_policy
from ppl_assets.resources import (
    CORPUS_PARTITIONS,
    GPU_POOL,
    Inputs,
    Platform,
    Step,
    column_schema,
    in_plain_words,
    table_metadata,
)
from ppl_assets.study import Study
from ppl_assets.tables import (
    BASE_MODEL,
    CHUNKS,
    LANDSCAPE_HISTOGRAM,
    PERPLEXITY_LANDSCAPE,
    PERPLEXITY_SCORES,
    REGIMES,
    SCORERS,
    TEST_DOCUMENTS,
)

CODE_VERSION = "2"
"""Of this stage's output; the scorer's arithmetic has a version of its own in the scorer's fingerprint.

2: a model's id is also of its configuration.
"""


def base_model_inputs(study: Study, _lake: Lake, snapshot: Snapshot, _partition: str = "") -> Inputs:
    """What decides the base model: source and revision; for the recipe also the text that it is pre-trained on."""
    settings = study.base_model
    if settings.source != "recipe":
        return Inputs([CODE_VERSION, settings.source, settings.revision, _files_of(settings.source)])
    held_out = sorted(snapshot.read(TEST_DOCUMENTS, ["text_hash"])["text_hash"])
    text = versions_of(study, ("general",))
    return Inputs([CODE_VERSION, settings.recipe.model_dump(), text, fingerprint(held_out), study.study.seed])


def _files_of(source: str) -> list[tuple[str, int, int]]:
    """Name, size and time of a local model's files: other weights under the same name are another model."""
    path = Path(source)
    files = sorted(path.iterdir()) if path.is_dir() else [path] if path.is_file() else []
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]


def _is_in_place(base: BaseModel) -> bool:
    """Whether the model's folder is there and holds what it held."""
    from ppl_assets.perplexity.models import has_changed

    return Path(base.path).exists() and not has_changed(base)


@dg.asset(
    group_name="1_corpus",
    deps=[raw_corpus, test_documents],
    kinds={"pytorch", "huggingface"},
    code_version=CODE_VERSION,
    pool=GPU_POOL,
    metadata=table_metadata(BASE_MODEL),
    description=(
        "The frozen model whose perplexity is measured and whose training is continued: a Hugging Face id, a folder, a "
        "GGUF file, or a small model that the pipeline pre-trains itself. Never pickle, never remote code."
    ),
)
@in_plain_words
def base_model(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
    """Resolve the base model, or pre-train it, and record its fingerprints."""
    from ppl_assets.perplexity.models import resolve_base_model
    from ppl_assets.perplexity.recipe import Recipe

    study, step = platform.study, platform.step(context, CODE_VERSION)
    inputs = base_model_inputs(study, step.lake, step.snapshot)
    commit = step.unchanged(inputs)
    if commit is None or not _is_in_place(stored_base_model(step.snapshot)):
        held_out = set(step.snapshot.read(TEST_DOCUMENTS, ["text_hash"])["text_hash"])
        progress = step.progress("tokens")
        resolved = resolve_base_model(
            study.base_model.source,
            study.base_model.revision,
            Recipe(**study.base_model.recipe.model_dump(), seed=study.study.seed),
            platform.root / "models",
            lambda: general_texts(study, held_out),
            progress=lambda done, total, loss: progress.update(done, total, f"loss {loss:.3f}"),
        )
        row = {**asdict(resolved), "source": study.base_model.source}
        rows = pl.DataFrame([row], schema=pl.Schema(BASE_MODEL.schema))
        commit = step.write([step.stage(BASE_MODEL, rows)], inputs, resolved.model_id)
    row = step.lake.snapshot().read(BASE_MODEL).row(0, named=True)
    shown = {
        name: row[name] for name in ("source", "revision", "architecture", "parameters", "vocabulary", "context_length")
    }
    return step.result(commit, shown | {"model_id": row["model_id"]}, table=BASE_MODEL, rows=1)


def perplexity_scores_inputs(study: Study, _lake: Lake, snapshot: Snapshot, partition: str) -> Inputs:
    """What decides a corpus' scores: which chunks it has, and the scorer."""
    policy = study_policy(study, stored_base_model(snapshot))
    if snapshot.latest("chunks", partition) is None:
        raise ScoringError(f"corpus {partition!r} has no chunks yet; materialize chunks for it first")
    ids = snapshot.read(CHUNKS, ["chunk_id"], {"corpus": partition})["chunk_id"].sort()
    return Inputs([CODE_VERSION, policy.scorer_id, fingerprint_of_rows(ids)], {"scorer_id": policy.scorer_id})


@dg.asset(
    group_name="2_perplexity",
    deps=[chunks, base_model],
    partitions_def=CORPUS_PARTITIONS,
    kinds={"pytorch", "duckdb"},
    code_version=CODE_VERSION,
    pool=GPU_POOL,
    metadata={**table_metadata(PERPLEXITY_SCORES), "scorers": column_schema(SCORERS)},
    description=(
        "Summed negative log-likelihood of every chunk under the frozen base model, and all that follows from it. "
        "Only chunks without a finite score under the current scorer, here or in another corpus, are computed; a "
        "killed run goes on where it was."
    ),
)
@in_plain_words
def perplexity_scores(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
    """Score what has no score yet under the scorer in force."""
    study, step = platform.study, platform.step(context, CODE_VERSION)
    base = stored_base_model(step.snapshot)
    policy = study_policy(study, base)
    inputs = perplexity_scores_inputs(study, step.lake, step.snapshot, step.partition)
    lost = {"corpus": step.partition, "scorer_id": policy.scorer_id, "status": "non_finite"}
    is_whole = step.snapshot.read(PERPLEXITY_SCORES, ["chunk_id"], lost).is_empty()
    commit, scored = step.unchanged(inputs) if is_whole else None, Scored()
    spool = ScoreSpool(platform.root / "spool" / policy.scorer_id / step.partition)
    if commit is None:
        stored = step.snapshot.read(PERPLEXITY_SCORES, where={"corpus": step.partition})
        is_ours = pl.col("scorer_id") == policy.scorer_id
        redone = is_ours & (pl.lit(step.is_forced) | (pl.col("status") == "non_finite"))
        stored = stored.filter(~redone)
        carried = carried_rows(step.snapshot, step.partition, policy.scorer_id)
        carried = carried.clear() if step.is_forced else carried
        known = {*stored.filter(is_ours)["chunk_id"], *carried["chunk_id"], *spool.rows()["chunk_id"]}
        sizes = step.snapshot.read(CHUNKS, ["chunk_id", "n_tokens"], {"corpus": step.partition})
        scored, facts = _scored(study, step, base, policy, spool, sizes, known)
        rows = merged([stored, carried, spool.rows()], set(sizes["chunk_id"]))
        writes = [step.stage(PERPLEXITY_SCORES, rows)]
        if (scorer := changed_scorer(step.snapshot, policy, facts)) is not None:
            writes.append(step.lake.stage(SCORERS, scorer, policy.scorer_id))
        commit = step.write(writes, inputs, digest(rows.filter(is_ours)))
    spool.clear()  # committed, by this run or by one that was killed right after it
    return _scores_result(step, commit, scored)


def _scored(
    study: Study,
    step: Step,
    base: BaseModel,
    policy: ScorePolicy,
    spool: ScoreSpool,
    sizes: pl.DataFrame,
    known: set[str],
) -> tuple[Scored, ScorerFacts | None]:
    """Score the chunks (``sizes``: chunk_id, n_tokens) that are not ``known``; with facts where there were any."""
    missing = sizes.filter(~pl.col("chunk_id").is_in(list(known)))
    if missing.is_empty():
        return Scored(), None
    from ppl_assets.perplexity.loaded import cached_model
    from ppl_assets.perplexity.scorer import Scorer
    from ppl_assets.perplexity.scoring import CHUNK_COLUMNS, batch_chunks, compiles, score_batches

    device = resolve_device(study.study.device)
    model = cached_model(base, device, policy.dtype, policy.attention)
    compiled = compiles(study.score.compile, device, int(sizes["n_tokens"].sum()))
    scorer = Scorer(model, policy, study.score.row_tokens, device, compiled, say=step.log)
    size = batch_chunks(device, study.chunks.tokens)
    batches = step.snapshot.scan(CHUNKS, CHUNK_COLUMNS, {"corpus": step.partition}, size)
    scored = score_batches(
        scorer, batches, size, known, step.partition, spool, step.progress("tokens"), int(missing["n_tokens"].sum())
    )
    step.log(scored.sentence)
    return scored, facts_of(scorer, scored.tokens_per_second if scored.tokens else None)


def _scores_result(step: Step, commit: Commit, scored: Scored) -> dg.MaterializeResult:
    """What the partition holds under the scorer in force, and how fast the new part of it was scored."""
    rows = step.lake.snapshot().read(
        PERPLEXITY_SCORES,
        ["n_scored", "nll", "ppl", "log_ppl", "bits_per_byte", "status", "scorer_id"],
        {"corpus": step.partition, "scorer_id": commit.facts["scorer_id"]},
    )
    ok = rows.filter(pl.col("status") == "ok")
    metadata: dict[str, object] = {
        "chunks_computed": scored.chunks,
        "tokens_scored": int(ok["n_scored"].sum()),
        "not_scored": rows.height - ok.height,
        "scorer_id": commit.facts["scorer_id"],
    }
    if scored.chunks:
        metadata |= {
            "tokens_per_second": dg.MetadataValue.float(round(scored.tokens_per_second, 1)),
            "fraction_of_ceiling": dg.MetadataValue.null()
            if scored.fraction_of_ceiling is None
            else dg.MetadataValue.float(round(scored.fraction_of_ceiling, 3)),
            "slowest_stage": scored.seconds.slowest,
            "scorer_seconds": dg.MetadataValue.float(round(scored.seconds.scorer, 3)),
            "stage_seconds": dg.MetadataValue.md(as_markdown_table(pl.DataFrame([asdict(scored.seconds)]))),
            "chunks_overflowed": scored.overflowed,
            "packing_efficiency": dg.MetadataValue.float(round(scored.packing_efficiency, 4)),
        }
    if ok.height:
        metadata["perplexity_median"] = round(float(ok["ppl"].median() or 0.0), 3)  # type: ignore[arg-type]
        metadata["nats_per_token"] = round(float(ok["nll"].sum()) / float(ok["n_scored"].sum()), 5)
        metadata["bits_per_byte_median"] = round(float(ok["bits_per_byte"].median() or 0.0), 4)  # type: ignore[arg-type]
        picture = plots.chunk_histogram(ok["log_ppl"].to_numpy(), step.partition)
        metadata["histogram"] = dg.MetadataValue.md(plots.as_markdown(picture, "Perplexity of this corpus' chunks"))
    return step.result(commit, metadata, table=PERPLEXITY_SCORES, rows=rows.height)


@dg.asset_check(
    asset=perplexity_scores,
    blocking=True,
    partitions_def=CORPUS_PARTITIONS,
    description=(
        "Every chunk has exactly one row under the scorer in force, and every score is finite and positive; a few "
        "candidates without a finite score are a warning."
    ),
)
def every_chunk_is_scored(context: dg.AssetCheckExecutionContext, platform: Platform) -> dg.AssetCheckResult:
    """Compare the partition's scores with its chunks."""
    partition, snapshot = context.partition_key, platform.lake.snapshot()
    policy = study_policy(platform.study, stored_base_model(snapshot))
    stored = snapshot.read(CHUNKS, ["chunk_id", "split"], {"corpus": partition})
    rows = snapshot.read(
        PERPLEXITY_SCORES, ["chunk_id", "nll", "status"], {"corpus": partition, "scorer_id": policy.scorer_id}
    )
    verdict = judge_completeness(stored, rows)
    severity = dg.AssetCheckSeverity.ERROR if verdict.blocks else dg.AssetCheckSeverity.WARN
    return dg.AssetCheckResult(passed=verdict.passed, severity=severity, description=verdict.sentence)


@dg.asset_check(
    asset=perplexity_scores,
    blocking=True,
    partitions_def=CORPUS_PARTITIONS,
    description="A random sample of scores equals the float64 one-chunk-at-a-time value within its dtype's tolerance.",
)
def scores_match_the_oracle(context: dg.AssetCheckExecutionContext, platform: Platform) -> dg.AssetCheckResult:
    """Score a random sample again, slowly and in float64: another one at every materialization, half of it new."""
    from ppl_assets.perplexity.loaded import oracle_model

    partition, snapshot = context.partition_key, platform.lake.snapshot()
    base = stored_base_model(snapshot)
    policy = study_policy(platform.study, base)
    commit, run = snapshot.latest("perplexity_scores", partition), context.run.run_id
    earlier = platform.lake.snapshot(commit.snapshot - 1) if commit and commit.run_id == run else None
    sample = sampled_scores(snapshot, partition, policy.scorer_id, run, earlier)
    if sample.is_empty():
        return dg.AssetCheckResult(passed=True, description="No chunk of this corpus has a score.")
    verdict = judge_against_oracle(sample, oracle_model(base, policy.attention), policy)
    metadata = {
        "worst_relative": dg.MetadataValue.float(verdict.worst_relative),
        "chunk_ids": dg.MetadataValue.json(sample["chunk_id"].to_list()),
    }
    return dg.AssetCheckResult(passed=verdict.passed, description=verdict.sentence, metadata=metadata)


def perplexity_landscape_inputs(study: Study, _lake: Lake, snapshot: Snapshot, _partition: str = "") -> Inputs:
    """What decides the landscape: every corpus' chunks (their split counts) and scores, and the fence."""
    return Inputs([CODE_VERSION, content_versions(study, snapshot), study.landscape.model_dump()])


@dg.asset(
    group_name="2_perplexity",
    deps=[perplexity_scores, chunks],
    kinds={"duckdb"},
    code_version=CODE_VERSION,
    metadata={**table_metadata(PERPLEXITY_LANDSCAPE), "landscape_histogram": column_schema(LANDSCAPE_HISTOGRAM)},
    description=(
        "How perplexity is distributed over all candidate chunks: moments, quantiles, histogram; noise beyond a robust "
        "fence is set aside before any moment is taken, counted and shown."
    ),
)
@in_plain_words
def perplexity_landscape(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
    """Draw the landscape of candidates, test set, general text, and each corpus."""
    study, step = platform.study, platform.step(context, CODE_VERSION)
    inputs = perplexity_landscape_inputs(study, step.lake, step.snapshot)
    commit = step.unchanged(inputs)
    if commit is None:
        scorer_id = study_policy(study, stored_base_model(step.snapshot)).scorer_id
        scopes = landscape_scopes(step.snapshot, study.corpus_partitions(), scorer_id)
        made = landscape_rows(scopes, scorer_id, study.landscape.fence_mads, study.landscape.bins)
        writes = [step.stage(PERPLEXITY_LANDSCAPE, made.landscape), step.stage(LANDSCAPE_HISTOGRAM, made.histogram)]
        commit = step.write(writes, inputs, fingerprint(made.landscape.to_dicts()))
    return _landscape_result(step, commit)


def _landscape_result(step: Step, commit: Commit) -> dg.MaterializeResult:
    snapshot = step.lake.snapshot()
    rows, bars = snapshot.read(PERPLEXITY_LANDSCAPE), snapshot.read(LANDSCAPE_HISTOGRAM)
    whole = rows.filter(pl.col("scope") == "candidates").row(0, named=True)
    picture = plots.landscape(bars, rows, pl.DataFrame(schema=pl.Schema(REGIMES.schema)), size="small")
    metadata = {
        "mean": whole["mean"],
        "deviation": whole["deviation"],
        "candidate_tokens": whole["tokens"],
        "noise_chunks": whole["noise_chunks"],
        "landscape": dg.MetadataValue.md(plots.as_markdown(picture, "Distribution of chunk perplexity")),
        "moments": dg.MetadataValue.md(
            as_markdown_table(
                rows.select("scope", "chunks", "tokens", "mean", "deviation", "noise_chunks", "duplicate_chunks")
            )
        ),
    }
    return step.result(commit, metadata, table=PERPLEXITY_LANDSCAPE, rows=rows.height)


ASSETS = [base_model, perplexity_scores, perplexity_landscape]
CHECKS = [every_chunk_is_scored, scores_match_the_oracle]
