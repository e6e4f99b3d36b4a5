"""The training of one strategy: its setting, its target, its seeds, and what the law had said of each.

Belongs here: what ``strategy_losses`` computes. Does not belong here: what Dagster sees of it (``assets.py``).
"""

import shlex

import numpy as np
import polars as pl

from ppl_assets.corpus.tokenizer import load_tokenizer
from ppl_assets.lake import Snapshot
from ppl_assets.law.predictions import chosen_law
from ppl_assets.perplexity.candidates import current_scorer
from ppl_assets.perplexity.stored import stored_base_model, study_policy
from ppl_assets.regimes.documents import Documents
from ppl_assets.regimes.drawn import Target
from ppl_assets.regimes.pool import Pool
from ppl_assets.resources import Step
from ppl_assets.study import Study
from ppl_assets.subset.draws import draw, ordered
from ppl_assets.subset.target import law_scorer, scope_moments
from ppl_assets.subset.whole_documents import in_document_order
from ppl_assets.tables import FINAL_SUBSET, FITTED_LAW, SELECTIONS, STRATEGY_LOSSES
from ppl_assets.trials.assets import train_subset
from ppl_assets.trials.downstream import Downstream, lm_eval_command
from ppl_assets.trials.recipe import measured_token_counts
from ppl_assets.trials.training import Setting, full_recipe, study_setting


def strategy_setting(study: Study, snapshot: Snapshot) -> Setting:
    """The trials' recipe over the strategies' tokens; all weights are trained, since this is the proof."""
    tokens = study.strategies.tokens or int(snapshot.only_row(SELECTIONS)["tokens_target"])
    policy = study_policy(study, stored_base_model(snapshot))
    return study_setting(study, snapshot, policy, full_recipe(study, tokens, study.strategies.points))


def strategy_target(snapshot: Snapshot, strategy: str) -> Target:
    """The moments that a strategy follows, or is measured against."""
    row = snapshot.only_row(SELECTIONS)
    moments = scope_moments(snapshot)
    mu, sigma = (
        moments["test"] if strategy == "matched" and "test" in moments else (row["mu_target"], row["sigma_target"])
    )
    return Target(mu, sigma, row["tokens_target"])


def as_declared(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of ``strategy_losses`` with the declared columns and types; a measure that no row has comes untyped."""
    schema = pl.Schema(STRATEGY_LOSSES.schema)
    return rows.select(schema.names()).cast(schema)


def run_seed(
    study: Study, step: Step, setting: Setting, pool: Pool, number: int, documents: Documents | None = None
) -> pl.DataFrame:
    """Rows of one seed: of an earlier identical run where there is one, else trained now; ``documents`` where whole."""
    seed, recipe = study.study.seed + number, setting.recipe
    prefixes, is_whole = measured_token_counts(recipe), study.selection.unit == "document"
    if step.partition == "selected":
        columns = ["rank", "chunk_id", "corpus", "doc_id", "n_tokens", "ppl"]
        members = step.snapshot.read(FINAL_SUBSET, columns).sort("rank")
        subset = in_document_order(members, seed) if is_whole else ordered(members, seed, prefixes)
    else:
        target = strategy_target(step.snapshot, step.partition)
        subset = draw(step.partition, study, pool, target, seed, prefixes, documents).rows
    name = setting.fingerprint(subset["chunk_id"].to_list(), seed)
    known = step.snapshot.read(STRATEGY_LOSSES, where={"trial_fingerprint": name}).unique("point").sort("point")
    if not step.is_forced and not known.is_empty() and _is_measured(study, known):
        return known
    return _train_seed(study, step, setting, subset, seed, name)


def downstream_command(study: Study) -> tuple[str, ...]:
    """The command that takes further measures of a trained model; empty where none are asked for."""
    asked = study.strategies
    if asked.lm_eval_tasks:
        return lm_eval_command(asked.lm_eval_tasks, asked.lm_eval_arguments)
    return tuple(asked.downstream)


def _is_measured(study: Study, known: pl.DataFrame) -> bool:
    """Whether a known run has the measures asked for; its weights are gone, so else it is trained again."""
    command = downstream_command(study)
    return not command or known["downstream_command"][-1] == shlex.join(command)


def _downstream(study: Study, step: Step) -> Downstream | None:
    command = downstream_command(study)
    if not command:
        return None
    folder = stored_base_model(step.snapshot).path
    return Downstream(
        command, study.storage.root / "spool" / "downstream", lambda to: load_tokenizer(folder).save_pretrained(to)
    )


def _train_seed(study: Study, step: Step, setting: Setting, subset: pl.DataFrame, seed: int, name: str) -> pl.DataFrame:
    """Train one seed; the law's prediction for what it saw stands beside each measurement."""
    measured = _downstream(study, step)
    rows = train_subset(study, step, setting, subset, seed, name, f"seed {seed}, ", measured)
    is_comparable = law_scorer(step.snapshot) == current_scorer(step.snapshot) and not study.trials.lora_rank
    law = chosen_law(step.snapshot.read(FITTED_LAW)) if is_comparable else None
    predicted: list[float | None] = [None] * rows.height
    if law is not None:
        trained = rows.filter(pl.col("point") > 0)
        loss = law.predict(trained["mu"].to_numpy(), trained["sigma"].to_numpy(), trained["tokens"].to_numpy())
        predicted = [None, *np.asarray(loss).tolist()]
    return rows.with_columns(
        predicted_loss=pl.Series(predicted, dtype=pl.Float64).fill_nan(None),
        strategy=pl.lit(step.partition),
        downstream_command=pl.when(pl.col("downstream").is_not_null()).then(
            pl.lit(shlex.join(measured.command) if measured else None, pl.String)
        ),
    ).select([column.name for column in STRATEGY_LOSSES.columns])
