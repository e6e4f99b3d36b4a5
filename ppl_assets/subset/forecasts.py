"""What the law had said of each strategy, and the tokens that random needs for what each of them reached.

Belongs here: prediction beside measurement. Does not belong here: whether the selection wins (``comparison``).
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl

from ppl_assets import plots
from ppl_assets.law.checks import BELIEVED, FULL_TRAINING
from ppl_assets.law.predictions import Forecast, Prediction
from ppl_assets.subset.comparison import RANDOM, SELECTED, tokens_to_reach

if TYPE_CHECKING:
    from ppl_assets.subset.report import ReportInput

SAME_LAW = 1e-6
"""Relative difference up to which a stored prediction is the present law's; beyond it an earlier law made it."""

Reach = Literal["at", "at_most", "more_than"]


@dataclass(frozen=True)
class TokensNeeded:
    """Tokens at which a measured curve reaches a loss.

    Attributes:
        tokens: the count, or the bound where it is one.
        kind: at; at_most: it was there at its first measurement; more_than: not within what was measured.
    """

    tokens: float
    kind: Reach

    @property
    def text(self) -> str:
        """In words, to two digits where it was read between measurements."""
        if self.kind == "at":
            return f"about {rounded(self.tokens)}"
        return f"{'at most' if self.kind == 'at_most' else 'more than'} {self.tokens:,.0f}"


@dataclass(frozen=True)
class StrategyForecast:
    """A strategy's measured loss beside what the law had said, means over seeds.

    Attributes:
        strategy: its name.
        seeds: seeds that did not diverge.
        tokens: tokens trained.
        measured: final test loss, nats a token.
        predicted: what the law said before training; None where it could not be asked.
        interval: the prediction's interval; None without one, or where an earlier law made it.
        is_covered: whether the trials covered the place.
        random_needs: tokens at which random's mean curve has this loss; None for random itself, or without it.
        random_needs_by_law: the law's estimate; None without one.
    """

    strategy: str
    seeds: int
    tokens: int
    measured: float
    predicted: float | None
    interval: tuple[float, float] | None
    is_covered: bool
    random_needs: TokensNeeded | None
    random_needs_by_law: float | None

    @property
    def error_pct(self) -> float | None:
        """Measured over predicted, less one, %."""
        return None if self.predicted is None else 100.0 * (self.measured / self.predicted - 1.0)

    @property
    def verdict(self) -> str:
        """Where the measurement lies, in words."""
        if self.predicted is None:
            return "not predicted"
        if self.interval is None:
            return "no interval"
        where = "inside" if self.interval[0] <= self.measured <= self.interval[1] else "outside"
        return where if self.is_covered else f"{where}; beyond the trials"


@dataclass(frozen=True)
class Expected:
    """What the law says of the selection, at its own mean, deviation and trained tokens.

    Attributes:
        prediction: loss and interval.
        mu: mean perplexity asked about.
        sigma: standard deviation asked about.
        tokens: D asked about.
        doubts: why a reader should be careful, as clauses; empty where nothing speaks against it.
    """

    prediction: Prediction
    mu: float
    sigma: float
    tokens: int
    doubts: tuple[str, ...]


def rounded(tokens: float) -> str:
    """A token count to two digits."""
    return f"{round(tokens, 2 - len(str(int(tokens)))):,.0f}"


def expected(data: "ReportInput") -> Expected | None:
    """The law's word on the selection; None without a law."""
    if data.forecast is None:
        return None
    row = data.selection.row(0, named=True)
    mu, sigma, tokens = row["mu"], row["sigma"], row["tokens"]
    trained = plots.final_losses(data.strategy_losses).filter(pl.col("strategy") == SELECTED, pl.col("sigma") > 0)
    if not trained.is_empty():
        mu, sigma, tokens = (float(trained[name].mean()) for name in ("mu", "sigma", "tokens"))  # type: ignore[arg-type]
    prediction = data.forecast.at(mu, sigma, tokens)
    if not math.isfinite(prediction.loss):
        return None
    return Expected(prediction, mu, sigma, round(tokens), tuple(_doubts(data, data.forecast, (mu, sigma, tokens))))


