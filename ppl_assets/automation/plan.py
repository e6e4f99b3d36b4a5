"""What has to be computed: for every asset, its partitions and whether their inputs have changed."""

from collections.abc import Callable
from pathlib import Path

import dagster as dg
from dagster._core.event_api import PartitionKeyFilter
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from ppl_assets.corpus import assets as corpus_assets
from ppl_assets.corpus.assets import chunks_inputs, held_out_inputs
from ppl_assets.errors import UserError
from ppl_assets.lake import Lake, Snapshot
from ppl_assets.law import assets as law_assets
from ppl_assets.law.assets import fitted_law_inputs, next_trials_inputs
from ppl_assets.perplexity import assets as perplexity_assets
from ppl_assets.perplexity.assets import base_model_inputs, perplexity_landscape_inputs, perplexity_scores_inputs
from ppl_assets.regimes import assets as regimes_assets
from ppl_assets.regimes.assets import regime_partitions_inputs
from ppl_assets.regimes.cost import budget_problem, cost_of_trials
from ppl_assets.regimes.stored import proposals
from ppl_assets.resources import TRIAL_PARTITIONS, Inputs, Platform
from ppl_assets.study import Study
from ppl_assets.subset import assets as subset_assets
from ppl_assets.subset.assets import final_subset_inputs, selection_report_inputs, strategy_losses_inputs
from ppl_assets.subset.handover import is_exported
from ppl_assets.tables import BASE_MODEL, SELECTION_REPORT, SEQUENTIAL_STEPS
from ppl_assets.trials import assets as trials_assets
from ppl_assets.trials.assets import trial_losses_inputs

INPUTS: dict[str, Callable[[Study, Lake, Snapshot, str], Inputs]] = {
    "test_documents": held_out_inputs,
    "base_model": base_model_inputs,
    "chunks": chunks_inputs,
    "perplexity_scores": perplexity_scores_inputs,
    "perplexity_landscape": perplexity_landscape_inputs,
    "regime_partitions": regime_partitions_inputs,
    "trial_losses": trial_losses_inputs,
    "fitted_law": fitted_law_inputs,
    "next_trials": next_trials_inputs,
    "final_subset": final_subset_inputs,
    "strategy_losses": strategy_losses_inputs,
    "selection_report": selection_report_inputs,
}
"""The function of each asset that says what it is computed from; upstream tables must exist."""


FILES = {
    "base_model": (BASE_MODEL, "path"),
    "selection_report": (SELECTION_REPORT, "path"),
}
"""What an asset keeps outside the lake: the table and column that name it."""

BLOCKING_CHECKS: dict[str, list[dg.AssetCheckKey]] = {}
"""The blocking checks of each asset: rows that failed one are in the lake, but nothing may be built on them."""
for _stage in (corpus_assets, perplexity_assets, regimes_assets, trials_assets, law_assets, subset_assets):
    for _check in _stage.CHECKS:
        for _spec in _check.check_specs:
            if _spec.blocking:
                BLOCKING_CHECKS.setdefault(_spec.asset_key.to_user_string(), []).append(_spec.key)


def partitions_of(asset: str, platform: Platform, instance: dg.DagsterInstance) -> list[str]:
    """Partition keys of an asset in this study; one empty key where it has none."""
    study = platform.study
    if asset in ("raw_corpus", "chunks", "perplexity_scores"):
        return study.corpus_partitions()
    if asset == "trial_losses":
        return list(instance.get_dynamic_partitions(str(TRIAL_PARTITIONS.name)))
    if asset == "strategy_losses":
        return study.strategies.names
    return [""]


def pending(asset: str, partition: str, platform: Platform, instance: dg.DagsterInstance) -> bool:
    """Whether an asset partition is to be computed: it is not up to date, and the budget pays for it."""
    return _is_stale(asset, partition, platform, instance) and not _waits_for_budget(asset, partition, platform)


def _waits_for_budget(asset: str, partition: str, platform: Platform) -> bool:
    """Whether this is a proposed trial that no longer fits: ``next_trials`` says so, and the study goes on without it.

    A trial of the design is not passed over: without it the design is not what was asked for, so it fails by name.
    """
    study, snapshot = platform.study, platform.lake.snapshot()
    if asset != "trial_losses" or partition not in proposals(snapshot)["trial"]:
        return False
    return bool(budget_problem(study, cost_of_trials(study, snapshot)))


