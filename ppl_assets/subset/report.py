"""The selection report: one self-contained HTML page and its charts, written atomically.

Belongs here: what goes in, which charts are drawn, how files reach the disk. What the page says is in
``report_page``; how a chart looks is in ``plots``.
"""

import base64
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from ppl_assets.subset import plots


@dataclass(frozen=True)
class Finding:
    """Outcome of one check, in words that need no code."""

    name: str
    passed: bool
    sentence: str


@dataclass(frozen=True)
class Provenance:
    """How to make the same report again.

    Attributes:
        study_file: name of the study file.
        snapshot: lake snapshot that every table was read at.
        commands: (what it does, the command or query), in order.
        identifiers: fingerprints and ids by name.
        seconds: wall-clock seconds by stage.
    """

    study_file: str
    snapshot: int | None = None
    commands: tuple[tuple[str, str], ...] = ()
    identifiers: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ReportInput:
    """Everything that the report is made from; frames follow the tables of the same name in ``tables``.

    Attributes:
        study: name of the study.
        base_model: one row of ``base_model``.
        landscape: ``perplexity_landscape``.
        histogram: ``landscape_histogram``.
        reachable: ``reachable_region``.
        regimes: ``regimes``.
        trial_losses: ``trial_losses``, rows of one setting.
        fitted_law: ``fitted_law``.
        selection: one row of ``selections``.
        strategy_losses: ``strategy_losses`` of this selection and its rivals, rows of one setting; may be empty.
        cleaning_counts: ``cleaning_counts``.
        findings: the checks.
        provenance: how to reproduce.
        surface: predicted loss over the trials' hull; None where no form has an optimum.
        curves: chosen form along each trial; columns of ``plots.CURVE_COLUMNS``.
        residuals: fitted and measured loss by form; columns of ``plots.RESIDUAL_COLUMNS``.
        confidence: level of the intervals.
    """

    study: str
    base_model: pl.DataFrame
    landscape: pl.DataFrame
    histogram: pl.DataFrame
    reachable: pl.DataFrame
    regimes: pl.DataFrame
    trial_losses: pl.DataFrame
    fitted_law: pl.DataFrame
    selection: pl.DataFrame
    strategy_losses: pl.DataFrame
    cleaning_counts: pl.DataFrame
    findings: tuple[Finding, ...]
    provenance: Provenance
    surface: plots.LawSurface | None = None
    curves: pl.DataFrame = field(default_factory=pl.DataFrame)
    residuals: pl.DataFrame = field(default_factory=pl.DataFrame)
    confidence: float = 0.95
