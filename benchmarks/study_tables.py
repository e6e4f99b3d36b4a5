"""The trial losses and the fit's figures of a finished study, as two CSV files.

    .venv/bin/python -m benchmarks.study_tables benchmarks/medical.toml benchmarks/results/medical-study

writes ``medical-study-trials.csv`` and ``medical-study-law.csv``; six significant digits.
"""

import argparse
from pathlib import Path

import polars as pl
import polars.selectors as cs

from ppl_assets.lake import Snapshot
from ppl_assets.law.assets import comparable_losses
from ppl_assets.resources import Platform
from ppl_assets.study import Study
from ppl_assets.tables import FITTED_LAW

TRIAL_COLUMNS = [
    "trial",
    "trial_fingerprint",
    "setting_id",
    "seed",
    "point",
    "branch",
    "tokens",
    "mu",
    "sigma",
    "log_mu",
    "log_sigma",
    "test_loss",
    "general_loss",
    "is_warmup",
    "status",
    "screening",
]

LAW_COLUMNS = [
    "form",
    "link",
    "sigma_kind",
    "statistics",
    "status",
    "points",
    "runs",
    "floor_loss",
    "token_exponent",
    "rms_pct",
    "loo_run_pct",
    "loo_regime_pct",
    "loo_median_pct",
    "loo_p90_pct",
    "loo_max_pct",
    "loo_rank",
    "loo_pairwise",
    "largest_median_pct",
    "aicc",
    "condition_number",
    "optimum_kind",
    "mu_optimum",
    "mu_low",
    "mu_high",
    "sigma_optimum",
    "sigma_low",
    "sigma_high",
    "predicted_loss",
    "regret_bound_pct",
    "equal_share",
    "noise_pct",
    "is_chosen",
]


def tables(study: Study, snapshot: Snapshot) -> dict[str, pl.DataFrame]:
    """The two tables, by the end of their file's name."""
    losses = comparable_losses(study, snapshot).sort("trial", "point").select(TRIAL_COLUMNS)
    law = snapshot.read(FITTED_LAW).select(LAW_COLUMNS)
    return {name: rows.with_columns(cs.float().round_sig_figs(6)) for name, rows in (("trials", losses), ("law", law))}


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("study", help="the study's file")
    parser.add_argument("target", type=Path, help="folder and beginning of the files' names")
    given = parser.parse_args()
    platform = Platform(study_path=given.study)
    for name, rows in tables(platform.study, platform.lake.snapshot()).items():
        file = given.target.with_name(f"{given.target.name}-{name}.csv")
        rows.write_csv(file)
        print(f"{file}: {rows.height} rows")


if __name__ == "__main__":
    main()