def _doubts(data: "ReportInput", forecast: Forecast, place: tuple[float, float, float]) -> list[str]:
    """Why the prediction of the selection should be taken with care."""
    mu, sigma, tokens = place
    failed = {finding.name for finding in data.findings if not finding.passed}
    doubts = []
    if FULL_TRAINING in failed:
        doubts.append("the trials were a screening with adapters, so it is not a prediction of full training")
    if data.fitted_law.filter(pl.col("is_chosen"), pl.col("mu_optimum").is_not_null()).is_empty():
        doubts.append("the law has no optimum, so it did not decide where the subset sits")
    elif failed & set(BELIEVED):
        decided = "was asked to decide" if _is_at_optimum(data) else "did not decide"
        doubts.append(
            f"the law {decided} where the subset sits, and is not shown to be better than chance or tokens alone, or "
            "promises what no trial has shown"
        )
    if forecast.fit is not None and not forecast.covers(mu, sigma):
        doubts.append("the place lies beyond what the trials covered")
    largest = float(data.trial_losses["tokens"].max() or 0)  # type: ignore[arg-type]
    if largest and tokens > 1.05 * largest:
        doubts.append(f"it is extrapolated to {tokens / largest:.1f} times the tokens of the longest trial")
    return doubts


def _is_at_optimum(data: "ReportInput") -> bool:
    """Whether the subset was aimed at a place that the law named."""
    target = data.selection.select("mu_target", "sigma_target").row(0)
    law = data.fitted_law.filter(pl.col("is_chosen"))
    named = [
        *law.select("mu_optimum", "sigma_optimum").iter_rows(),
        *law.select("as_good_mu", "as_good_sigma").iter_rows(),
    ]
    return any(None not in place and np.allclose(place, target, rtol=1e-9) for place in named)


def strategy_forecasts(data: "ReportInput") -> list[StrategyForecast]:
    """Every strategy with a final measurement, best first."""
    finals = plots.final_losses(data.strategy_losses)
    curve = mean_curve(data, RANDOM)
    random = finals.filter(pl.col("strategy") == RANDOM, pl.col("sigma") > 0).select(pl.col("mu", "sigma").mean())
    rows = []
    for (strategy,), runs in finals.group_by("strategy", maintain_order=True):
        measured = float(runs["test_loss"].mean())  # type: ignore[arg-type]
        is_rival = strategy != RANDOM and not curve.is_empty()
        by_law = None
        if data.forecast is not None and is_rival and runs["mu"].null_count() == 0:
            mu, sigma, tokens = (float(runs[name].mean()) for name in ("mu", "sigma", "tokens"))  # type: ignore[arg-type]
            by_law = data.forecast.tokens_for_same_loss(mu, sigma, tokens, random.row(0))
        rows.append(
            StrategyForecast(
                strategy=str(strategy),
                seeds=runs.height,
                tokens=round(float(runs["tokens"].mean())),  # type: ignore[arg-type]
                measured=measured,
                predicted=_stored(runs),
                interval=_interval(data.forecast, runs),
                is_covered=data.forecast is not None and all(map(data.forecast.covers, runs["mu"], runs["sigma"])),
                random_needs=tokens_needed(curve, measured) if is_rival else None,
                random_needs_by_law=by_law,
            )
        )
    return sorted(rows, key=lambda row: row.measured)


def _stored(runs: pl.DataFrame) -> float | None:
    """Mean of what the law said before the runs were trained; None where it was not asked for every one."""
    said = runs["predicted_loss"]
    return None if said.null_count() else float(said.mean())  # type: ignore[arg-type]


def _interval(forecast: Forecast | None, runs: pl.DataFrame) -> tuple[float, float] | None:
    """Mean interval over the runs; None where there is none or the stored predictions are an earlier law's."""
    if forecast is None or runs["predicted_loss"].null_count():
        return None
    asked = [forecast.at(*place) for place in runs.select("mu", "sigma", "tokens").iter_rows()]
    ends = np.mean([(prediction.low, prediction.high) for prediction in asked], axis=0)
    same = np.allclose([prediction.loss for prediction in asked], runs["predicted_loss"].to_numpy(), rtol=SAME_LAW)
    return (float(ends[0]), float(ends[1])) if same and np.isfinite(ends).all() else None


def mean_curve(data: "ReportInput", strategy: str) -> pl.DataFrame:
    """Mean test loss of a strategy's finished seeds by token count; columns tokens and test_loss."""
    finished = plots.final_losses(data.strategy_losses).select("strategy", "seed")
    trained = data.strategy_losses.filter(pl.col("tokens") > 0, pl.col("strategy") == strategy)
    runs = trained.join(finished, on=["strategy", "seed"], how="semi")
    return runs.group_by("point").agg(pl.col("tokens", "test_loss").mean()).sort("tokens").select("tokens", "test_loss")


def tokens_needed(curve: pl.DataFrame, loss: float) -> TokensNeeded:
    """Tokens at which a mean curve, not empty, reaches a loss."""
    tokens = tokens_to_reach(curve["tokens"], curve["test_loss"], loss)
    if tokens is None:
        return TokensNeeded(float(curve["tokens"][-1]), "more_than")
    return TokensNeeded(tokens, "at_most" if tokens <= curve["tokens"][0] * (1 + 1e-9) else "at")
