"""Everything that the report is made from, read from the lake at one snapshot."""

import math
import sys
from collections.abc import Collection
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl

from ppl_assets.lake import Snapshot
from ppl_assets.law.predictions import Forecast, law_curves, law_residuals, law_surface, surface_by_tokens
from ppl_assets.perplexity.candidates import current_scorer
from ppl_assets.plots.layers import NEAR
from ppl_assets.regimes.cost import cost_of_trials
from ppl_assets.regimes.stored import all_trials
from ppl_assets.study import Study, shown_study, study_option
from ppl_assets.subset.report import Finding, Provenance, ReportInput
from ppl_assets.tables import (
    BASE_MODEL,
    CLEANING_COUNTS,
    FITTED_LAW,
    LANDSCAPE_HISTOGRAM,
    LAW_FINDINGS,
    PERPLEXITY_LANDSCAPE,
    REACHABLE_REGION,
    SELECTIONS,
    STRATEGY_LOSSES,
)

MOST_LAYERS = 8
"""Token counts that the surface is shown at: 17 kB of the page each."""


def report_input(
    study: Study, study_file: Path, snapshot: Snapshot, trial_losses: pl.DataFrame, trained: Collection[str]
) -> ReportInput:
    """The report's input.

    Args:
        study: the study.
        study_file: its file, named in the commands.
        snapshot: the lake; everything is read from it.
        trial_losses: rows of the present setting.
        trained: the strategies whose measured losses are those of the present selection and setting.
    """
    selection_id = str(snapshot.only_row(SELECTIONS)["selection_id"])
    law_table, regimes, selection = snapshot.read(FITTED_LAW), all_trials(snapshot), snapshot.read(SELECTIONS)
    repeats = regimes.select("trial", "regime")
    forecast = Forecast.of(law_table, trial_losses, repeats, study.law.robust, study.law.confidence)
    law = forecast.law if forecast else None
    layers = layer_tokens(trial_losses, int(selection["tokens"][0]))
    largest = int(trial_losses["tokens"].max() or 1)  # type: ignore[arg-type]
    corpora = {"corpus": study.corpus_partitions()}
    return ReportInput(
        study=study.study.name,
        base_model=snapshot.read(BASE_MODEL),
        landscape=snapshot.read(PERPLEXITY_LANDSCAPE),
        histogram=snapshot.read(LANDSCAPE_HISTOGRAM),
        reachable=snapshot.read(REACHABLE_REGION),
        regimes=regimes,
        trial_losses=trial_losses,
        fitted_law=law_table,
        selection=selection,
        strategy_losses=snapshot.read(STRATEGY_LOSSES, where={"strategy": list(trained)}),
        cleaning_counts=snapshot.read(CLEANING_COUNTS, where=corpora),
        findings=tuple(
            Finding(*row) for row in snapshot.read(LAW_FINDINGS, ["name", "passed", "sentence"]).iter_rows()
        ),
        provenance=_provenance(study_file, snapshot, selection_id),
        evaluated_tokens=cost_of_trials(study, snapshot, regimes).evaluated,
        surface=law_surface(law, trial_losses, largest) if law else None,
        forecast=forecast,
        layers=surface_by_tokens(forecast, trial_losses, layers) if forecast else None,
        curves=law_curves(law, trial_losses) if law else pl.DataFrame(),
        residuals=law_residuals(law_table, trial_losses),
        confidence=study.law.confidence,
    )


def layer_tokens(trial_losses: pl.DataFrame, selected: int) -> list[int]:
    """Token counts to show the law at, rising: those where trials were measured, and the selection's.

    Counts closer than ``NEAR`` are one; of more than ``MOST_LAYERS`` the first, the last and some between are kept.
    """
    measured = trial_losses.filter(pl.col("point") > 0, ~pl.col("is_warmup")).group_by("point")
    counts = sorted({int(count) for count in measured.agg(pl.col("tokens").median())["tokens"]})
    layers = [count for count in counts if abs(math.log(count / selected)) > NEAR]
    layers = [here for here, after in pairwise([*layers, sys.maxsize]) if after > here * (1 + NEAR)]
    keep = np.unique(np.linspace(0, len(layers) - 1, min(len(layers), MOST_LAYERS - 1)).round().astype(int))
    return sorted([*(layers[place] for place in keep), selected])


def _provenance(study_file: Path, snapshot: Snapshot, selection_id: str) -> Provenance:
    base = snapshot.only_row(BASE_MODEL)
    name, option = shown_study(study_file), study_option(study_file)
    law, subset = snapshot.latest("fitted_law"), snapshot.latest("final_subset")
    identifiers = {
        "selection": selection_id,
        "base model": base["model_id"],
        "weights": base["weights_fingerprint"],
        "tokenizer": base["tokenizer_fingerprint"],
        "scorer": current_scorer(snapshot),
    }
    if law and subset:
        identifiers |= {"run of the fit": law.run_id, "run of the selection": subset.run_id}
    return Provenance(
        study_file=name,
        snapshot=snapshot.number,
        commands=(
            ("Run the study again", f"make demo{option}"),
            ("Look at the runs", f"make ui{option}"),
            ("Trace a selected chunk back", f".venv/bin/ppl-assets{f' --study {name}' if option else ''} lineage"),
        ),
        identifiers=identifiers,
        export=shown_path(Path(snapshot.only_row(SELECTIONS)["export_path"]), study_file.resolve().parent),
    )


def shown_path(path: Path, folder: Path) -> str:
    """The path as a reader of the folder knows it: relative where it lies below."""
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)
