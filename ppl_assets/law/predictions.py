"""What the fitted law says: the chosen one read back, its surface, curves and residuals, and where it may be asked."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from ppl_assets.lake import LakeError
from ppl_assets.law.fit import LawFit, fit
from ppl_assets.law.forms import FORMS
from ppl_assets.law.law_rows import LawError, observations
from ppl_assets.law.observations import FloatArray, MaskArray, measured_noise
from ppl_assets.law.region import Reachable, SearchRegion
from ppl_assets.law.stored import StoredLaw
from ppl_assets.law.uncertainty import delta_interval
from ppl_assets.plots import CURVE_COLUMNS, RESIDUAL_COLUMNS, LawSurface, SurfaceByTokens
from ppl_assets.regimes.pool import Pool
from ppl_assets.regimes.reachable import ReachableRegion

SURFACE_POINTS = 81
"""Grid points a side of a drawn surface."""

LIVE_POINTS = 48
"""Grid points a side of the surface on the page that answers to the pointer: 1,400 cells, 17 kB a token count."""

CURVE_POINTS = 24
"""Points of a drawn curve."""

BESIDE = 0.05
"""Log units, 5 %, by which a place may lie outside the hull of the trials' means: their prefixes drift by so much."""

SAME_FIT = 1e-6
"""Relative difference of coefficients up to which a refit is the stored fit: the same losses give 0 on one machine."""


@dataclass(frozen=True)
class Prediction:
    """A predicted test loss, nats a token.

    Attributes:
        loss: what the law says.
        low: lower end of its interval; nan where there is none.
        high: upper end.
    """

    loss: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Forecast:
    """The chosen law, asked at any place with an interval.

    Attributes:
        law: its stored numbers.
        fit: the same fit with the observations it rests on; None where these are not to be had, and no intervals then.
        confidence: level of the intervals.
    """

    law: StoredLaw
    fit: LawFit | None
    confidence: float = 0.95

    @classmethod
    def of(
        cls,
        fitted_law: pl.DataFrame,
        trial_losses: pl.DataFrame,
        regimes: pl.DataFrame,
        robust: bool = False,
        confidence: float = 0.95,
    ) -> "Forecast | None":
        """Fit the chosen form again: a fit is deterministic, takes 20 ms, and the table keeps no covariance.

        Args:
            fitted_law: table ``fitted_law``.
            trial_losses: the rows that it was fitted to. Where they give other numbers than those stored, these are
                not the rows, and there are no intervals.
            regimes: trial and regime of the present design.
            robust: whether it was fitted with Huber's loss.
            confidence: level of the intervals.

        Returns:
            None where the chosen fit was refused.

        Raises:
            LakeError: no row is chosen.
        """
        law = chosen_law(fitted_law)
        if law is None:
            return None
        try:
            obs = observations(trial_losses, regimes)
        except LawError:
            return cls(law, None, confidence)
        common = obs.subset(obs.loss < obs.base_loss)
        again = fit(common, law.form, law.link, law.sigma_kind, robust, measured_noise(obs))
        return cls(law, again if again.is_usable and _is_same(again, law) else None, confidence)

    def at(self, mu: float, sigma: float, tokens: float) -> Prediction:
        """The loss at mean mu, deviation sigma and tokens; nan where there is no spread."""
        loss, low, high = self.over(np.array([mu]), np.array([sigma]), tokens)
        return Prediction(float(loss[0]), float(low[0]), float(high[0]))

    def over(self, mu: FloatArray, sigma: FloatArray, tokens: float) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Loss and both ends of its interval at places [m]."""
        loss = self.law.predict(mu, sigma, tokens)
        if self.fit is None:
            return loss, np.full(loss.shape, np.nan), np.full(loss.shape, np.nan)
        low, high = delta_interval(self.fit, mu, np.where(sigma > 0, sigma, np.nan), np.array(tokens), self.confidence)
        return loss, low, high

    def covers(self, mu: float, sigma: float) -> bool:
        """Whether the trials covered the place, to within ``BESIDE``; the law is a guess elsewhere."""
        if self.fit is None or sigma <= 0:
            return False
        return SearchRegion.of(self.fit.observations).distance(mu, sigma) <= BESIDE

    def tokens_for_same_loss(self, mu: float, sigma: float, tokens: float, rival: tuple[float, float]) -> float | None:
        """Tokens that a subset with the rival's moments needs for the loss of (mu, sigma) at ``tokens``.

        g(mu, sigma) + aD ln D decides the loss in both links, so it is D exp((g(mu, sigma) - g(rival)) / aD). None
        where the loss does not fall with tokens, or a place has no spread.
        """
        exponent = self.law.coefficients[-1]
        if exponent <= 0 or sigma <= 0 or rival[1] <= 0:
            return None
        places = np.array([(mu, sigma), rival])
        g = FORMS[self.law.form].columns(places[:, 0], places[:, 1], self.law.sigma_kind) @ np.array(
            self.law.coefficients[1:-1]
        )
        return float(tokens * np.exp((g[0] - g[1]) / exponent))


def _is_same(again: LawFit, law: StoredLaw) -> bool:
    """Whether a refit has the stored numbers."""
    return bool(
        np.allclose(again.coefficients, law.coefficients, rtol=SAME_FIT)
        and np.isclose(again.E, law.floor, rtol=SAME_FIT)
    )


def chosen_law(fitted_law: pl.DataFrame) -> StoredLaw | None:
    """The chosen row of ``fitted_law``; None where its fit was refused.

    Raises:
        LakeError: no row is chosen, since nothing was fitted yet.
    """
    chosen = fitted_law.filter(pl.col("is_chosen"))
    if chosen.is_empty():
        raise LakeError("table fitted_law has no chosen row; materialize fitted_law first")
    return StoredLaw.from_row(chosen.row(0, named=True))


def reachable_at(pool: Pool, tokens: int, margin: float) -> Reachable:
    """The predicate of what a subset of ``tokens`` tokens can have, ``margin`` inside; arrays of any shape."""
    region = ReachableRegion.at_share(pool.candidates, tokens)
    low_mu, high_mu = region.inner_mu_range(margin)

    def inside(mu: FloatArray, sigma: FloatArray) -> MaskArray:
        low, high = region.inner_bounds(np.clip(mu, *region.mu_range), margin)
        return np.asarray((mu >= low_mu) & (mu <= high_mu) & (sigma >= low) & (sigma <= high))

    return inside


def law_surface(law: StoredLaw, trial_losses: pl.DataFrame, tokens: int) -> LawSurface | None:
    """Predicted loss over the hull of the trials; None where the trials span no area.

    Args:
        law: the chosen law.
        trial_losses: rows of one setting.
        tokens: D of the predictions.
    """
    corners = _corners(trial_losses)
    if corners is None:
        return None
    mu = np.geomspace(corners[:, 0].min(), corners[:, 0].max(), SURFACE_POINTS)
    sigma = np.geomspace(corners[:, 1].min(), corners[:, 1].max(), SURFACE_POINTS)
    loss = law.predict(mu[None, :], sigma[:, None], tokens)
    return LawSurface(mu, sigma, loss, corners, tokens, f"{law.form}, {law.link} link")


def surface_by_tokens(forecast: Forecast, trial_losses: pl.DataFrame, tokens: Sequence[int]) -> SurfaceByTokens | None:
    """Predicted loss with its interval on a grid inside the hull of the trials, at several token counts.

    Args:
        forecast: the chosen law.
        trial_losses: rows of one setting.
        tokens: [T] the token counts.

    Returns:
        None where the trials span no area.
    """
    corners = _corners(trial_losses)
    if corners is None:
        return None
    mu, sigma = (np.geomspace(c.min(), c.max(), LIVE_POINTS) for c in corners.T)
    places = [axis.ravel() for axis in np.meshgrid(mu, sigma)]
    layers = [np.stack(forecast.over(places[0], places[1], count)) for count in tokens]
    loss, low, high = np.stack(layers, axis=1).reshape(3, len(tokens), len(sigma), len(mu))
    return SurfaceByTokens(mu, sigma, tuple(tokens), loss, low, high, corners)


def law_curves(law: StoredLaw, trial_losses: pl.DataFrame) -> pl.DataFrame:
    """The law along each trial, at the trial's last moments; columns of ``plots.CURVE_COLUMNS``."""
    parts = []
    for (trial,), rows in _measured(trial_losses).sort("tokens").group_by("trial", maintain_order=True):
        tokens = np.geomspace(rows["tokens"].min(), rows["tokens"].max(), CURVE_POINTS)  # type: ignore[arg-type]
        loss = law.predict(rows["mu"][-1], rows["sigma"][-1], tokens)
        parts.append(pl.DataFrame({"trial": [trial] * CURVE_POINTS, "tokens": tokens, "predicted_loss": loss}))
    return pl.concat(parts).select(CURVE_COLUMNS) if parts else pl.DataFrame()


