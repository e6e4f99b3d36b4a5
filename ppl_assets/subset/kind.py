"""Whether the final subset is of the kind that the trials were: the law has seen no other.

The law knows of a subset its mean, deviation and tokens, and was fitted to subsets of one kind: the nearest to the
corpus that have these moments. A subset with the same two moments can be of another kind (two spikes of perplexity, or
a large share of the corpus in which most chunks are certain to be in). So the third moment and the divergence from the
corpus are compared with those of subsets of a trial's size drawn at the selection's own place.
"""

from dataclasses import dataclass

import numpy as np

from ppl_assets.regimes.candidates import ChunkSource
from ppl_assets.regimes.distribution import FloatArray
from ppl_assets.regimes.drawn import Target, binned_divergence
from ppl_assets.regimes.sampler import draw_tilt

DRAWS = 6
"""Trials drawn for comparison: their deviation is then known to a third of itself."""

BINS = 20
"""Bins of equal candidate count for the divergence: the same for subsets of any size, coarse enough for 400 chunks."""

DEVIATIONS = 4.0
LEAST_SKEWNESS, LEAST_KL = 0.2, 0.05
"""A difference counts where it exceeds DEVIATIONS of the drawn trials', and a third moment of 0.2 or 0.05 nats. What so
much does to a loss has not been measured."""


@dataclass(frozen=True)
class Shape:
    """What a subset's perplexities look like beside mean and deviation.

    Attributes:
        skewness: third standardized moment.
        kl_nats: divergence from the candidates' perplexities over BINS bins, less what its size alone makes of it.
    """

    skewness: float
    kl_nats: float

    @classmethod
    def of(cls, candidates: ChunkSource, ppl: FloatArray) -> "Shape":
        """Of a subset's perplexities [n], which are some of the candidates'."""
        z = (ppl - ppl.mean()) / (ppl.std() or 1.0)
        divergence, filled = binned_divergence(candidates, ppl, BINS)
        return cls(float(np.mean(z**3)), divergence - (filled - 1) / (2 * ppl.size))


@dataclass(frozen=True)
class Kind:
    """A selection's shape beside that of trials at its place.

    Attributes:
        own: of the selection.
        trial: mean over the drawn trials.
        deviation: standard deviation over them.
    """

    own: Shape
    trial: Shape
    deviation: Shape

    @property
    def is_known(self) -> bool:
        """Whether the trials were of this kind."""
        return all(
            abs(getattr(self.own, name) - getattr(self.trial, name))
            <= max(least, DEVIATIONS * getattr(self.deviation, name))
            for name, least in (("skewness", LEAST_SKEWNESS), ("kl_nats", LEAST_KL))
        )

    @property
    def sentence(self) -> str:
        """Both shapes in words."""
        figures = (
            f"its third standardized moment is {self.own.skewness:.2f} and its divergence from the corpus "
            f"{self.own.kl_nats:.3f} nats; trials at its place have {self.trial.skewness:.2f} "
            f"(\N{PLUS-MINUS SIGN}{self.deviation.skewness:.2f}) and {self.trial.kl_nats:.3f} "
            f"(\N{PLUS-MINUS SIGN}{self.deviation.kl_nats:.3f})"
        )
        if self.is_known:
            return f"The subset is of the kind that the trials were: {figures}."
        return (
            "The subset is of another kind than the trials, so the law is asked about what it has not seen: "
            f"{figures}. A smaller share of the corpus, more text, or method = 'tilt' brings the two together."
        )


def kind_of(candidates: ChunkSource, ppl: FloatArray, trial_tokens: int, seed: int) -> Kind | None:
    """Compare a subset with trials drawn at its own mean and deviation.

    Args:
        candidates: N chunks, from which both are drawn.
        ppl: [n] perplexities of the subset's chunks.
        trial_tokens: tokens of a trial.
        seed: of the trials' draws.

    Returns:
        None where the subset has no spread, or a trial takes all the candidates: there is then nothing to compare.
    """
    mu, sigma = float(ppl.mean()), float(ppl.std())
    if sigma == 0 or trial_tokens >= candidates.total_tokens:
        return None
    target = Target(mu, sigma, trial_tokens)
    drawn = [draw_tilt(candidates, target, seed=seed + number) for number in range(DRAWS)]
    shapes = np.array([[s.skewness, s.kl_nats] for s in (Shape.of(candidates, d.members.ppl) for d in drawn)])
    mean, deviation = shapes.mean(axis=0), shapes.std(axis=0, ddof=1)
    return Kind(Shape.of(candidates, ppl), Shape(*map(float, mean)), Shape(*map(float, deviation)))
