"""The law group in Dagster: fitted_law, and next_trials, which the sequential mode adds to the design."""

import dagster as dg
import polars as pl

from ppl_assets import plots
from ppl_assets.fingerprint import fingerprint, fingerprint_of_rows
from ppl_assets.lake import Commit, Lake, Snapshot
from ppl_assets.law.across import across_sentence
from ppl_assets.law.as_good import nearest_as_good
from ppl_assets.law.checks import checks
from ppl_assets.law.choice import choose, fit_all, judged
from ppl_assets.law.indistinguishable import equals_sentence
from ppl_assets.law.law_rows import finding_rows, law_rows, observations
from ppl_assets.law.observations import measured_noise
from ppl_assets.law.predictions import chosen_law, law_surface, reachable_at
from ppl_assets.law.proposals import FIXED, decide, proposed_rows, step_rows
from ppl_assets.law.region import SearchRegion
from ppl_assets.markdown import as_markdown_table
from ppl_assets.perplexity.assets import perplexity_landscape
from ppl_assets.perplexity.candidates import current_scorer
from ppl_assets.regimes.assets import (
    judge_moments,
    regime_partitions,
    register_trials,
    selection_tokens,
)
from ppl_assets.regimes.cost import budget_problem, cost_of_trials, measured_prefixes
from ppl_assets.regimes.pool import read_pool
from ppl_assets.regimes.stored import all_trials, design_version, proposals
from ppl_assets.resources import Inputs, Platform, Step, column_schema, in_plain_words, table_metadata
from ppl_assets.study import Study
from ppl_assets.tables import (
    FITTED_LAW,
    LAW_FINDINGS,
    NEXT_TRIALS,
    PERPLEXITY_LANDSCAPE,
    PROPOSED_REGIMES,
    REACHABLE_REGION,
    SEQUENTIAL_STEPS,
    TRIAL_LOSSES,
)
from ppl_assets.trials.assets import current_setting, trial_losses
from ppl_assets.trials.training import on_trunk

CODE_VERSION = "6"
"""Of forms, fit, uncertainty, optimum and choice."""

NEXT_CODE_VERSION = "2"
"""Of the sequential design."""


def comparable_losses(study: Study, snapshot: Snapshot) -> pl.DataFrame:
    """Each trial's newest run, where it was measured under the present setting; of trials that left the design too.

    The table keeps every run ever made; a run that an earlier design made under the same name is another run. Points of
    decay branches are at another rate and left out.
    """
    setting = current_setting(study, snapshot).setting_id
    newest = {commit.facts.get("trial_fingerprint", "") for commit in snapshot.commits("trial_losses").values()}
    rows = snapshot.read(TRIAL_LOSSES, where={"setting_id": setting})
    return rows.filter(pl.col("trial_fingerprint").is_in(newest) & on_trunk())


def fitted_law_inputs(study: Study, _lake: Lake, snapshot: Snapshot, _partition: str = "") -> Inputs:
    """What decides the fit: the comparable losses and which trials repeat a regime, the landscape, the settings.

    The lineage names the scorer whose perplexities the law speaks of, and the setting whose losses it predicts.
    """
    losses = comparable_losses(study, snapshot).sort("trial", "point")
    measured = pl.col("trial").is_in(losses["trial"].unique().to_list())
    repeats = all_trials(snapshot).filter(measured).select("trial", "regime").sort("trial")
    landscape = snapshot.latest("perplexity_landscape")
    scorer = current_scorer(snapshot)
    return Inputs(
        [
            CODE_VERSION,
            fingerprint_of_rows(losses.select("trial_fingerprint", "tokens", "test_loss").iter_rows()),
            fingerprint_of_rows(repeats.iter_rows()),
            scorer,
            landscape.data_version if landscape else "",
            study.law.model_dump(),
            study.selection.model_dump(include={"tokens", "share"}),
            study.regimes.inside,
            study.study.seed,
        ],
        {"scorer_id": scorer, "setting_id": current_setting(study, snapshot).setting_id},
    )


