"""What is measured on the way of a run, and how."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from ppl_assets.perplexity.policy import ScorePolicy
from ppl_assets.trials.recipe import TrialRecipe

if TYPE_CHECKING:
    from ppl_assets.perplexity.scorer import Scorer

LOST = 2.0
"""A test loss beyond this many times both the base model's and a uniform guess' is divergence, finite or not."""

Branch = Literal["trunk", "decay"]


@dataclass(frozen=True)
class TrialPoint:
    """One measurement.

    Attributes:
        point: number, 0 before any training; a branch has that of the point it starts from.
        branch: trunk: at constant rate. decay: at the end of a branch with a falling rate.
        tokens: chunk tokens seen, prefixes not counted.
        mu: mean perplexity of the chunks seen; None at point 0.
        sigma: its standard deviation (population); None at point 0.
        log_mu: mean of the natural logarithm of their perplexity; None at point 0.
        log_sigma: its standard deviation (population); None at point 0.
        test_loss: nats a token over all held-out domain tokens; NaN where training was no longer finite.
        general_loss: the same on general text; None without such text.
        is_warmup: the learning rate was still rising at the step before. Point 0 had none and is not warm-up.
        seconds: training seconds so far, evaluation excluded.
        tokens_per_second: tokens over seconds.
        micro_tokens: most tokens of one pass by then; None: whole steps.
        status: ok or diverged.
        downstream: further measures of the trained model by name, at a run's last point; None where none were taken.
    """

    point: int
    branch: Branch
    tokens: int
    mu: float | None
    sigma: float | None
    log_mu: float | None
    log_sigma: float | None
    test_loss: float
    general_loss: float | None
    is_warmup: bool
    seconds: float
    tokens_per_second: float
    micro_tokens: int | None
    status: str
    downstream: dict[str, float] | None = None


@dataclass(frozen=True)
class Evaluator:
    """Held-out chunks and the policy under which their loss is taken.

    Attributes:
        test_chunks: int32 token arrays of the domain.
        general_chunks: int32 token arrays of general text; may be empty.
        policy: the scorer's.
        row_tokens: places of one pass; None: as the device likes.
    """

    test_chunks: Sequence[np.ndarray]
    general_chunks: Sequence[np.ndarray]
    policy: ScorePolicy
    row_tokens: int | None = None

    def losses(self, scorer: Scorer) -> tuple[float, float | None]:
        """Test and general loss: summed nll over summed tokens."""
        general = scorer.score(self.general_chunks).mean_nll() if len(self.general_chunks) else None
        return scorer.score(self.test_chunks).mean_nll(), general


@dataclass
class RunState:
    """Where a run is.

    Attributes:
        steps: steps taken.
        chunks: chunks seen.
        tokens: their tokens.
        seconds: training seconds.
        micro_tokens: most tokens of one pass; None: whole steps.
        points: measurements so far.
        is_over: nothing is left to train.
    """

    steps: int = 0
    chunks: int = 0
    tokens: int = 0
    seconds: float = 0.0
    micro_tokens: int | None = None
    points: list[TrialPoint] = field(default_factory=list)
    is_over: bool = False


@dataclass(frozen=True)
class Gauge:
    """Measures one run.

    Attributes:
        evaluate: held-out chunks.
        scorer: scores them with the weights as they are now.
        ppl: float64 [chunks], perplexities of the run's chunks.
        recipe: the recipe.
    """

    evaluate: Evaluator
    scorer: Scorer
    ppl: np.ndarray
    recipe: TrialRecipe

    def point(self, run: RunState, branch: Branch = "trunk", loss: float = 0.0) -> TrialPoint:
        """The measurement of where the run is; ``loss`` of the last step: where it is not finite, nothing is scored."""
        losses = self.evaluate.losses(self.scorer) if math.isfinite(loss) else (math.nan, None)
        ppl = self.ppl[: run.chunks]
        moments = [None] * 4 if not run.chunks else [float(m) for x in (ppl, np.log(ppl)) for m in (x.mean(), x.std())]
        return TrialPoint(
            point=sum(point.branch == "trunk" for point in run.points) - (branch == "decay"),
            branch=branch,
            tokens=run.tokens,
            mu=moments[0],
            sigma=moments[1],
            log_mu=moments[2],
            log_sigma=moments[3],
            test_loss=losses[0],
            general_loss=losses[1],
            is_warmup=run.steps > 0 and self.recipe.is_rising(run.tokens),
            seconds=run.seconds,
            tokens_per_second=run.tokens / run.seconds if run.seconds else 0.0,
            micro_tokens=run.micro_tokens,
            status="ok" if math.isfinite(losses[0]) and losses[0] <= self._most(run) else "diverged",
        )

    def _most(self, run: RunState) -> float:
        """Test loss beyond which the run counts as diverged."""
        return LOST * max(run.points[0].test_loss, math.log(self.scorer.vocabulary)) if run.points else math.inf
