"""Named jobs, one a stage of the study, and those that look at the corpora and at the study.

The command line runs these jobs in this order; the UI offers them for runs and backfills.
"""

import dagster as dg

from ppl_assets.automation.checks import CHECKS
from ppl_assets.resources import CORPUS_PARTITIONS, STRATEGY_PARTITIONS, TRIAL_PARTITIONS

observe_corpora = dg.define_asset_job(
    "observe_corpora",
    selection=dg.AssetSelection.assets("raw_corpus"),
    partitions_def=CORPUS_PARTITIONS,
    description="Look at a corpus' files and record a data version from their content.",
)


_STAGES: tuple[tuple[str, str, dg.PartitionsDefinition | None, str], ...] = (
    ("test_documents", "set_test_documents_aside", None, "Set target and general text aside."),
    ("base_model", "resolve_base_model", None, "Resolve, or pre-train, the frozen base model."),
    ("chunks", "chunk_corpus", CORPUS_PARTITIONS, "Clean, deduplicate and chunk a corpus."),
    ("perplexity_scores", "score_corpus", CORPUS_PARTITIONS, "Score a corpus' new chunks with the base model."),
    ("perplexity_landscape", "draw_landscape", None, "Draw the distribution of chunk perplexity."),
    ("regime_partitions", "design_trials", None, "Decide which subsets to train on."),
    ("trial_losses", "run_trial", TRIAL_PARTITIONS, "Train one trial and measure its losses."),
    ("fitted_law", "fit_law", None, "Fit the law to the trial losses."),
    ("next_trials", "propose_trials", None, "Sequential mode: propose the next trials, or say why there are no more."),
    ("final_subset", "select_subset", None, "Select and export the subset at the optimum."),
    ("strategy_losses", "train_strategy", STRATEGY_PARTITIONS, "Train on the selection or a rival, several seeds."),
    ("selection_report", "write_report", None, "Write the report."),
)
"""Asset, its job's name, its partitions, what the job does; in the order in which the data runs."""

STAGE_JOBS = {
    asset: dg.define_asset_job(
        name, selection=dg.AssetSelection.assets(asset), partitions_def=partitions, description=description
    )
    for asset, name, partitions, description in _STAGES
}
"""The job of each asset, in the order in which the data runs."""

LOOP = ("trial_losses", "fitted_law", "next_trials")
"""What the sequential mode repeats: a batch of trials, the law, the next batch; until nothing is proposed."""

check_study = dg.define_asset_job(
    "check_study",
    selection=dg.AssetSelection.checks(*CHECKS),
    description="Say which scores are out of date, what scoring costs, and whether the trials still cover the corpora.",
)

JOBS = [observe_corpora, *STAGE_JOBS.values(), check_study]
