"""The subset group in Dagster: final_subset, strategy_losses, selection_report."""

from typing import Any

import dagster as dg
import polars as pl

from ppl_assets import plots
from ppl_assets.corpus.assets import chunks
from ppl_assets.fingerprint import fingerprint
from ppl_assets.lake import Commit, Lake, Snapshot
from ppl_assets.law.assets import comparable_losses, fitted_law
from ppl_assets.markdown import as_markdown_table
from ppl_assets.perplexity.assets import base_model, perplexity_landscape
from ppl_assets.perplexity.candidates import current_scorer
from ppl_assets.perplexity.stored import content_versions
from ppl_assets.regimes.assets import CODE_VERSION as SAMPLER_VERSION
from ppl_assets.regimes.assets import selection_tokens
from ppl_assets.regimes.cost import measured_prefixes
from ppl_assets.regimes.drawn import Target
from ppl_assets.regimes.pool import StoredPool, read_pool, stored_pool
from ppl_assets.resources import (
    ALL_CORPORA,
    GPU_POOL,
    STRATEGY_PARTITIONS,
    Inputs,
    Platform,
    Step,
    column_schema,
    in_plain_words,
    table_metadata,
)
from ppl_assets.study import Study
from ppl_assets.subset.changes import changes_since_last
from ppl_assets.subset.draws import groups_of, limits_of, options_of, shares_within_limits
from ppl_assets.subset.handover import described, export_selection, is_exported
from ppl_assets.subset.kind import kind_of
from ppl_assets.subset.measures import downstream_table
from ppl_assets.subset.members import OrderedMembers, draw_members, member_batches, origin_of, target_by_rank
from ppl_assets.subset.report import write_report
from ppl_assets.subset.report_input import report_input
from ppl_assets.subset.report_page import summarize
from ppl_assets.subset.selection import BY_RANK
from ppl_assets.subset.strategy_runs import (
    as_declared,
    downstream_command,
    run_seed,
    strategy_setting,
    strategy_target,
)
from ppl_assets.subset.target import choose_target
from ppl_assets.subset.whole_documents import documents_of
from ppl_assets.tables import (
    CHUNKS,
    FINAL_SUBSET,
    SELECTION_REPORT,
    SELECTIONS,
    STRATEGY_LOSSES,
)
from ppl_assets.trials.assets import checkpoints

CODE_VERSION = "5"
"""Of target, selection, rivals, export and report."""

MOST_OBJECTIVE = 1e-4
"""Relative J of a selection that counts as on target: 1 % off in the mean or in the deviation."""


def _versions(snapshot: Snapshot, asset: str) -> dict[str, str]:
    """Data version of every partition of an asset."""
    return {partition: commit.data_version for partition, commit in snapshot.commits(asset).items()}


def final_subset_inputs(study: Study, _lake: Lake, snapshot: Snapshot, _partition: str = "") -> Inputs:
    """What decides the selection: the law, the landscape, chunks with their origin, budget, sampler, seed."""
    versions = {asset: _versions(snapshot, asset).get("", "") for asset in ("fitted_law", "perplexity_landscape")}
    return Inputs(
        [
            CODE_VERSION,
            SAMPLER_VERSION,
            versions,
            content_versions(study, snapshot),
            study.selection.model_dump(),
            study.study.seed,
            measured_prefixes(study),
            *limits_of(study),
        ]
    )


