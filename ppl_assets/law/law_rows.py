"""From trial losses to observations, and from fits to rows of ``fitted_law`` and ``law_findings``."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from ppl_assets.errors import UserError
from ppl_assets.law.as_good import AsGood
from ppl_assets.law.checks import Finding
from ppl_assets.law.choice import FormResult
from ppl_assets.law.observations import FloatArray, Observations
from ppl_assets.tables import FITTED_LAW, LAW_FINDINGS


class LawError(UserError, ValueError):
    """The trial losses cannot be fitted; the message says why and what to do."""


def observations(trial_losses: pl.DataFrame, regimes: pl.DataFrame | None = None) -> Observations:
    """What the law is fitted to: measurements after warm-up of runs that did not diverge.

    A point whose chunks all have one perplexity (a single chunk, say) has no spread and is left out.

    Args:
        trial_losses: rows of one setting.
        regimes: trial and regime of the present design, so that repeats are known; other trials are repeats of one
            place where their names begin alike and their moments agree to three digits.

    Raises:
        LawError: no trial has been measured under this setting.
    """
    diverged = trial_losses.filter(pl.col("status") != "ok")["trial"].unique().to_list()
    sound = trial_losses.filter(~pl.col("trial").is_in(diverged)).sort("trial", "point")
    used = sound.filter((pl.col("point") > 0) & ~pl.col("is_warmup") & (pl.col("sigma") > 0))
    if used.is_empty():
        raise LawError("no trial has a measurement under the present setting; materialize trial_losses, then fit again")
    regime_of = {} if regimes is None else dict(regimes.select("trial", "regime").iter_rows())
    ends = used.group_by("trial", maintain_order=True).last().select("trial", "mu", "sigma")
    earlier = {trial: f"{trial.rsplit('-s', 1)[0]} {mu:.3g} {sigma:.3g}" for trial, mu, sigma in ends.iter_rows()}
    log_mu, log_sigma = _log_moments(used)
    return Observations(
        mu=used["mu"].to_numpy(),
        sigma=used["sigma"].to_numpy(),
        tokens=used["tokens"].to_numpy().astype(float),
        loss=used["test_loss"].to_numpy(),
        run=used["trial"].to_numpy(),
        base_loss=float(sound.filter(pl.col("point") == 0)["test_loss"].mean()),  # type: ignore[arg-type]
        regime=np.array([regime_of.get(trial, earlier[trial]) for trial in used["trial"]]),
        log_mu=log_mu,
        log_sigma=log_sigma,
    )


def _log_moments(used: pl.DataFrame) -> tuple[FloatArray | None, FloatArray | None]:
    """Moments of ln PPL where every measurement has them: runs of an older table have none."""
    names = ("log_mu", "log_sigma")
    if not set(names) <= set(used.columns) or any(used[name].null_count() for name in names):
        return None, None
    return used["log_mu"].to_numpy(), used["log_sigma"].to_numpy()


def law_rows(
    results: Sequence[FormResult], set_aside: int, noise_pct: float | None, as_good: AsGood | None = None
) -> pl.DataFrame:
    """Rows of ``fitted_law``, one a form and link; ``as_good`` belongs to the chosen one."""
    rows = [_law_row(result, set_aside, noise_pct, as_good if result.is_chosen else None) for result in results]
    frame = pl.DataFrame(rows, schema=pl.Schema(FITTED_LAW.schema), infer_schema_length=None)
    return frame.with_columns(pl.col(pl.Float64).fill_nan(None))


def finding_rows(findings: Sequence[Finding]) -> pl.DataFrame:
    """Rows of ``law_findings``."""
    rows = [{column.name: getattr(finding, column.name) for column in LAW_FINDINGS.columns} for finding in findings]
    return pl.DataFrame(rows, schema=pl.Schema(LAW_FINDINGS.schema))


def _law_row(result: FormResult, set_aside: int, noise_pct: float | None, as_good: AsGood | None) -> dict[str, Any]:
    law, left_out, best = result.fit, result.left_out, result.optimum
    low = high = np.full(len(law.coefficients), np.nan)
    floor = (np.nan, np.nan)
    if result.bootstrap is not None and result.bootstrap.status != "failed":
        low, high = result.bootstrap.coefficient_intervals()
        floor = result.bootstrap.floor_interval()
    equals, across = best.equals, result.across
    # Without a surface the runs are ordered by who was left out alone: the rank is then -1 by construction.
    ranks = len(law.surface_coefficients) > 0
    return {
        "form": law.form if result.key.statistics == "raw" else f"log_{law.form}",
        "statistics": result.key.statistics,
        "link": law.link,
        "sigma_kind": law.sigma_kind,
        "status": law.status,
        "reason": law.reason,
        "points": law.points,
        "runs": law.runs,
        "set_aside": law.set_aside + set_aside,
        "base_loss": law.observations.base_loss,
        "floor_loss": law.E,
        "floor_low": floor[0],
        "floor_high": floor[1],
        "token_exponent": law.token_exponent if law.is_usable else None,
        "coefficient_names": list(law.names),
        "coefficients": law.coefficients.tolist(),
        "coefficients_low": low.tolist(),
        "coefficients_high": high.tolist(),
        "rms_pct": law.rms_pct,
        "loo_run_pct": result.error_pct,
        "loo_regime_pct": result.regime_error_pct,
        "loo_median_pct": left_out.median_pct,
        "loo_p90_pct": left_out.p90_pct,
        "loo_max_pct": left_out.max_pct,
        "loo_regime_largest_pct": result.left_regimes.largest_pct,
        "loo_rank": left_out.rank if ranks else None,
        "loo_pairwise": left_out.pairwise_accuracy if ranks else None,
        "largest_median_pct": result.largest.median_pct,
        "largest_max_pct": result.largest.max_pct,
        "largest_rank": result.largest.rank if ranks else None,
        "aicc": law.aicc,
        "aicc_weight": result.aicc_weight,
        "condition_number": law.condition_number,
        "is_chosen": result.is_chosen,
        "choice_reason": result.choice_reason,
        "optimum_kind": best.kind,
        "optimum_sentence": best.sentence,
        "mu_optimum": best.mu,
        "mu_low": best.mu_interval[0],
        "mu_high": best.mu_interval[1],
        "sigma_optimum": best.sigma,
        "sigma_low": best.sigma_interval[0],
        "sigma_high": best.sigma_interval[1],
        "predicted_loss": best.predicted_loss,
        "predicted_low": best.predicted_interval[0],
        "predicted_high": best.predicted_interval[1],
        "regret_bound_pct": best.regret_bound_pct,
        "noise_pct": noise_pct,
        "equal_share": equals.share if equals else None,
        "equal_mu_low": equals.mu[0] if equals else None,
        "equal_mu_high": equals.mu[1] if equals else None,
        "equal_sigma_low": equals.sigma[0] if equals else None,
        "equal_sigma_high": equals.sigma[1] if equals else None,
        "equal_regret_pct": equals.regret_pct if equals else None,
        "as_good_mu": as_good.mu if as_good else None,
        "as_good_sigma": as_good.sigma if as_good else None,
        "as_good_cost_pct": as_good.cost_pct if as_good else None,
        "further_mu": best.further_trial[0] if best.further_trial else None,
        "further_sigma": best.further_trial[1] if best.further_trial else None,
        "refits_failed": result.bootstrap.failed if result.bootstrap else None,
        "across_forms": "; ".join(across.forms) if across else None,
        "across_mu_low": across.mu[0] if across else None,
        "across_mu_high": across.mu[1] if across else None,
        "across_sigma_low": across.sigma[0] if across else None,
        "across_sigma_high": across.sigma[1] if across else None,
        "across_equal_share": across.equal_share if across else None,
    }