def _is_stale(asset: str, partition: str, platform: Platform, instance: dg.DagsterInstance) -> bool:
    """Whether an asset partition was never computed, was computed from other inputs, or is unknown to the instance."""
    snapshot = platform.lake.snapshot()
    latest = snapshot.latest(asset, partition)
    if latest is None or not _is_present(asset, platform.study, snapshot):
        return True
    inputs = INPUTS[asset](platform.study, platform.lake, snapshot, partition)
    if latest.inputs != inputs.digest or not _is_known(asset, partition, instance):
        return True
    return not _blocking_checks_passed(asset, partition, instance)


def _is_present(asset: str, study: Study, snapshot: Snapshot) -> bool:
    """Whether what an asset keeps outside the lake is still there, and as the study asks for it."""
    if asset == "final_subset":
        return is_exported(study, snapshot)
    if asset not in FILES:
        return True
    table, column = FILES[asset]
    return Path(snapshot.only_row(table)[column]).exists()


def _blocking_checks_passed(asset: str, partition: str, instance: dg.DagsterInstance) -> bool:
    """Whether every blocking check of an asset passed when it was last asked, and was asked at all."""
    keys = BLOCKING_CHECKS.get(asset, [])
    where = PartitionKeyFilter(key=partition or None)
    latest = instance.event_log_storage.get_latest_asset_check_execution_by_key(keys, partition_filter=where)
    return all(key in latest and latest[key].status == AssetCheckExecutionRecordStatus.SUCCEEDED for key in keys)


def _is_known(asset: str, partition: str, instance: dg.DagsterInstance) -> bool:
    """Whether the Dagster instance has a materialization, so that the UI shows what the lake holds."""
    key = dg.AssetKey(asset)
    if partition:
        return partition in instance.get_materialized_partitions(key)
    return instance.get_latest_materialization_event(key) is not None


def status_lines(platform: Platform, instance: dg.DagsterInstance) -> list[str]:
    """One line an asset: how many of its partitions are up to date, and which would be computed.

    Below something that is due, what would be computed is not known; what is stored may still be of all that is stored
    above it, such as a subset that followed a changed corpus by itself.
    """
    lines, is_known = [], True
    for asset in INPUTS:
        keys = partitions_of(asset, platform, instance)
        if not is_known:
            stands = _stands(asset, keys, platform, instance)
            lines.append(f"{asset:<22} {'up to date with what is stored; ' if stands else ''}waits for what is above")
            continue
        due = [key for key in keys if pending(asset, key, platform, instance)]
        is_known = not due
        named = (
            f": {', '.join(key for key in due[:6] if key)}{' ...' if len(due) > 6 else ''}" if due and due[0] else ""
        )
        lines.append(f"{asset:<22} " + (f"{len(due)} of {len(keys)} to compute{named}" if due else "up to date"))
        if said := remark(asset, platform):
            lines.append(f"{'':<22} {said}")
    return [*lines, *_found(platform.study)]


def _stands(asset: str, keys: list[str], platform: Platform, instance: dg.DagsterInstance) -> bool:
    """Whether everything stored of an asset was made from what is stored now."""
    try:
        return bool(keys) and not any(_is_stale(asset, key, platform, instance) for key in keys)
    except UserError:  # what it reads was never made, or cannot be read now
        return False


def _found(study: Study) -> list[str]:
    """What the discovery folder holds: its corpora, and what is passed over."""
    names = ", ".join(study.found.corpora)
    return [*([f"found in {study.discovery.folder}: {names}"] if names else []), *study.found.skipped]


def remark(asset: str, platform: Platform) -> str:
    """What a person should know of an asset before the next one runs: what the trials cost, what was decided on them.

    Empty where the asset was never computed, or has nothing to say.
    """
    study, snapshot = platform.study, platform.lake.snapshot()
    if asset == "regime_partitions" and snapshot.latest(asset):
        cost = cost_of_trials(study, snapshot)
        return f"{budget_problem(study, cost) or cost.sentence}."
    if asset == "next_trials" and snapshot.latest(asset):
        return str(snapshot.read(SEQUENTIAL_STEPS).sort("step")["sentence"][-1])
    return ""
