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

from ppl_assets import plots
from ppl_assets.law.predictions import Forecast
from ppl_assets.plots.layers import LiveSurface, Mark
from ppl_assets.subset.report_page import render, summarize

__all__ = ["Finding", "Provenance", "ReportInput", "draw", "summarize", "write_report"]


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
        export: the subset's folder, from the study file's where it lies below; empty: as the selection has it.
    """

    study_file: str
    snapshot: int | None = None
    commands: tuple[tuple[str, str], ...] = ()
    identifiers: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    export: str = ""


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
        surface: predicted loss over the trials' hull; None where the trials span no area or there is no law.
        forecast: the chosen law, asked at any place; None where there is none.
        layers: ``surface`` with intervals at several token counts, for the page that answers to the pointer.
        curves: chosen form along each trial; columns of ``plots.CURVE_COLUMNS``.
        residuals: fitted and measured loss by form; columns of ``plots.RESIDUAL_COLUMNS``.
        confidence: level of the intervals.
        evaluated_tokens: held-out tokens scored for the trials; 0: not known.
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
    forecast: Forecast | None = None
    layers: plots.SurfaceByTokens | None = None
    curves: pl.DataFrame = field(default_factory=pl.DataFrame)
    residuals: pl.DataFrame = field(default_factory=pl.DataFrame)
    confidence: float = 0.95
    evaluated_tokens: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be one report.

        Raises:
            ValueError: not exactly one selection, or losses of several settings, which cannot be compared.
        """
        if len(self.selection) != 1:
            raise ValueError(f"{len(self.selection)} selections were given; a report is about exactly one")
        for name, losses in (("trial_losses", self.trial_losses), ("strategy_losses", self.strategy_losses)):
            settings = sorted(losses["setting_id"].unique().to_list())
            if len(settings) > 1:
                raise ValueError(
                    f"{name} mixes settings {', '.join(settings)}, whose losses cannot be compared; give one setting"
                )


def draw(data: ReportInput, size: plots.Size = "page") -> dict[str, bytes]:
    """Every chart that the input allows, as PNG bytes by name; what is missing is left out.

    Args:
        data: the report's input.
        size: page, or small for a phone and for Dagster metadata.
    """
    law = data.fitted_law.filter(pl.col("is_chosen"))
    trained = data.trial_losses.filter(pl.col("tokens") > 0)
    noise = law["noise_pct"].drop_nulls()
    charts: dict[str, Callable[[], bytes]] = {}
    if not data.histogram.filter(pl.col("scope") == "candidates", pl.col("chunks") > 0).is_empty():
        charts["landscape"] = lambda: plots.landscape(
            data.histogram, data.landscape, data.regimes, data.selection, size
        )
    if not trained.is_empty():
        curves = data.curves if data.curves.width else plots.NO_CURVES
        charts["trials"] = lambda: plots.loss_curves(data.trial_losses, curves, data.regimes, size)
    if data.surface is not None:
        surface = data.surface
        charts["law"] = lambda: plots.law_surface(
            surface, law, data.regimes, data.reachable, data.landscape, data.selection, size
        )
    if not data.residuals.is_empty():
        charts["residuals"] = lambda: plots.residuals(data.residuals, float(noise[0]) if len(noise) else None, size)
    if not plots.final_losses(data.strategy_losses).is_empty():
        charts["strategies"] = lambda: plots.strategies(data.strategy_losses, data.confidence, size)
    return {name: chart() for name, chart in charts.items()}


def draw_live(data: ReportInput) -> LiveSurface | None:
    """The surface that answers to the pointer, as first seen at the selection's tokens; None without predictions."""
    if data.layers is None:
        return None
    from ppl_assets.plots.live import live_surface  # noqa: PLC0415 - Bokeh takes a second, which only a report should cost

    return live_surface(data.layers, data.trial_losses, _marks(data), int(data.selection["tokens"][0]))


def _marks(data: ReportInput) -> list[Mark]:
    """The places that a reader wants to compare: optimum, selection, test set, corpus; those that have a spread."""
    marks = []
    for row in data.fitted_law.filter(pl.col("is_chosen"), pl.col("sigma_optimum") > 0).iter_rows(named=True):
        cross = (row["mu_low"], row["mu_high"]), (row["sigma_low"], row["sigma_high"])
        known = None not in cross[0] and None not in cross[1]
        note = f"the law's optimum: {plots.words(row['optimum_kind'])}"
        marks.append(Mark("optimum", row["mu_optimum"], row["sigma_optimum"], note, cross if known else None))
    for mu, sigma, tokens in data.selection.select("mu", "sigma", "tokens").iter_rows():
        marks.append(Mark("selection", mu, sigma, f"{tokens:,} tokens"))
    for scope, name in (("test", "test set"), ("candidates", "corpus")):
        rows = data.landscape.filter(pl.col("scope") == scope).select("mean", "deviation", "chunks")
        marks += [Mark(name, mu, sigma, f"{chunks:,} chunks") for mu, sigma, chunks in rows.iter_rows()]
    return [mark for mark in marks if mark.sigma > 0]


def write_report(data: ReportInput, folder: Path) -> Path:
    """Write ``index.html`` (self-contained) and ``plots/*.png``; the page is replaced last and in one step.

    Args:
        data: the report's input.
        folder: where the report lies; made where missing. Charts of an earlier report that this one lacks are removed.

    Returns:
        Path of the page.
    """
    wide, narrow = draw(data), draw(data, "small")
    images = {name: (_base64(wide[name]), _base64(narrow[name])) for name in wide}
    page = render(data, images, draw_live(data)).encode("utf-8")
    shelf = folder / "plots"
    shelf.mkdir(parents=True, exist_ok=True)
    files = {f"{name}.png": png for name, png in wide.items()} | {f"{n}-small.png": png for n, png in narrow.items()}
    for name, png in files.items():
        _replace(shelf / name, png)
    _replace(folder / "index.html", page)
    for old in shelf.glob("*.png"):
        if old.name not in files:
            old.unlink()
    return folder / "index.html"


def _base64(png: bytes) -> str:
    """PNG bytes as text for a data URL."""
    return base64.b64encode(png).decode("ascii")


def _replace(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
