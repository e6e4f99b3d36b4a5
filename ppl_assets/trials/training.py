"""One training run as the lake records it: shared by the trials and the strategies.

Belongs here: from chunk ids in order to rows. The loop itself is in ``runner.py``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from ppl_assets.errors import UserError
from ppl_assets.lake import Snapshot
from ppl_assets.perplexity.held_out import held_out_chunks, token_arrays
from ppl_assets.perplexity.policy import ScorePolicy
from ppl_assets.study import Study
from ppl_assets.tables import CHUNKS
from ppl_assets.trials.points import Evaluator, TrialPoint
from ppl_assets.trials.recipe import LAW_POINTS, SCREENING, Execution, TrialRecipe, setting_id, trial_fingerprint

if TYPE_CHECKING:
    import transformers

    from ppl_assets.trials.checkpoints import Checkpoint


class TrainingError(UserError, ValueError):
    """A run cannot be trained as asked; the message says why and what to do."""


@dataclass(frozen=True)
class Setting:
    """What must agree for two losses to be comparable: base model, recipe, held-out chunks, policy.

    Attributes:
        setting_id: its fingerprint.
        recipe: the training recipe.
        policy: the scorer's policy.
        test: chunk_id and tokens of the held-out domain text.
        general: the same of general text; may be empty.
    """

    setting_id: str
    recipe: TrialRecipe
    policy: ScorePolicy
    test: pl.DataFrame
    general: pl.DataFrame

    def fingerprint(self, chunk_ids: Sequence[str], seed: int) -> str:
        """Fingerprint of one run: the same is never trained twice."""
        return trial_fingerprint(self.setting_id, chunk_ids, seed, self.recipe)


EXECUTION = ("micro_tokens", "gradient_checkpointing")
"""Keys of ``[trials]`` that say how a run is computed, not what it is."""

LORA_RATE = 10.0
"""Rate of adapters over that of all weights, where the study gives none: adapters start at zero and want more."""


def study_recipe(study: Study) -> TrialRecipe:
    """The recipe of a study's trials."""
    given = study.trials.model_dump(exclude={*EXECUTION, "lora_learning_rate"})
    if study.trials.lora_rank:
        given["learning_rate"] = study.trials.lora_learning_rate or LORA_RATE * study.trials.learning_rate
    return TrialRecipe(**given)


def full_recipe(study: Study, tokens: int, points: int) -> TrialRecipe:
    """The recipe for another length of the runs, in which all weights are trained and the rate is constant."""
    given = study.trials.model_dump(exclude={*EXECUTION, "lora_learning_rate", "lora_rank", "decay_branches"})
    return TrialRecipe(**{**given, "tokens": tokens, "points": points})


def study_setting(study: Study, snapshot: Snapshot, policy: ScorePolicy, recipe: TrialRecipe | None = None) -> Setting:
    """The setting of a study's trials, or under another recipe.

    Raises:
        TrainingError: no test chunk is in the lake.
    """
    recipe = recipe or study_recipe(study)
    corpora = study.corpus_partitions()
    test = held_out_chunks(snapshot, "test", corpora, study.held_out.test_tokens)
    general = held_out_chunks(snapshot, "general", corpora, study.held_out.general_tokens)
    if test.is_empty():
        raise TrainingError(
            "there is no test chunk to measure losses on: its documents may be shorter than chunks.tokens = "
            f"{study.chunks.tokens} tokens; lower chunks.tokens, set chunks.min_tokens, or raise held_out.test_share"
        )
    name = setting_id(policy.model_id, recipe, test["chunk_id"].to_list(), general["chunk_id"].to_list(), policy)
    return Setting(name, recipe, policy, test, general)


def train(
    model: transformers.PreTrainedModel,
    setting: Setting,
    chunks: pl.DataFrame,
    token_ids: Mapping[str, np.ndarray],
    seed: int,
    device: str,
    row_tokens: int | None,
    progress: Callable[[int, int, float], None],
    execution: Execution,
    checkpoint: Checkpoint | None = None,
    downstream: Callable[[transformers.PreTrainedModel], dict[str, float]] | None = None,
) -> list[TrialPoint]:
    """Train on ``chunks`` (chunk_id, ppl; in order) and measure under ``setting``."""
    from ppl_assets.trials.runner import run_trial  # noqa: PLC0415 - torch takes seconds, and most who read rows need none

    evaluator = Evaluator(
        token_arrays(setting.test["tokens"]), token_arrays(setting.general["tokens"]), setting.policy, row_tokens
    )
    return run_trial(
        model,
        [token_ids[chunk_id] for chunk_id in chunks["chunk_id"]],
        chunks["ppl"].to_numpy(),
        setting.recipe,
        seed,
        evaluator,
        device,
        setting.policy.prefix_id,
        progress,
        execution,
        checkpoint,
        downstream,
    )