def law_residuals(fitted_law: pl.DataFrame, trial_losses: pl.DataFrame) -> pl.DataFrame:
    """Fitted against measured for every form that predicts, the chosen one first.

    A form that reads sigma in two ways is shown once: as chosen, else with sigma as deviation. Forms in log moments are
    not shown: they are asked with other moments than the table has everywhere.

    Returns:
        Columns of ``plots.RESIDUAL_COLUMNS``.
    """
    used = _measured(trial_losses).filter(~pl.col("is_warmup"))
    parts = []
    shown = (
        fitted_law.filter(pl.col("statistics").fill_null("raw") == "raw")
        .filter((pl.col("sigma_kind") == "deviation") | pl.col("is_chosen"))
        .sort(~pl.col("is_chosen"), "loo_median_pct", "form", "link")
        .unique(["form", "link"], keep="first", maintain_order=True)
    )
    for row in shown.iter_rows(named=True):
        law = StoredLaw.from_row(row)
        if law is not None:
            loss = law.predict(used["mu"].to_numpy(), used["sigma"].to_numpy(), used["tokens"].to_numpy())
            parts.append(
                used.with_columns(form=pl.lit(row["form"]), link=pl.lit(row["link"]), predicted_loss=loss).select(
                    RESIDUAL_COLUMNS
                )
            )
    return pl.concat(parts) if parts else pl.DataFrame()


def _corners(trial_losses: pl.DataFrame) -> FloatArray | None:
    """Corners of the trials' hull as the search has it; None where the trials span no area."""
    try:
        return SearchRegion.of(observations(trial_losses)).corners
    except LawError:
        return None


def _measured(trial_losses: pl.DataFrame) -> pl.DataFrame:
    return trial_losses.filter((pl.col("point") > 0) & (pl.col("status") == "ok") & (pl.col("sigma") > 0))
