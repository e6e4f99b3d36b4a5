"""How well a form predicts what it has not seen: a whole regime, a whole run, or the largest token count.

The unit left out is never the point: points of one run share subset, seed and order. A run of a repeated regime leaves
its siblings behind, which tell the form the place's loss; so what is judged by these errors is judged by regime.
"""

from dataclasses import dataclass

import numpy as np
import scipy

from ppl_assets.law.fit import refusal
from ppl_assets.law.forms import FORMS, LINKS, LinkName, SigmaKind, design
from ppl_assets.law.observations import FloatArray, LabelArray, Observations, at_largest, last_points
from ppl_assets.law.profile import solve

NAN = float("nan")


@dataclass(frozen=True, eq=False)
class LeaveOneRunOut:
    """Errors of predicting each run from a fit of all others.

    Attributes:
        run: [n] run of each point.
        tokens: [n] tokens of each point.
        observed: [n] loss, nats a token.
        predicted: [n] loss predicted without the point's run; nan where the rest could not be fitted.
    """

    run: LabelArray
    tokens: FloatArray
    observed: FloatArray
    predicted: FloatArray

    @property
    def errors(self) -> FloatArray:
        """[n] relative error, predicted / observed - 1."""
        return self.predicted / self.observed - 1.0

    @property
    def by_run(self) -> FloatArray:
        """[R] root mean square relative error of each run, in the order of its sorted labels."""
        index = np.unique(self.run, return_inverse=True)[1].reshape(-1)
        return np.sqrt(np.bincount(index, self.errors**2) / np.bincount(index))

    @property
    def median_pct(self) -> float:
        """Median absolute error over points, % of loss."""
        return self.quantile_pct(0.5)

    @property
    def p90_pct(self) -> float:
        """Its 90th percentile."""
        return self.quantile_pct(0.9)

    @property
    def max_pct(self) -> float:
        """Its maximum."""
        return self.quantile_pct(1.0)

    def quantile_pct(self, share: float) -> float:
        """A quantile of the absolute error over points, % of loss; nan where nothing was predicted."""
        known = np.abs(self.errors[np.isfinite(self.errors)])
        return 100.0 * float(np.quantile(known, share)) if len(known) else float("nan")

    @property
    def largest_pct(self) -> float:
        """Root mean square error at the largest token count, where regimes differ most, % of loss."""
        errors = self.errors[at_largest(self.tokens)]
        return 100.0 * float(np.sqrt(np.mean(errors**2))) if len(errors) else NAN

    @property
    def pairwise_accuracy(self) -> float:
        """Share of pairs of runs whose last losses are ordered as predicted; 0.5 is a coin."""
        last = last_points(self.run, self.tokens)
        return pairwise_accuracy(self.observed[last], self.predicted[last])

    @property
    def rank(self) -> float:
        """Spearman's correlation of the runs' last losses with those predicted."""
        last = last_points(self.run, self.tokens)
        return rank_correlation(self.observed[last], self.predicted[last])


@dataclass(frozen=True, eq=False)
class HeldOutLargest:
    """Prediction of the largest token count from all smaller ones; for honesty, not for choice.

    Attributes:
        observed: [n] loss at the largest token count, nats a token.
        predicted: [n] loss predicted from the smaller ones; nan where these were too few.
        factor: largest token count over the largest that was fitted.
        reason: why there is no prediction; empty where there is one.
    """

    observed: FloatArray
    predicted: FloatArray
    factor: float
    reason: str = ""

    @property
    def median_pct(self) -> float:
        """Median absolute error, % of loss."""
        return 100.0 * float(np.median(np.abs(self.predicted / self.observed - 1.0))) if len(self.observed) else NAN

    @property
    def max_pct(self) -> float:
        """Its maximum."""
        return 100.0 * float(np.max(np.abs(self.predicted / self.observed - 1.0))) if len(self.observed) else NAN

    @property
    def rank(self) -> float:
        """Spearman's correlation of observed and predicted losses."""
        return rank_correlation(self.observed, self.predicted)


