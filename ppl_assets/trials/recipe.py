"""How a trial trains, and the fingerprints of what must agree for two trials to be comparable or the same.

Belongs here: what is decided before a run begins. The run itself is in ``runner``.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ppl_assets.perplexity.policy import ScorePolicy
from ppl_assets.regimes import token_counts

RUNNER_VERSION = "2"
"""Raise it when a change in the loop changes a loss; earlier trials are then of another setting."""

LAW_POINTS = 6
"""Measurements after warm-up that a run should give the law; one run then costs as much as six do otherwise."""


SCREENING = (
    "Trained with low-rank adapters: a screening of regimes. Such losses rank regimes, and a law fitted to them is not "
    "the law of full training; set trials.lora_rank = 0 for that."
)


@dataclass(frozen=True)
class TrialRecipe:
    """How a trial trains; the same in every trial of a setting.

    Attributes:
        learning_rate: constant after warm-up.
        warmup_share: share of the tokens over which the rate rises linearly.
        warmup_steps: steps over which it rises at least; AdamW's first steps are of one size whatever the gradient.
        batch_tokens: tokens a step; a step ends with the first chunk that reaches it.
        weight_decay: AdamW decay of matrices; vectors are not decayed.
        max_grad_norm: gradient norm clip.
        tokens: tokens of the run, the largest D.
        span: largest over smallest token count measured.
        points: token counts measured.
        decay_branches: measured counts from which a branch with a falling rate is trained; the run itself is unmoved.
        decay_share: length of such a branch, as a share of the tokens before it.
        lora_rank: rank of the adapters that are trained instead of the weights; 0: the weights.
        average_share: a measurement is of the mean of the weights over the last steps, this share of the tokens before
            it; 0: of the last step's weights.
    """

    learning_rate: float = 5e-4
    warmup_share: float = 0.02
    warmup_steps: int = 5
    batch_tokens: int = 2048
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    tokens: int = 262_144
    span: float = 16.0
    points: int = 7
    decay_branches: int = 0
    decay_share: float = 0.2
    lora_rank: int = 0
    average_share: float = 0.2

    @property
    def warmup_tokens(self) -> float:
        """Tokens over which the rate rises."""
        return max(self.warmup_share * self.tokens, self.warmup_steps * self.batch_tokens)

    def is_rising(self, seen: int) -> bool:
        """Whether the rate still rises once ``seen`` tokens are trained on."""
        return seen < self.warmup_tokens

    def is_averaged(self, seen: int, last: int, due: int) -> bool:
        """Whether the weights at ``seen`` tokens count in the measurement at ``due``; ``last`` is the one before."""
        return self.average_share > 0.0 and seen > max(last, (1.0 - self.average_share) * due)

    def rate(self, seen: int) -> float:
        """Learning rate of the step that ends at ``seen`` tokens."""
        return self.learning_rate * (seen / self.warmup_tokens if self.is_rising(seen) else 1.0)


@dataclass(frozen=True)
class Execution:
    """How a run is computed. It changes losses by rounding alone, so it is not part of the recipe.

    Attributes:
        micro_tokens: most tokens of one forward and backward pass, if a chunk is not longer; None: the whole step.
            Halved where memory runs out.
        gradient_checkpointing: keep no activations inside a layer, compute them again: less memory, a third more work.
    """

    micro_tokens: int | None = None
    gradient_checkpointing: bool = False


def measured_token_counts(recipe: TrialRecipe) -> list[int]:
    """Token counts at which a run of this recipe is measured; see ``regimes.token_counts``."""
    return token_counts.measured_token_counts(recipe.tokens, recipe.batch_tokens, recipe.span, recipe.points)


def branch_token_counts(recipe: TrialRecipe, total: int) -> list[int]:
    """Token counts from which a run of ``total`` tokens has decay branches; see ``regimes.token_counts``."""
    counts = measured_token_counts(recipe)
    return token_counts.branch_token_counts(counts, total, recipe.decay_branches, recipe.decay_share)


def setting_id(
    model_id: str, recipe: TrialRecipe, test_ids: Sequence[str], general_ids: Sequence[str], policy: ScorePolicy
) -> str:
    """Fingerprint of what must agree for two losses to be comparable: model, recipe, held-out chunks, policy, code.

    Decay branches leave the run itself as it is, so they are in the run's fingerprint and not in the setting's.
    """
    trained = asdict(recipe)
    unset = [name for name in ("lora_rank", "average_share") if not trained[name]]  # as before there were such
    for name in ("decay_branches", "decay_share", *unset):
        del trained[name]
    held_out = [sorted(test_ids), sorted(general_ids)]
    content = [model_id, trained, held_out, policy.scorer_id, RUNNER_VERSION]
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


def trial_fingerprint(setting: str, subset_ids: Sequence[str], seed: int, recipe: TrialRecipe | None = None) -> str:
    """Fingerprint of one trial: its setting, its chunks in order, its seed, and its decay branches where it has any."""
    branches = [[recipe.decay_branches, recipe.decay_share]] if recipe and recipe.decay_branches else []
    content = json.dumps([setting, list(subset_ids), seed, *branches]).encode()
    return hashlib.blake2b(content, digest_size=16).hexdigest()
