"""Named jobs, one a stage of the study, and the schedule that looks at the corpora.

The command line runs these jobs in this order; the UI offers them for runs and backfills.
"""

import dagster as dg

from ppl_assets.resources import CORPUS_PARTITIONS, STRATEGY_PARTITIONS, TRIAL_PARTITIONS

observe_corpora = dg.define_asset_job(
    "observe_corpora",
    selection=dg.AssetSelection.assets("raw_corpus"),
    partitions_def=CORPUS_PARTITIONS,
    description="Look at a corpus' files and record a data version from their content.",
)


def _job(name: str, asset: str, description: str, partitions: dg.PartitionsDefinition | None = None) -> dg.UnresolvedAssetJob:
    return dg.define_asset_job(
        name, selection=dg.AssetSelection.assets(asset), partitions_def=partitions, description=description
    )


STAGE_JOBS: dict[str, dg.UnresolvedAssetJob] = {
    "test_documents": _job("set_test_documents_aside", "test_documents", "Set target and general text aside."),
    "base_model": _job("resolve_base_model", "base_model", "Resolve, or pre-train, the frozen base model."),
    "chunks": _job("chunk_corpus", "chunks", "Clean, deduplicate and chunk a corpus.", CORPUS_PARTITIONS),
    "perplexity_scores": _job(
        "score_corpus", "perplexity_scores", "Score a corpus' new chunks with the base model.", CORPUS_PARTITIONS
    ),
    "perplexity_landscape": _job("draw_landscape", "perplexity_landscape", "Distribution of chunk perplexity."),
    "regime_partitions": _job("design_trials", "regime_partitions", "Decide which subsets to train on."),
    "trial_losses": _job("run_trial", "trial_losses", "Train one trial and measure its losses.", TRIAL_PARTITIONS),
    "fitted_law": _job("fit_law", "fitted_law", "Fit the law to the trial losses."),
    "final_subset": _job("select_subset", "final_subset", "Select and export the subset at the optimum."),
    "strategy_losses": _job(
        "train_strategy", "strategy_losses", "Train on the selection or a rival, several seeds.", STRATEGY_PARTITIONS
    ),
    "selection_report": _job("write_report", "selection_report", "Write the report."),
}
"""The job of each asset, in the order in which the data runs."""

JOBS = [observe_corpora, *STAGE_JOBS.values()]

SCHEDULES: list[dg.ScheduleDefinition] = []