@dg.asset(
    group_name="5_law",
    deps=[trial_losses, regime_partitions, perplexity_landscape],
    kinds={"scipy", "duckdb"},
    code_version=CODE_VERSION,
    metadata={**table_metadata(FITTED_LAW), "law_findings": column_schema(LAW_FINDINGS)},
    description=(
        "The data scaling law fitted to the trial losses: every form with both links side by side, constants with "
        "intervals, leave-one-run-out errors, the optimum with its kind. What is doubtful is said in plain words."
    ),
)
@in_plain_words
def fitted_law(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
    """Fit, judge and choose."""
    study, step = platform.study, platform.step(context, CODE_VERSION)
    inputs = fitted_law_inputs(study, step.lake, step.snapshot)
    commit = step.unchanged(inputs)
    if commit is None:
        losses = comparable_losses(study, step.snapshot)
        obs = observations(losses, all_trials(step.snapshot).select("trial", "regime"))
        pool = read_pool(step.snapshot, study.corpus_partitions())
        tokens = selection_tokens(study, pool.candidates.total_tokens)
        region = SearchRegion.of(obs, reachable_at(pool, study.selection.of_each_copy(tokens), study.regimes.inside))
        noise = measured_noise(obs)
        how = study.law
        results = fit_all(obs, region, tokens, noise, how.bootstrap, study.study.seed, how.confidence, how.robust)
        chosen = choose(results, how.target, how.sigma)
        corpus = (float(pool.candidates.ppl.mean()), float(pool.candidates.ppl.std()))
        screening = bool(losses["screening"].any())
        earlier = len(set(obs.runs.tolist()) - set(all_trials(step.snapshot)["trial"]))
        findings = checks(results, chosen, obs, region, noise, corpus, screening, earlier)
        unused = losses.filter(pl.col("point") > 0).height - len(obs)
        as_good = nearest_as_good(chosen.fit, chosen.optimum, region, corpus)
        rows = law_rows(judged(results, chosen), unused, noise, as_good)
        writes = [step.stage(FITTED_LAW, rows), step.stage(LAW_FINDINGS, finding_rows(findings))]
        commit = step.write(writes, inputs, fingerprint(rows.to_dicts()))
    return _law_result(study, step, commit)


def _law_result(study: Study, step: Step, commit: Commit) -> dg.MaterializeResult:
    snapshot = step.lake.snapshot()
    rows, findings = snapshot.read(FITTED_LAW), snapshot.read(LAW_FINDINGS)
    chosen = rows.filter(pl.col("is_chosen"))
    best = snapshot.only_row(FITTED_LAW, {"is_chosen": True})
    columns = [
        "form",
        "link",
        "sigma_kind",
        "optimum_kind",
        "status",
        "rms_pct",
        "loo_run_pct",
        "loo_regime_pct",
        "loo_median_pct",
        "loo_max_pct",
        "loo_regime_largest_pct",
        "loo_rank",
    ]
    metadata: dict[str, object] = {
        "form": f"{best['form']}, {best['link']} link",
        "why": best["choice_reason"],
        "optimum_kind": best["optimum_kind"],
        "optimum": best["optimum_sentence"],
        "forms": dg.MetadataValue.md(as_markdown_table(rows.select(columns))),
        "findings": dg.MetadataValue.md(as_markdown_table(findings.select("passed", "severity", "sentence"))),
    }
    for name in (
        "loo_run_pct",
        "loo_regime_pct",
        "loo_median_pct",
        "rms_pct",
        "mu_optimum",
        "sigma_optimum",
        "predicted_loss",
        "regret_bound_pct",
        "noise_pct",
    ):
        if best[name] is not None:
            metadata[name] = best[name]
    if best["equal_share"] is not None:
        metadata["not_distinguishable_from_the_optimum"] = equals_sentence(
            best["equal_share"],
            (best["equal_mu_low"], best["equal_mu_high"]),
            (best["equal_sigma_low"], best["equal_sigma_high"]),
        )
    if best["across_forms"] is not None:
        metadata["over_forms_that_predict_as_well"] = across_sentence(
            best["across_forms"],
            (best["across_mu_low"], best["across_mu_high"]),
            (best["across_sigma_low"], best["across_sigma_high"]),
            best["across_equal_share"],
        )
    law = chosen_law(rows)
    regimes = all_trials(snapshot)
    if law is not None and best["mu_optimum"] is not None:
        surface = law_surface(law, comparable_losses(study, snapshot), int(regimes["tokens"].max() or 1))  # type: ignore[arg-type]
        outline, landscape = snapshot.read(REACHABLE_REGION), snapshot.read(PERPLEXITY_LANDSCAPE)
        if surface is not None:
            picture = plots.law_surface(surface, chosen, regimes, outline, landscape, size="small")
            metadata["surface"] = dg.MetadataValue.md(
                plots.as_markdown(picture, "Predicted loss over mean and deviation")
            )
    return step.result(commit, metadata, table=FITTED_LAW, rows=rows.height)


@dg.asset_check(asset=fitted_law, description="What the fit says about itself, in plain words: see table law_findings.")
def law_can_be_trusted(platform: Platform) -> dg.AssetCheckResult:
    """Pass where every finding does; warn with the sentences of those that do not."""
    failed = platform.lake.snapshot().read(LAW_FINDINGS).filter(~pl.col("passed"))
    sentence = " ".join(failed["sentence"]) or "Every check of the fit passed."
    return dg.AssetCheckResult(
        passed=failed.is_empty(),
        severity=dg.AssetCheckSeverity.WARN,
        description=sentence,
        metadata={"failed": failed.height},
    )


def next_trials_inputs(study: Study, _lake: Lake, snapshot: Snapshot, _partition: str = "") -> Inputs:
    """What decides the next batch: the mode, the rule to stop, the budget, the design, and the fit with its losses.

    In fixed mode nothing but the design: no fit makes it propose. Measured speed, which turns max_hours into trials, is
    taken as it is when a decision is made; but where trials that were asked for no longer fit, that is decided anew.
    """
    trials = study.trials
    if trials.mode == "fixed":
        return Inputs([NEXT_CODE_VERSION, "fixed", design_version(snapshot)])
    law = snapshot.latest("fitted_law")
    rule = [trials.stop_regret_pct, trials.stop_location_pct, trials.batch, trials.max_tokens, trials.max_hours]
    fitted = [law.inputs, law.data_version] if law else []
    fitted += ["over the budget"] if budget_problem(study, cost_of_trials(study, snapshot)) else []
    return Inputs([NEXT_CODE_VERSION, rule, design_version(snapshot), fitted, study.study.seed])


@dg.asset(
    group_name="5_law",
    deps=[fitted_law, regime_partitions],
    kinds={"scipy", "duckdb"},
    code_version=NEXT_CODE_VERSION,
    metadata={
        **table_metadata(NEXT_TRIALS),
        "proposed_regimes": column_schema(PROPOSED_REGIMES),
        "sequential_steps": column_schema(SEQUENTIAL_STEPS),
    },
    description=(
        "Sequential mode: the trials to run next, where they tell most about the optimum, drawn and "
        "registered as partitions of trial_losses; or why no more are needed. In fixed mode nothing is proposed."
    ),
)
@in_plain_words
def next_trials(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
    """Decide, draw, register. Trials that were proposed for the present design stay as they are."""
    study, step = platform.study, platform.step(context, NEXT_CODE_VERSION)
    inputs = next_trials_inputs(study, step.lake, step.snapshot)
    commit = step.made_from(inputs)  # in a forced run too: to decide twice would propose twice
    if commit is None:
        commit = _decided(study, step, inputs)
    register_trials(context.instance, step.lake.snapshot())
    return _next_result(step, commit)


def _decided(study: Study, step: Step, inputs: Inputs) -> Commit:
    """Decide and write: earlier proposals for this design, and the new ones."""
    snapshot, pool = step.snapshot, read_pool(step.snapshot, study.corpus_partitions())
    decision = FIXED
    if study.trials.mode == "sequential":
        tokens = selection_tokens(study, pool.candidates.total_tokens)
        losses = comparable_losses(study, snapshot)
        decision = decide(study, snapshot, losses, pool, tokens, measured_prefixes(study))
    regimes, members = proposed_rows(snapshot, decision, pool)
    writes = [
        step.stage(PROPOSED_REGIMES, regimes),
        step.stage(NEXT_TRIALS, members),
        step.stage(SEQUENTIAL_STEPS, step_rows(study, snapshot, decision, regimes)),
    ]
    drawn = regimes["subset_hash"].to_list(), regimes["seed"].to_list()
    return step.write(writes, inputs, fingerprint(*drawn, decision.status, decision.sentence))


def _next_result(step: Step, commit: Commit) -> dg.MaterializeResult:
    snapshot = step.lake.snapshot()
    steps, regimes = snapshot.read(SEQUENTIAL_STEPS).sort("step"), proposals(snapshot)
    last = steps.row(-1, named=True)
    columns = ["step", "status", "proposed", "regret_bound_pct", "mu", "sigma", "trials", "tokens", "forms"]
    outline, landscape = snapshot.read(REACHABLE_REGION), snapshot.read(PERPLEXITY_LANDSCAPE)
    places = plots.trial_design(outline, all_trials(snapshot), landscape, size="small")
    shown = ["batch", "trial", "mu_target", "sigma_target", "mu", "sigma", "tokens", "seed", "prefix_error"]
    metadata: dict[str, object] = {
        "decision": last["sentence"],
        "status": last["status"],
        "proposed": last["proposed"],
        "trials": last["trials"],
        "tokens_of_all_trials": last["tokens"],
        "steps": dg.MetadataValue.md(as_markdown_table(steps.select(columns))),
        "proposals": dg.MetadataValue.md(as_markdown_table(regimes.select(shown))),
        "region": dg.MetadataValue.md(
            plots.as_markdown(places, "All trials, proposed ones too, in the reachable region")
        ),
    }
    if last["regret_bound_pct"] is not None:
        metadata["regret_bound_pct"] = last["regret_bound_pct"]
    rows = snapshot.read(NEXT_TRIALS, ["rank"]).height
    return step.result(commit, metadata, table=NEXT_TRIALS, rows=rows)


@dg.asset_check(
    asset=next_trials, description="Every proposed trial has the moments asked for, in the whole and in every prefix."
)
def proposals_have_their_moments(platform: Platform) -> dg.AssetCheckResult:
    """Compare drawn with asked-for moments."""
    return judge_moments(proposals(platform.lake.snapshot()))


ASSETS = [fitted_law, next_trials]
CHECKS = [law_can_be_trusted, proposals_have_their_moments]
