"""What a law is fitted to: measured test losses of trial runs, and the noise that repeated runs show.

Belongs here: the record of the measurements and what can be said without a law. Does not belong here: forms and fits.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ppl_assets.errors import UserError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
LabelArray = NDArray[Any]
MaskArray = NDArray[np.bool_]

Statistics = Literal["raw", "log"]
"""What mu and sigma are: mean and deviation of PPL, or exp of the mean and deviation of ln PPL."""


LARGEST = 0.9
"""Points with this share of the largest token count or more are the largest."""


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
        log_mu: [n] mean of ln PPL of the chunks seen so far, nats; may be absent.
        log_sigma: [n] standard deviation of ln PPL, nats, >= 0; given together with ``log_mu`` or not at all.
        statistics: what ``mu`` and ``sigma`` are; see :meth:`in_logs`.

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
    log_mu: FloatArray | None = None
    log_sigma: FloatArray | None = None
    statistics: Statistics = "raw"

    def __post_init__(self) -> None:
        for name in ("mu", "sigma", "tokens", "loss"):
            object.__setattr__(self, name, _positive(name, getattr(self, name)))
        object.__setattr__(self, "run", np.asarray(self.run))
        if self.regime is not None:
            object.__setattr__(self, "regime", np.asarray(self.regime))
        if (self.log_mu is None) != (self.log_sigma is None):
            raise ObservationError("log_mu and log_sigma are given together or not at all")
        if self.log_mu is not None and self.log_sigma is not None:
            object.__setattr__(self, "log_mu", np.log(_positive("exp(log_mu)", np.exp(self.log_mu))))
            # A deviation of exactly 0 is a prefix of equal chunks: its geometric deviation is 1.
            object.__setattr__(self, "log_sigma", np.log(_positive("exp(log_sigma)", np.exp(self.log_sigma))))
        lengths = {name: len(value) for name, value in self._columns().items()}
        if len(set(lengths.values())) != 1:
            raise ObservationError(f"lengths differ: {lengths}; give one value of each for every point")
        if not (np.isfinite(self.base_loss) and self.base_loss > 0):
            raise ObservationError(
                f"base_loss = {self.base_loss}: give the base model's test loss, finite and positive"
            )

    def __len__(self) -> int:
        return len(self.loss)

    def _columns(self) -> dict[str, Any]:
        """Every field with one value a point that is present, by name."""
        names = ("mu", "sigma", "tokens", "loss", "run", "regime", "log_mu", "log_sigma")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    @property
    def has_logs(self) -> bool:
        """Whether the moments of ln PPL were recorded."""
        return self.log_mu is not None

    def in_logs(self) -> "Observations":
        """The same measurements with mu the geometric mean of PPL and sigma its geometric deviation.

        mu = exp(mean ln PPL) and sigma = exp(deviation of ln PPL), so that ln mu and ln sigma are the moments of ln PPL
        themselves and every form reads them unchanged: one outlier moves them by its logarithm, not by its size.

        Raises:
            ObservationError: where the moments of ln PPL were not recorded.
        """
        if self.log_mu is None or self.log_sigma is None:
            raise ObservationError("these measurements have no log_mu and log_sigma: record them with each prefix")
        return replace(self, mu=np.exp(self.log_mu), sigma=np.exp(self.log_sigma), statistics="log")

    @property
    def runs(self) -> LabelArray:
        """[R] the distinct run labels, sorted."""
        return np.unique(self.run)

    @property
    def run_index(self) -> IntArray:
        """[n] place of each point's run in :attr:`runs`."""
        return _numbered(self.run)

    @property
    def regime_index(self) -> IntArray:
        """[n] number of each point's regime in the order of the sorted labels; its run's where regimes are unknown."""
        return self.run_index if self.regime is None else _numbered(self.regime)

    def by_regime(self) -> "Observations":
        """The same measurements with the regime in the run's place: what is then done by run is done by regime."""
        return self if self.regime is None else replace(self, run=self.regime)

    def subset(self, mask: MaskArray) -> "Observations":
        """The points where ``mask`` [n] is true."""
        keep = np.asarray(mask, dtype=bool)
        if keep.shape != self.loss.shape:
            raise ObservationError(f"mask has shape {keep.shape}; give one flag for each of the {len(self)} points")
        return replace(self, **{name: value[keep] for name, value in self._columns().items()})

    def without_run(self, label: object) -> "Observations":
        """All points but those of one run.

        Raises:
            ObservationError: where no point carries the label.
        """
        keep = np.asarray(self.run != label)
        if keep.all():
            raise ObservationError(f"run = {label!r} is not among the {len(self.runs)} runs observed")
        return self.subset(keep)

    @cached_property
    def harmful_runs(self) -> LabelArray:
        """[h] runs whose last measured loss is not below the base model's."""
        return self.runs[self.loss[last_points(self.run, self.tokens)] >= self.base_loss]

    def run_means(self) -> tuple[FloatArray, FloatArray]:
        """[R] geometric means of mu and of sigma over each run's points: where the run lies in the plane."""
        index = self.run_index
        count = np.bincount(index)
        return (
            np.exp(np.bincount(index, np.log(self.mu)) / count),
            np.exp(np.bincount(index, np.log(self.sigma)) / count),
        )


def last_points(run: LabelArray, tokens: FloatArray) -> list[int]:
    """Place of each run's point with the most tokens, in the order of its sorted labels."""
    return [int(np.flatnonzero(run == label)[np.argmax(tokens[run == label])]) for label in np.unique(run)]


def at_largest(tokens: FloatArray) -> MaskArray:
    """Which points are at the largest token count, bool [n]: subsets end a few tokens apart."""
    return np.asarray(tokens >= LARGEST * tokens.max(initial=0.0))


def _numbered(labels: LabelArray) -> IntArray:
    return np.unique(labels, return_inverse=True)[1].reshape(-1).astype(np.int64)


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
