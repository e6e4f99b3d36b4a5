"""A realistic synthetic study for the report's tests: 12 trials of 7 points, 4 strategies of 3 seeds."""

import dataclasses
import math

import numpy as np
import polars as pl

from ppl_assets.law.fit import fit
from ppl_assets.law.law_rows import observations
from ppl_assets.law.predictions import Forecast, surface_by_tokens
from ppl_assets.plots import LawSurface
from ppl_assets.subset.report import Finding, Provenance, ReportInput
from ppl_assets.tables import TABLES

BASE_LOSS, FLOOR = 5.843, 4.4
OPTIMUM = (303.0, 103.0)
BUDGET = 98_304
BOWL = "An interior minimum: 97 % of the bootstrap fits agree."
COUNTS = np.unique(np.geomspace(6_144, BUDGET, 7).astype(int))


def table(name: str, rows: list[dict]) -> pl.DataFrame:
    """Rows as a frame with exactly the declared columns; columns not given are null."""
    empty = pl.from_arrow(TABLES[name].schema.empty_table())
    return pl.DataFrame(rows, schema=empty.schema) if rows else empty


def loss(mu: float, sigma: float, tokens: float, curvature: float = 0.5) -> float:
    """The truth behind the synthetic study: an anchored law with one minimum."""
    far = math.log(mu / OPTIMUM[0]) ** 2 + 0.6 * math.log(sigma / OPTIMUM[1]) ** 2
    return FLOOR + (BASE_LOSS - FLOOR) / (1 + (tokens / 6e5 * math.exp(-curvature * 4 * far)) ** 0.75)


