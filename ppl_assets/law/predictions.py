"""What the fitted law says: the chosen one read back, its surface, curves and residuals, and where it may be asked."""

import numpy as np
import polars as pl

from ppl_assets.lake import LakeError
from ppl_assets.law.observations import FloatArray, MaskArray
from ppl_assets.law.region import Reachable, SearchRegion
from ppl_assets.law.stored import StoredLaw
from ppl_assets.plots import CURVE_COLUMNS, RESIDUAL_COLUMNS, LawSurface
from ppl_assets.regimes.pool import Pool
from ppl_assets.regimes.reachable import ReachableRegion

SURFACE_POINTS = 81
"""Grid points a side of a drawn surface."""

CURVE_POINTS = 24
"""Points of a drawn curve."""


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
    last = _measured(trial_losses).sort("tokens").group_by("trial", maintain_order=True).last()
    region = SearchRegion(last["mu"].to_numpy(), last["sigma"].to_numpy())
    corners = region.corners
    if corners is None:
        return None
    mu = np.geomspace(corners[:, 0].min(), corners[:, 0].max(), SURFACE_POINTS)
    sigma = np.geomspace(corners[:, 1].min(), corners[:, 1].max(), SURFACE_POINTS)
    loss = law.predict(mu[None, :], sigma[:, None], tokens)
    return LawSurface(mu, sigma, loss, corners, tokens, f"{law.form}, {law.link} link")


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


def _measured(trial_losses: pl.DataFrame) -> pl.DataFrame:
    return trial_losses.filter((pl.col("point") > 0) & (pl.col("status") == "ok") & (pl.col("sigma") > 0))