def token_ids_of(snapshot: Snapshot, chunks: pl.DataFrame) -> dict[str, np.ndarray]:
    """Token ids by chunk id, for the chunks (chunk_id, corpus) of one run.

    Raises:
        TrainingError: a chunk is not in the lake any more.
    """
    found: dict[str, np.ndarray] = {}
    for (corpus,), wanted in chunks.group_by("corpus"):
        ids = set(wanted["chunk_id"])
        for batch in snapshot.scan(CHUNKS, ["chunk_id", "tokens"], {"corpus": corpus, "chunk_id": list(ids)}):
            rows = pl.DataFrame(pl.from_arrow(batch))
            found.update(zip(rows["chunk_id"], token_arrays(rows["tokens"]), strict=True))
    if missing := set(chunks["chunk_id"]) - set(found):
        raise TrainingError(
            f"{len(missing)} of {chunks.height} chunks of this subset are no longer in the lake, since their corpus "
            "changed: it cannot be trained again, and losses that it gave before stay; materialize regime_partitions "
            "for new trials, final_subset for a new selection"
        )
    return found


def point_rows(points: Sequence[TrialPoint], seed: int, setting: Setting, fingerprint: str) -> pl.DataFrame:
    """Measurements as a table: the points' fields, with seed, setting and fingerprint."""
    moments = ("mu", "sigma", "log_mu", "log_sigma", "test_loss", "general_loss")
    measured = {**dict.fromkeys(moments, pl.Float64), "micro_tokens": pl.Int64, "downstream": pl.String}
    further = [json.dumps(point.downstream) if point.downstream else None for point in points]
    fields = [asdict(point) | {"downstream": text} for point, text in zip(points, further, strict=True)]
    rows = pl.DataFrame(fields, schema_overrides=measured, infer_schema_length=None)
    return rows.with_columns(
        seed=pl.lit(seed, pl.Int64),
        setting_id=pl.lit(setting.setting_id),
        trial_fingerprint=pl.lit(fingerprint),
        screening=pl.lit(setting.recipe.lora_rank > 0),
    )


def on_trunk() -> pl.Expr:
    """Whether a measurement is of the run itself, not of a decay branch; rows from before there were any are."""
    return pl.col("branch").fill_null("trunk") == "trunk"


def serves_the_law(rows: pl.DataFrame) -> tuple[bool, str]:
    """Whether one run gives the law what it should, and a sentence on it."""
    used = rows.filter(on_trunk() & (pl.col("point") > 0) & ~pl.col("is_warmup") & (pl.col("status") == "ok")).height
    sentence = f"{used} measurements after warm-up."
    if used < LAW_POINTS:
        sentence = (
            f"{used} measurements after warm-up, {LAW_POINTS} are wanted: raise trials.points or trials.tokens, or "
            "lower trials.warmup_share or trials.batch_tokens."
        )
    is_screening = bool(rows["screening"].any())
    return used >= LAW_POINTS and not is_screening, f"{sentence} {SCREENING}" if is_screening else sentence


def decay_offset(rows: pl.DataFrame) -> float | None:
    """How much lower the test loss is after a decay branch than on the trunk at as many tokens, mean over branches.

    The trunk is read between its measurements, linear in the logarithm of the tokens. It is not the law's.

    Args:
        rows: measurements of one run.

    Returns:
        Nats a token, positive where decay lowers the loss; None without a sound branch.
    """
    trunk = rows.filter(on_trunk() & (pl.col("point") > 0) & (pl.col("status") == "ok")).sort("tokens")
    decayed = rows.filter(~on_trunk() & (pl.col("status") == "ok"))
    if decayed.is_empty() or trunk.is_empty():
        return None
    there = np.interp(np.log(decayed["tokens"]), np.log(trunk["tokens"]), trunk["test_loss"])
    return float(np.mean(there - decayed["test_loss"].to_numpy()))