def landscape_tables(corpus: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Landscape and histogram: candidates with a noisy tail, a test set further right."""
    rng = np.random.default_rng(3)
    logs = {
        "candidates": np.concatenate(
            [rng.normal(5.1, 0.75, 12_800), rng.normal(3.4, 0.5, 900), rng.uniform(8.4, 11, 320)]
        ),
        "test": rng.normal(5.84, 0.31, 420),
    }
    logs[f"corpus:{corpus}"] = logs["candidates"][:4_000]
    rows, bins = [], []
    for scope, values in logs.items():
        median = float(np.median(values))
        mad = 1.4826 * float(np.median(np.abs(values - median)))
        low, high = median - 3.6 * mad, median + 3.6 * mad
        kept = np.exp(values[(values >= low) & (values <= high)])
        rows.append(
            {
                "scope": scope, "scorer_id": "5c1f", "chunks": len(kept), "tokens": 256 * len(kept),
                "noise_chunks": len(values) - len(kept), "unscored_chunks": 0, "duplicate_chunks": 12,
                "fence_low": math.exp(low), "fence_high": math.exp(high), "mean": kept.mean(), "variance": kept.var(),
                "deviation": kept.std(), "log_mean": np.log(kept).mean(), "log_deviation": np.log(kept).std(),
                "quantiles": np.quantile(kept, [0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1]).tolist(),
            }
        )  # fmt: skip
        counts, edges = np.histogram(values, bins=60, range=(1.8, 11.2))
        bins += [
            {"scope": scope, "log_low": low, "log_high": high, "chunks": int(n), "tokens": 256 * int(n)}
            for low, high, n in zip(edges[:-1], edges[1:], counts, strict=True)
        ]
    return table("perplexity_landscape", rows), table("landscape_histogram", bins)


def regime_table() -> pl.DataFrame:
    """A 3x3 grid in (ln mu, ln sigma) and three repeats of the centre."""
    places = [
        (f"grid-{i}{j}", mu, sigma) for i, mu in enumerate((139, 240, 464)) for j, sigma in enumerate((43, 110, 282))
    ]
    rows = []
    for number, (regime, mu, sigma) in enumerate([*places, *[("centre", 254.0, 113.0)] * 3]):
        rows.append(
            {
                "trial": f"{regime}-s{number % 3 if regime == 'centre' else 0}", "regime": regime, "mu_target": mu,
                "sigma_target": sigma,
                "mu": mu * 1.0007, "sigma": sigma * 0.9995, "tokens": BUDGET, "chunks": BUDGET // 256, "seed": number,
                "objective": 1e-13, "kl_nats": 0.31, "prefix_error": 0.006, "subset_hash": f"{number:08x}",
            }
        )  # fmt: skip
    return table("regimes", rows)


def trial_table(regimes: pl.DataFrame) -> pl.DataFrame:
    """Base loss and seven points of every trial."""
    rng = np.random.default_rng(5)
    rows = []
    for regime in regimes.iter_rows(named=True):
        shift = rng.normal(0, 0.006)
        for point, tokens in enumerate([0, *COUNTS]):
            truth = loss(regime["mu"], regime["sigma"], tokens) if tokens else BASE_LOSS
            rows.append(
                {
                    "trial": regime["trial"], "trial_fingerprint": f"f{regime['seed']}", "setting_id": "s1",
                    "seed": regime["seed"],
                    "point": point, "tokens": int(tokens), "mu": regime["mu"] if tokens else None,
                    "sigma": regime["sigma"] if tokens else None,
                    "test_loss": truth + (shift + rng.normal(0, 0.004) if tokens else 0.0),
                    "general_loss": 4.10 + 0.02 * point, "is_warmup": point == 1, "seconds": tokens / 6000,
                    "tokens_per_second": 6000.0, "status": "ok",
                }
            )  # fmt: skip
    return table("trial_losses", rows)


def law_table() -> pl.DataFrame:
    """Five forms with both links, side by side; the anchored quadratic is chosen."""
    rows = []
    quality = {
        "d_only": (2.4, 1.4),
        "no_interaction": (1.2, 0.8),
        "paper": (1.05, 0.66),
        "scale_free": (0.54, 0.52),
        "quadratic": (0.5, 0.45),
    }
    for link in ("paper", "anchored"):
        for form, (rms, loo) in quality.items():
            chosen = form == "quadratic" and link == "anchored"
            factor = 1.0 if link == "anchored" else 1.6
            at_bound = (form, link) == ("paper", "paper")
            bowl = form in {"quadratic", "scale_free", "paper"}
            rows.append(
                {
                    "form": form, "link": link, "sigma_kind": "deviation",
                    "status": "e_at_bound" if at_bound else "converged",
                    "reason": "E reached its bound." if at_bound else "The fit converged.",
                    "points": 72, "runs": 12, "set_aside": 12, "floor_loss": 4.38, "floor_low": 4.1,
                    "floor_high": 4.6, "token_exponent": 0.74,
                    "coefficient_names": ["ln_q", "a_mu", "a_sigma"], "coefficients": [-13.2, 0.91, -0.12],
                    "coefficients_low": [-14.0, 0.6, -0.3], "coefficients_high": [-12.5, 1.2, 0.02],
                    "rms_pct": rms * factor, "loo_median_pct": loo * factor, "loo_p90_pct": loo * factor * 2.6,
                    "loo_max_pct": loo * factor * 6,
                    "aicc": -300 - 40 / rms,
                    "aicc_weight": 0.86 if form == "quadratic" else 0.14 if form == "scale_free" else 0.0,
                    "condition_number": 41.0, "is_chosen": chosen,
                    "choice_reason": "Lowest AICc and leave-one-run-out error." if chosen else "Another is better.",
                    "optimum_kind": "interior_bowl" if bowl else "boundary",
                    "optimum_sentence": BOWL if bowl else "The loss falls toward the edge of what was tried.",
                    "mu_optimum": 303.0 if bowl else 464.0, "mu_low": 268.0 if bowl else None,
                    "mu_high": 341.0 if bowl else None,
                    "sigma_optimum": 103.0 if bowl else 282.0, "sigma_low": 82.0 if bowl else None,
                    "sigma_high": 131.0 if bowl else None,
                    "predicted_loss": 5.561, "predicted_low": 5.535, "predicted_high": 5.590,
                    "regret_bound_pct": 0.08, "noise_pct": 0.11,
                }
            )  # fmt: skip
    return table("fitted_law", rows)


def with_numbers(law: pl.DataFrame, trials: pl.DataFrame, regimes: pl.DataFrame) -> pl.DataFrame:
    """The law's rows with the chosen form's own numbers, fitted to these trials."""
    obs = observations(trials, regimes)
    found = fit(obs.subset(obs.loss < obs.base_loss), "quadratic", "anchored")
    numbers = {
        "base_loss": pl.lit(BASE_LOSS), "floor_loss": pl.lit(found.E),
        "coefficients": pl.lit(found.coefficients.tolist()), "coefficient_names": pl.lit(list(found.names)),
    }  # fmt: skip
    chosen = pl.col("is_chosen")
    return law.with_columns(**{name: pl.when(chosen).then(value).otherwise(name) for name, value in numbers.items()})


def strategy_table(offsets: dict[str, float], seeds: int = 3) -> pl.DataFrame:
    """Strategies whose final loss lies ``offsets`` above the selection's 5.57, paired by seed."""
    rng = np.random.default_rng(11)
    shared = rng.normal(0, 0.008, seeds)
    rows = []
    for strategy, offset in offsets.items():
        for seed in range(seeds):
            final = 5.572 + offset + shared[seed] + rng.normal(0, 0.004)
            for point, tokens in enumerate([0, *COUNTS]):
                part = math.log(tokens / 3_000) / math.log(BUDGET / 3_000) if tokens else 0.0
                rows.append(
                    {
                        "strategy": strategy, "trial_fingerprint": f"{strategy}{seed}", "setting_id": "s2",
                        "seed": seed, "point": point,
                        "tokens": int(tokens), "mu": 303.0 if tokens else None, "sigma": 103.0 if tokens else None,
                        "test_loss": BASE_LOSS + part * (final - BASE_LOSS),
                        "general_loss": 4.10 + 0.05 * part + 0.01 * offset * part,
                        "predicted_loss": 5.561 + 0.9 * offset if strategy != "lowest" else None,
                        "seconds": tokens / 6000,
                        "tokens_per_second": 6000.0, "status": "ok",
                    }
                )  # fmt: skip
    return table("strategy_losses", rows)


def selection_table() -> pl.DataFrame:
    """One selection that met its target."""
    return table(
        "selections",
        [
            {
                "selection_id": "a91c0e77d2", "method": "tilt", "mu_target": 303.0, "sigma_target": 103.0,
                "tokens_target": BUDGET,
                "mu": 303.01, "sigma": 102.99, "tokens": BUDGET, "chunks": BUDGET // 256, "objective": 3e-14,
                "kl_nats": 0.44,
                "is_reachable": True, "message": "The target was reached to 0.01 %.",
                "export_path": "exports/a91c0e77d2", "exported_snapshot": 41,
            }
        ],
    )  # fmt: skip


def cleaning_table(corpus: str) -> pl.DataFrame:
    """Outcomes of three corpora, one of them named by the caller."""
    counts = {"kept": 812, "exact_duplicate": 41, "near_duplicate": 77, "near_test": 3, "too_short": 109, "rejected": 2}
    rows = [
        {"corpus": name, "outcome": outcome, "documents": n * (i + 1), "characters": 4_100 * n * (i + 1)}
        for i, name in enumerate(("scipy", "sympy", corpus))
        for outcome, n in counts.items()
        if not (i == 1 and outcome == "near_test")
    ]
    return table("cleaning_counts", rows)


def predictions(regimes: pl.DataFrame, trials: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Curves of the chosen form, and residuals of four forms that fit less and less well."""
    dense = np.geomspace(COUNTS[0], COUNTS[-1], 30)
    curves = pl.DataFrame(
        [
            {"trial": r["trial"], "tokens": float(d), "predicted_loss": loss(r["mu"], r["sigma"], d) * 1.0008}
            for r in regimes.iter_rows(named=True)
            for d in dense
        ]
    )
    rows = []
    for (form, link), curvature in {
        ("quadratic", "anchored"): 0.5,
        ("scale_free", "anchored"): 0.46,
        ("paper", "paper"): 0.36,
        ("d_only", "paper"): 0.15,
    }.items():
        for row in trials.filter(pl.col("tokens") > 0, ~pl.col("is_warmup")).iter_rows(named=True):
            fitted = loss(row["mu"], row["sigma"], row["tokens"], curvature)
            rows.append(
                {
                    "form": form,
                    "link": link,
                    "trial": row["trial"],
                    "tokens": row["tokens"],
                    "predicted_loss": fitted,
                    "test_loss": row["test_loss"],
                }
            )
    return curves, pl.DataFrame(rows)


def reachable_table() -> pl.DataFrame:
    """Boundaries at two shares of the corpus."""
    rows = [
        {"share": share, "mu": m, "sigma_low": 0.05 * m + (m - 220) ** 2 / (60 * m), "sigma_high": 60 + wide * m}
        for share, wide in ((0.02, 1.53), (0.1, 1.43))
        for m in np.geomspace(20, 3_000, 60)
    ]
    return table("reachable_region", rows)


def surface() -> LawSurface:
    """The truth on a grid, over the hull of the trial design."""
    mu, sigma = np.geomspace(130, 500, 60), np.geomspace(40, 300, 60)
    values = np.array([[loss(m, s, BUDGET) for m in mu] for s in sigma])
    hull = np.array([[139.0, 43.0], [464.0, 43.0], [464.0, 282.0], [139.0, 282.0]])
    return LawSurface(mu, sigma, values, hull, BUDGET, "quadratic")


def report_input(offsets: dict[str, float] | None = None, seeds: int = 3, corpus: str = "astropy") -> ReportInput:
    """A whole report's input; ``offsets`` says how far above the selection each strategy ends, nats a token."""
    offsets = {"selected": 0.0, "random": 0.088, "lowest": 0.41, "matched": 0.034} if offsets is None else offsets
    landscape, histogram = landscape_tables(corpus)
    regimes = regime_table()
    trials = trial_table(regimes)
    curves, residuals = predictions(regimes, trials)
    law = with_numbers(law_table(), trials, regimes)
    forecast = Forecast.of(law, trials, regimes)
    assert forecast is not None
    return ReportInput(
        study="docstrings",
        base_model=table("base_model", [{
            "model_id": "9ab3", "source": "recipe", "path": "models/9ab3", "revision": "r1",
            "weights_fingerprint": "77aa01", "tokenizer_fingerprint": "01cc9f",
            "architecture": "LlamaForCausalLM", "parameters": 1_315_968, "vocabulary": 4096, "context_length": 256,
            "bos_id": 0, "eos_id": 1,
        }]),
        landscape=landscape,
        histogram=histogram,
        reachable=reachable_table(),
        regimes=regimes,
        trial_losses=trials,
        fitted_law=law,
        selection=selection_table(),
        strategy_losses=strategy_table(offsets, seeds),
        cleaning_counts=cleaning_table(corpus),
        findings=(
            Finding("law_fits", passed=True, sentence="The chosen form leaves 0.50 % rms, 4.5 times the seed noise."),
            Finding("residual_is_noise", passed=False, sentence="The residual is 4.5 times the seed noise of 0.11 %."),
            Finding("target_reached", passed=True, sentence="Mean and spread are within 0.01 % of the target."),
        ),
        surface=surface(),
        forecast=forecast,
        layers=surface_by_tokens(forecast, trials, [int(COUNTS[2]), BUDGET]),
        curves=curves,
        residuals=residuals,
        provenance=Provenance(
            study_file="study.toml",
            snapshot=42,
            commands=(
                ("Run the whole study", "make demo"),
                ("This selection in SQL", "SELECT * FROM final_subset AT (VERSION => 42)"),
            ),
            identifiers={"selection": "a91c0e77d2", "scorer": "5c1f"},
            seconds={"scoring": 214.0, "trials": 1_840.0, "strategies": 1_702.5},
        ),
    )  # fmt: skip


def without(data: ReportInput, **changes: object) -> ReportInput:
    """The same input with some fields replaced."""
    return dataclasses.replace(data, **changes)