def held_out_largest(
    obs: Observations,
    form: str,
    link: LinkName = "paper",
    sigma_kind: SigmaKind = "deviation",
    huber: float | None = None,
) -> HeldOutLargest:
    """Predict every point at the largest token count from a fit of all points at smaller ones; ``huber`` as in fit."""
    shape, how = FORMS[form], LINKS[link]
    used = obs.subset(obs.loss < obs.base_loss) if how.anchored else obs
    largest = at_largest(used.tokens)
    rest, last = used.subset(~largest), used.subset(largest)
    why_not = refusal(rest, shape)
    if why_not:
        return HeldOutLargest(last.loss, np.full(len(last), np.nan), NAN, why_not)
    columns = design(shape, how, rest.mu, rest.sigma, rest.tokens, sigma_kind)
    found = solve(columns, rest.loss[None], np.ones((1, len(rest))), how, used.base_loss, huber)
    if not found.converged[0]:
        return HeldOutLargest(last.loss, np.full(len(last), np.nan), NAN, "the fit did not come to rest")
    y = design(shape, how, last.mu, last.sigma, last.tokens, sigma_kind) @ found.coefficients[0]
    factor = float(last.tokens.max() / rest.tokens.max())
    return HeldOutLargest(last.loss, how.loss(y, found.floor[0], used.base_loss), factor)


def leave_one_run_out(
    obs: Observations,
    form: str,
    link: LinkName = "paper",
    sigma_kind: SigmaKind = "deviation",
    huber: float | None = None,
) -> LeaveOneRunOut:
    """Predict every run from a converged fit of all other runs.

    Points with L >= L0 are left out for the anchored link, as in ``fit``; ``huber`` is that of the fit.
    Where the other runs are too few for the form, or their fit does not come to rest, the errors are nan.
    """
    shape, how = FORMS[form], LINKS[link]
    used = obs.subset(obs.loss < obs.base_loss) if how.anchored else obs
    index, runs = used.run_index, used.runs
    predicted = np.full(len(used), np.nan)
    feasible = [not refusal(used.without_run(r), shape) for r in runs] if len(runs) > 1 else []
    kept = np.flatnonzero(feasible)
    if len(kept):
        columns = design(shape, how, used.mu, used.sigma, used.tokens, sigma_kind)
        counts = (index[None] != kept[:, None]).astype(float)
        found = solve(columns, np.repeat(used.loss[None], len(kept), 0), counts, how, used.base_loss, huber)
        losses = how.loss(found.coefficients @ columns.T, found.floor[:, None], used.base_loss)
        losses[~found.converged] = np.nan  # what did not come to rest predicts nothing
        for row, left_out in enumerate(kept):
            predicted[index == left_out] = losses[row, index == left_out]
    return LeaveOneRunOut(used.run, used.tokens, used.loss, predicted)


def leave_one_regime_out(
    obs: Observations,
    form: str,
    link: LinkName = "paper",
    sigma_kind: SigmaKind = "deviation",
    huber: float | None = None,
) -> LeaveOneRunOut:
    """As :func:`leave_one_run_out`, all runs of a regime at once; ``run`` of the result is the regime."""
    return leave_one_run_out(obs.by_regime(), form, link, sigma_kind, huber)


def pairwise_accuracy(observed: FloatArray, predicted: FloatArray) -> float:
    """Share of pairs [n(n-1)/2] that both arrays order alike; nan for fewer than two known values."""
    known = np.isfinite(predicted)
    a, b = observed[known], predicted[known]
    i, j = np.triu_indices(len(a), 1)
    return float(np.mean(np.sign(a[i] - a[j]) == np.sign(b[i] - b[j]))) if len(i) else float("nan")


def rank_correlation(observed: FloatArray, predicted: FloatArray) -> float:
    """Spearman's rank correlation of observed and predicted losses; nan for fewer than three known values."""
    known = np.isfinite(predicted)
    if known.sum() < 3 or np.ptp(observed[known]) == 0 or np.ptp(predicted[known]) == 0:
        return NAN
    return float(scipy.stats.spearmanr(observed[known], predicted[known]).statistic)
