"""What a law is fitted to: measured test losses of trial runs, and the noise that repeated runs show.

Belongs here: the record of the measurements and what can be said without a law. Does not belong here: forms and fits.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppl_assets.errors import UserError

FloatArray = NDArray[np.float64]
LabelArray = NDArray[Any]
MaskArray = NDArray[np.bool_]


class ObservationError(UserError, ValueError):
    """The measurements cannot be used as given; the message says which and what is accepted."""


@dataclass(frozen=True, eq=False)
class Observations:
    """Test losses at several token counts of several trial runs.

    Points of one run share subset, seed and order, so everything that resamples does it by run.

    Attributes:
        mu: [n] mean perplexity of the chunks seen so far.
        sigma: [n] their standard deviation, > 0.
        tokens: [n] tokens seen so far (D), > 0.
        loss: [n] test loss, nats a token, > 0.
        run: [n] label of the trial run, integers or strings.
        base_loss: test loss of the base model before any training (L0), nats a token.
        regime: [n] label of the design's place, so that repeats of one regime are known; may be absent.

    Raises:
        ObservationError: where lengths differ or a value is not finite and positive.
    """

    mu: FloatArray
    sigma: FloatArray
    tokens: FloatArray
    loss: FloatArray
    run: LabelArray
    base_loss: float
    regime: LabelArray | None = None

    def __post_init__(self) -> None:
        for name in ("mu", "sigma", "tokens", "loss"):
            object.__setattr__(self, name, _positive(name, getattr(self, name)))
        object.__setattr__(self, "run", np.asarray(self.run))
        if self.regime is not None:
            object.__setattr__(self, "regime", np.asarray(self.regime))
        lengths = {name: len(getattr(self, name)) for name in ("mu", "sigma", "tokens", "loss", "run")}
        if self.regime is not None:
            lengths["regime"] = len(self.regime)
        if len(set(lengths.values())) != 1:
            raise ObservationError(f"lengths differ: {lengths}; give one value of each for every point")
        if not (np.isfinite(self.base_loss) and self.base_loss > 0):
            raise ObservationError(
                f"base_loss = {self.base_loss}: give the base model's test loss, finite and positive"
            )

    def __len__(self) -> int:
        return len(self.loss)

    @property
    def runs(self) -> LabelArray:
        """[R] the distinct run labels, sorted."""
        return np.unique(self.run)

    @property
    def run_index(self) -> NDArray[np.int64]:
        """[n] place of each point's run in :attr:`runs`."""
        return np.unique(self.run, return_inverse=True)[1].reshape(-1).astype(np.int64)

    def subset(self, mask: MaskArray) -> "Observations":
        """The points where ``mask`` [n] is true."""
        keep = np.asarray(mask, dtype=bool)
        if keep.shape != self.loss.shape:
            raise ObservationError(f"mask has shape {keep.shape}; give one flag for each of the {len(self)} points")
        regime = None if self.regime is None else self.regime[keep]
        return replace(
            self,
            mu=self.mu[keep],
            sigma=self.sigma[keep],
            tokens=self.tokens[keep],
            loss=self.loss[keep],
            run=self.run[keep],
            regime=regime,
        )

    def without_run(self, label: object) -> "Observations":
        """All points but those of one run.

        Raises:
            ObservationError: where no point carries the label.
        """
        keep = np.asarray(self.run != label)
        if keep.all():
            raise ObservationError(f"run = {label!r} is not among the {len(self.runs)} runs observed")
        return self.subset(keep)

    def run_means(self) -> tuple[FloatArray, FloatArray]:
        """[R] geometric means of mu and of sigma over each run's points: where the run lies in the plane."""
        index = self.run_index
        count = np.bincount(index)
        return (
            np.exp(np.bincount(index, np.log(self.mu)) / count),
            np.exp(np.bincount(index, np.log(self.sigma)) / count),
        )


def _positive(name: str, values: object) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ObservationError(f"{name} has shape {array.shape}; give one value for each point")
    bad = ~(np.isfinite(array) & (array > 0))
    if bad.any():
        place = int(np.flatnonzero(bad)[0])
        raise ObservationError(f"{name}[{place}] = {array[place]}: every value must be finite and positive")
    return array


def measured_noise(obs: Observations) -> float | None:
    """Seed noise of a test loss, in % of loss, from regimes that were run more than once.

    Within a regime every run's ln L is read at the same token counts (linear in ln D between its points); the
    deviation between runs is pooled over token counts and regimes with runs - 1 degrees of freedom each.

    Returns:
        100 times the pooled standard deviation of ln L, or None where no regime was repeated.
    """
    if obs.regime is None:
        return None
    total, freedom = 0.0, 0
    for label in np.unique(obs.regime):
        place = obs.subset(np.asarray(obs.regime == label))
        curves = _common_curves(place)
        if curves is not None:
            total += float(curves.var(axis=0, ddof=0).mean()) * len(curves)
            freedom += len(curves) - 1
    return 100.0 * float(np.sqrt(total / freedom)) if freedom else None


def _common_curves(place: Observations) -> FloatArray | None:
    """[runs, points] ln L of every run at the first run's token counts that all runs span; None without repeats."""
    runs = [place.subset(np.asarray(place.run == label)) for label in place.runs]
    if len(runs) < 2:
        return None
    low, high = max(r.tokens.min() for r in runs), min(r.tokens.max() for r in runs)
    at = np.log([d for d in np.unique(runs[0].tokens) if low <= d <= high])
    if not len(at):
        return None
    ordered = [(np.log(r.tokens), np.log(r.loss), np.argsort(r.tokens)) for r in runs]
    return np.array([np.interp(at, d[order], loss[order]) for d, loss, order in ordered])