@dg.asset(
    group_name="6_subset",
    deps=[fitted_law, perplexity_landscape, chunks],
    kinds={"scipy", "duckdb", "parquet"},
    code_version=CODE_VERSION,
    metadata={**table_metadata(FINAL_SUBSET), "selections": column_schema(SELECTIONS)},
    description=(
        "The selected chunks in training order: the subset nearest to the corpus that has the law's best moments and "
        "the token budget. Exported as Parquet and JSONL with a dataset card and a manifest, whole or not at all."
    ),
)
@in_plain_words
def final_subset(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
    """Select, record, export."""
    study, step = platform.study, platform.step(context, CODE_VERSION)
    inputs = final_subset_inputs(study, step.lake, step.snapshot)
    exports = platform.root / "exports"
    commit = step.unchanged(inputs)
    if commit is None:
        half = study.selection.memory_gib / 2
        corpora, folder = study.corpus_partitions(), step.lake.staging
        with step.lake.memory(half), stored_pool(step.snapshot, corpora, folder, half, groups_of(study)) as pool:
            made, selection = _select(study, step.snapshot, pool)
            selection["export_path"] = str(exports / selection["selection_id"])
            selection["described"] = described(study, step.snapshot, selection)
            rows = pl.DataFrame([selection], schema=pl.Schema(SELECTIONS.schema))
            names = (selection["selection_id"], current_scorer(step.snapshot))
            members = member_batches(step.snapshot, pool, made.index, *names)
            writes = [step.stage(FINAL_SUBSET, members), step.stage(SELECTIONS, rows)]
        commit = step.write(writes, inputs, selection["selection_id"])
    snapshot = step.lake.snapshot()
    selection = snapshot.only_row(SELECTIONS)
    if step.is_forced or not is_exported(study, snapshot):
        export_selection(study, step.lake, str(selection["selection_id"]), exports)
    return _selection_result(study, step, commit, selection)


def _select(study: Study, snapshot: Snapshot, pool: StoredPool) -> tuple[OrderedMembers, dict[str, Any]]:
    """The members in training order, and the selection's row without its export path."""
    total = pool.candidates.total_tokens
    tokens = min(selection_tokens(study, total), total * study.selection.repeats)
    documents = None
    if study.selection.unit == "document":
        names = pl.read_parquet(pool.names, columns=["chunk_id", "corpus"])
        documents = documents_of(snapshot, names, pool.candidates)
    method, scorer = study.selection.method, current_scorer(snapshot)
    options = options_of(study)
    if method in BY_RANK:
        aim = target_by_rank(pool, tokens, study.study.seed, options, documents)
    else:
        aim = choose_target(snapshot, study.selection.aim)
    target = Target(aim.mu, aim.sigma, tokens)
    made = draw_members(pool, target, study.study.seed, measured_prefixes(study), options, documents)
    content = fingerprint(aim.mu, aim.sigma, tokens, method, scorer, made.subset_hash)[:16]
    name = fingerprint(content, origin_of(snapshot, pool, made.index))[:16]
    drawn = made.drawn
    kind = kind_of(pool.candidates, drawn.members.ppl, study.trials.tokens, study.study.seed)
    selection: dict[str, Any] = {
        "selection_id": name,
        "content_id": content,
        "method": method,
        "mu_target": aim.mu,
        "sigma_target": aim.sigma,
        "tokens_target": tokens,
        "mu": drawn.mu,
        "sigma": drawn.sigma,
        "tokens": drawn.tokens,
        "chunks": drawn.chunks,
        "objective": drawn.objective,
        "kl_nats": drawn.kl_nats,
        "is_reachable": drawn.is_reachable,
        "message": f"{aim.reason} {drawn.message}",
        "exported_snapshot": snapshot.number,
        "is_known_kind": kind.is_known if kind else None,
        "kind": kind.sentence if kind else None,
    }
    return made, selection


def _selection_result(study: Study, step: Step, commit: Commit, selection: dict[str, object]) -> dg.MaterializeResult:
    snapshot = step.lake.snapshot()
    sql = """SELECT corpus, count(*) AS chunks, sum(n_tokens)::BIGINT AS n_tokens FROM {final_subset}
             GROUP BY corpus ORDER BY corpus"""
    shares = snapshot.query(sql, (FINAL_SUBSET,))
    shown = ("selection_id", "mu_target", "sigma_target", "mu", "sigma", "tokens", "objective", "kl_nats", "message")
    metadata = {name: selection[name] for name in shown} | {
        "corpora": dg.MetadataValue.md(as_markdown_table(shares)),
        "export": dg.MetadataValue.path(str(selection["export_path"])),
    }
    with step.lake.memory(study.selection.memory_gib / 2):
        metadata["changes"] = dg.MetadataValue.md(changes_since_last(step.lake))
    if limits := shares_within_limits(study, shares):
        metadata["limits"] = dg.MetadataValue.md(limits)
    return step.result(commit, metadata, table=FINAL_SUBSET, rows=sum(shares["chunks"]))


@dg.asset_check(
    asset=final_subset, description="The subset has the law's best moments and the token budget, or says why not."
)
def selection_hits_its_target(platform: Platform) -> dg.AssetCheckResult:
    """Compare what was reached with what was asked for."""
    row = platform.lake.snapshot().only_row(SELECTIONS)
    hit = row["is_reachable"] and row["objective"] <= MOST_OBJECTIVE
    return dg.AssetCheckResult(
        passed=bool(hit),
        severity=dg.AssetCheckSeverity.WARN,
        description=row["message"],
        metadata={"J": row["objective"]},
    )


@dg.asset_check(
    asset=final_subset, description="The subset is of the kind that the trials were, beyond its two moments."
)
def selection_is_of_the_trials_kind(platform: Platform) -> dg.AssetCheckResult:
    """Warn where the law is asked about a kind of subset that it has not seen."""
    row = platform.lake.snapshot().only_row(SELECTIONS)
    sentence = row["kind"] or "There is nothing to compare: the subset has no spread, or a trial takes every candidate."
    return dg.AssetCheckResult(
        passed=row["is_known_kind"] is not False, severity=dg.AssetCheckSeverity.WARN, description=sentence
    )


@dg.asset_check(
    asset=final_subset,
    blocking=True,
    description="No selected chunk is in the test set, and none is selected too often.",
)
def selection_holds_no_test_chunk(platform: Platform) -> dg.AssetCheckResult:
    """Look the selected ids up among the held-out ones."""
    sql = """SELECT count(*) FILTER (chunk_id IN (SELECT chunk_id FROM {chunks} WHERE split <> 'candidate')) AS leaked,
                    count(*) - count(DISTINCT chunk_id) AS again FROM {final_subset}"""
    snapshot, repeats = platform.lake.snapshot(), platform.study.selection.repeats
    row = snapshot.query(sql, (FINAL_SUBSET, CHUNKS)).row(0, named=True)
    often = """SELECT count(*) AS chunks FROM (SELECT chunk_id FROM {final_subset}
               GROUP BY chunk_id HAVING count(*) > $repeats)"""
    excess = snapshot.query(often, (FINAL_SUBSET,), {"repeats": repeats})["chunks"].item()
    allowed = "twice" if repeats == 1 else f"more than {repeats} times"
    sentence = f"{row['leaked']} selected chunks are held-out text, {excess} are selected {allowed}."
    metadata = {"repeated_rows": row["again"]}
    return dg.AssetCheckResult(passed=not (row["leaked"] or excess), description=sentence, metadata=metadata)


def strategy_losses_inputs(study: Study, _lake: Lake, snapshot: Snapshot, partition: str) -> Inputs:
    """What decides a strategy's runs: setting, seeds, candidates and budget, and the target where it follows one."""
    setting = strategy_setting(study, snapshot)
    target = strategy_target(snapshot, partition)
    landscape = snapshot.latest("perplexity_landscape")
    follows: list[object] = [target.tokens, landscape.data_version if landscape else "", study.selection.objective]
    if partition == "selected":
        selection = snapshot.only_row(SELECTIONS)
        follows = [selection["content_id"] or selection["selection_id"]]
    elif partition in ("matched", "gaussian", "greedy_dos", "redrawn"):
        follows += [target.mu, target.sigma]
    if partition == "redrawn":
        follows.append(study.selection.method)
    if partition != "selected":
        follows += [*limits_of(study), study.selection.repeats, study.selection.unit]
    return Inputs(
        [
            CODE_VERSION,
            SAMPLER_VERSION,
            partition,
            setting.setting_id,
            study.study.seed,
            study.strategies.seeds,
            follows,
            *downstream_command(study),
        ],
        {"setting_id": setting.setting_id},
    )


def trained_strategies(study: Study, lake: Lake, snapshot: Snapshot) -> list[str]:
    """The study's strategies whose stored losses are those of the present selection, candidates and setting.

    After a change of corpus, law or recipe the table still holds earlier losses, which say nothing of this one.
    """
    commits = snapshot.commits("strategy_losses")
    return [
        name
        for name in study.strategies.names
        if name in commits and commits[name].inputs == strategy_losses_inputs(study, lake, snapshot, name).digest
    ]


@dg.asset(
    group_name="6_subset",
    deps=[final_subset, perplexity_landscape, base_model, dg.AssetDep(chunks, partition_mapping=ALL_CORPORA)],
    partitions_def=STRATEGY_PARTITIONS,
    kinds={"pytorch", "duckdb"},
    code_version=CODE_VERSION,
    pool=GPU_POOL,
    metadata=table_metadata(STRATEGY_LOSSES),
    description=(
        "What training on the final subset and on each rival selection really gives: held-out domain and general loss, "
        "several seeds, the same tokens and recipe. The only proof a user should accept."
    ),
)
@in_plain_words
def strategy_losses(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
    """Train one strategy with every seed; a seed that is over waits in its checkpoint for the commit of all."""
    study, step = platform.study, platform.step(context, CODE_VERSION)
    inputs = strategy_losses_inputs(study, step.lake, step.snapshot, step.partition)
    commit = step.unchanged(inputs)
    if commit is None:
        setting = strategy_setting(study, step.snapshot)
        pool = read_pool(step.snapshot, study.corpus_partitions(), groups_of(study))
        is_whole = study.selection.unit == "document" and step.partition != "selected"
        documents = documents_of(step.snapshot, pool.rows, pool.candidates) if is_whole else None
        parts = [run_seed(study, step, setting, pool, number, documents) for number in range(study.strategies.seeds)]
        rows = pl.concat(map(as_declared, parts)).with_columns(strategy=pl.lit(step.partition))
        commit = step.write([step.stage(STRATEGY_LOSSES, rows)], inputs, fingerprint(rows["test_loss"].to_list()))
        saved = checkpoints(study, step)
        for name in rows["trial_fingerprint"].unique():
            saved.of(name).remove()
    return _strategy_result(step, commit)


def _strategy_result(step: Step, commit: Commit) -> dg.MaterializeResult:
    rows = step.lake.snapshot().read(STRATEGY_LOSSES, where={"strategy": step.partition}).sort("seed", "point")
    last = rows.group_by("seed", maintain_order=True).last()
    metadata = {
        "test_loss": float(last["test_loss"].mean() or 0.0),  # type: ignore[arg-type]
        "seeds": last.height,
        "tokens": int(last["tokens"].max() or 0),  # type: ignore[arg-type]
        "tokens_per_second": round(float(last["tokens_per_second"].mean() or 0.0), 1),  # type: ignore[arg-type]
        **_downstream_metadata(last),
        "runs": dg.MetadataValue.md(
            as_markdown_table(
                last.select("seed", "tokens", "mu", "sigma", "test_loss", "general_loss", "predicted_loss", "status")
            )
        ),
    }
    return step.result(commit, metadata, table=STRATEGY_LOSSES, rows=rows.height)


def _downstream_metadata(last: pl.DataFrame) -> dict[str, object]:
    """A table of further measures, one row a seed; nothing where none were taken."""
    table = downstream_table(last)
    return {} if table.is_empty() else {"downstream": dg.MetadataValue.md(as_markdown_table(table))}


def selection_report_inputs(study: Study, lake: Lake, snapshot: Snapshot, _partition: str = "") -> Inputs:
    """What the report is made from: the newest version of everything, and which strategies it may speak of."""
    versions = {
        asset: sorted(_versions(snapshot, asset).items())
        for asset in (
            "perplexity_landscape",
            "regime_partitions",
            "trial_losses",
            "fitted_law",
            "final_subset",
            "strategy_losses",
        )
    }
    trained = trained_strategies(study, lake, snapshot)
    return Inputs([CODE_VERSION, versions, study.study.name, study.strategies.names, trained])


@dg.asset(
    group_name="6_subset",
    deps=[strategy_losses, final_subset, fitted_law, perplexity_landscape],
    kinds={"matplotlib", "duckdb"},
    code_version=CODE_VERSION,
    metadata=table_metadata(SELECTION_REPORT),
    description="One HTML page a person can read top to bottom: the answer, the evidence, how to reproduce it.",
)
@in_plain_words
def selection_report(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
    """Write the page and its plots."""
    study, step = platform.study, platform.step(context, CODE_VERSION)
    inputs = selection_report_inputs(study, step.lake, step.snapshot)
    trained = trained_strategies(study, step.lake, step.snapshot)
    losses = comparable_losses(study, step.snapshot)
    data = report_input(study, platform.study_file, step.snapshot, losses, trained)
    selection_id = str(data.selection["selection_id"].item())
    page = platform.root / "reports" / selection_id / "index.html"
    commit = step.unchanged(inputs)
    if commit is None or not page.is_file():
        page = write_report(data, page.parent)
        head = summarize(data)
        gain = head.gain("random")
        difference = gain.difference if gain else None
        row = {
            "selection_id": selection_id,
            "path": str(page),
            "headline": head.text,
            "gain_vs_random": difference.mean if difference else None,
            "gain_low": difference.low if difference else None,
            "gain_high": difference.high if difference else None,
        }
        rows = pl.DataFrame([row], schema=pl.Schema(SELECTION_REPORT.schema)).with_columns(
            pl.col(pl.Float64).fill_nan(None)
        )
        commit = step.write([step.stage(SELECTION_REPORT, rows)], inputs, fingerprint(head.text, selection_id))
    row = step.lake.snapshot().only_row(SELECTION_REPORT)
    metadata: dict[str, object] = {"headline": row["headline"], "page": dg.MetadataValue.path(page)}
    if row["gain_vs_random"] is not None:
        metadata["gain_vs_random"] = row["gain_vs_random"]
    if not plots.final_losses(data.strategy_losses).is_empty():
        picture = plots.strategies(data.strategy_losses, data.confidence, size="small")
        metadata["strategies"] = dg.MetadataValue.md(plots.as_markdown(picture, "Test loss of every strategy"))
    return step.result(commit, metadata, table=SELECTION_REPORT, rows=1)


@dg.asset_check(asset=selection_report, description="The selection beats random, with an interval that excludes zero.")
def selection_beats_random(platform: Platform) -> dg.AssetCheckResult:
    """Warn in plain words where it does not."""
    row = platform.lake.snapshot().only_row(SELECTION_REPORT)
    won = row["gain_low"] is not None and row["gain_low"] > 0
    return dg.AssetCheckResult(passed=won, severity=dg.AssetCheckSeverity.WARN, description=row["headline"])


ASSETS = [final_subset, strategy_losses, selection_report]
CHECKS = [
    selection_hits_its_target,
    selection_is_of_the_trials_kind,
    selection_holds_no_test_chunk,
    selection_beats_random,
]
