"""One training run as the lake records it: shared by the trials and, later, by the strategies.

Belongs here: from chunk ids in order to rows. The loop itself is in ``runner.py``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import polars as pl
from transformers import PreTrainedModel

from ppl_assets.lake import Snapshot
from ppl_assets.perplexity.held_out import held_out_chunks, token_arrays
from ppl_assets.perplexity.scorer import ScorePolicy
from ppl_assets.study import Study
from ppl_assets.tables import CHUNKS
from ppl_assets.trials.runner import Evaluator, TrialPoint, TrialRecipe, run_trial, setting_id, trial_fingerprint


class TrainingError(ValueError):
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
        return trial_fingerprint(self.setting_id, chunk_ids, seed)


def study_setting(study: Study, snapshot: Snapshot, policy: ScorePolicy, *, points: int | None = None) -> Setting:
    """The setting of a study's trials; ``points`` measures at another number of token counts.

    Raises:
        TrainingError: no test chunk is in the lake.
    """
    trials = study.trials
    recipe = TrialRecipe(**{**trials.model_dump(), "points": points or trials.points})
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
    model: PreTrainedModel,
    setting: Setting,
    chunks: pl.DataFrame,
    token_ids: Mapping[str, np.ndarray],
    seed: int,
    device: str,
    row_tokens: int,
    progress: Callable[[int, int, float], None],
) -> list[TrialPoint]:
    """Train on ``chunks`` (chunk_id, ppl; in order) and measure under ``setting``."""
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
            f"{len(missing)} of {chunks.height} chunks of this subset are no longer in the lake, since their corpus changed; "
            "materialize regime_partitions (or final_subset) again"
        )
    return found


def point_rows(points: Sequence[TrialPoint], seed: int, setting: Setting, fingerprint: str) -> pl.DataFrame:
    """Measurements as a table: the points' fields, with seed, setting and fingerprint."""
    return pl.DataFrame([asdict(point) for point in points], infer_schema_length=None).with_columns(
        seed=pl.lit(seed, pl.Int64), setting_id=pl.lit(setting.setting_id), trial_fingerprint=pl.lit(fingerprint)
    )
