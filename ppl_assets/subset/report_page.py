"""The report page: its HTML, made from the answer, the rows of its tables and its charts.

Belongs here: what goes into the template. Does not belong here: the first screen (``answer``), predictions beside
measurements (``forecasts``), table rows (``report_rows``), statistics (``comparison``), charts (``plots``), files
(``report``).
"""

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import polars as pl
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ppl_assets import plots
from ppl_assets.plots.layers import LiveSurface
from ppl_assets.subset import comparison
from ppl_assets.subset.answer import doubt_sentence, facts, opening, trial_tokens
from ppl_assets.subset.comparison import SELECTED, Headline
from ppl_assets.subset.forecasts import rounded, strategy_forecasts
from ppl_assets.subset.measures import measure_rows
from ppl_assets.subset.report_rows import cleaning_rows, gain_rows, trained_rows, trial_rows
from ppl_assets.subset.report_words import measure, number, perplexity, short, span

if TYPE_CHECKING:
    from ppl_assets.subset.report import ReportInput


def losses_by_seed(finals: pl.DataFrame) -> dict[str, dict[int, float]]:
    """Final test loss by strategy and seed, nats a token."""
    table: dict[str, dict[int, float]] = {}
    for row in finals.iter_rows(named=True):
        table.setdefault(row["strategy"], {})[row["seed"]] = row["test_loss"]
    return table


def summarize(data: "ReportInput") -> Headline:
    """The headline that the report opens with; its gains are the columns of table ``selection_report``."""
    row = data.selection.row(0, named=True)
    return headline_of(
        data.strategy_losses, int(row["tokens"]), data.confidence, is_matched=is_matched(row, data.landscape)
    )


def is_matched(selection: Mapping[str, Any], landscape: pl.DataFrame) -> bool:
    """Whether a row of ``selections`` was asked for the test set's own moments, as where the law does not decide."""
    test = landscape.filter(pl.col("scope") == "test").select("mean", "deviation")
    asked = (selection["mu_target"], selection["sigma_target"])
    return not test.is_empty() and all(map(math.isclose, asked, test.row(0)))


def headline_of(
    strategy_losses: pl.DataFrame, selected_tokens: int, confidence: float, *, is_matched: bool = False
) -> Headline:
    """The headline of a selection and of what was trained on it and its rivals.

    Args:
        strategy_losses: ``strategy_losses`` of this selection and its rivals, rows of one setting; may be empty.
        selected_tokens: tokens of the selection.
        confidence: level of the intervals.
        is_matched: whether the selection is itself matched to the test set.
    """
    finals = plots.final_losses(strategy_losses)
    trained = finals.filter(pl.col("strategy") == SELECTED)["tokens"].to_list()
    base, _ = plots.base_losses(strategy_losses)
    return comparison.headline(
        losses_by_seed(finals),
        selected_tokens,
        max(trained) if trained else None,
        base,
        confidence,
        is_matched=is_matched,
    )


def chosen_law(data: "ReportInput") -> dict[str, Any] | None:
    """The row of the form whose optimum is the target, or None where none was chosen."""
    return next(data.fitted_law.filter(pl.col("is_chosen")).iter_rows(named=True), None)


def render(data: "ReportInput", images: Mapping[str, tuple[str, str]], live: LiveSurface | None = None) -> str:
    """The page as HTML; everything that comes from data is escaped.

    Its content policy lets a browser run the scripts named here by their hash and nothing else, and load nothing.

    Args:
        data: the report's input.
        images: base64 PNG for a wide and for a narrow screen, by name of the chart; a chart that is not there is said
            to be missing.
        live: the surface that answers to the pointer; the page has no script without it.
    """
    head = summarize(data)
    outcomes, dropped, cleaning = cleaning_rows(data)
    law = data.fitted_law.sort(~pl.col("is_chosen"), "loo_median_pct", "link", "form", nulls_last=True)
    forecasts = strategy_forecasts(data)
    scripts = [] if live is None else _scripts()
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            data=data,
            head=head,
            opening=opening(head, int(data.selection["tokens"][0])),
            doubt=doubt_sentence(data),
            facts=facts(data, head, forecasts),
            gains=gain_rows(head),
            forecasts=forecasts,
            chosen=chosen_law(data),
            law=law.to_dicts(),
            strategies=trained_rows(data),
            measures=measure_rows(data.strategy_losses, data.confidence),
            findings=sorted(data.findings, key=lambda finding: finding.passed),
            landscape=data.landscape.to_dicts(),
            trials=trial_rows(data),
            spent=trial_tokens(data.trial_losses),
            measurements=data.trial_losses.filter(pl.col("tokens") > 0).height,
            outcomes=outcomes,
            dropped=dropped,
            cleaning=cleaning,
            base=data.base_model.to_dicts(),
            selection=data.selection.row(0, named=True),
            images=images,
            style=Markup(_template_text("page.css")),  # noqa: S704 - a file of ours
            live=live,
            live_data=None if live is None else _json_for_html(_live_data(live)),
            scripts=[Markup(script) for script in scripts],  # noqa: S704 - the library's and a file of ours
            policy=content_policy(scripts),
        )
    )


def content_policy(scripts: Sequence[str]) -> str:
    """Content security policy of a page with these inline scripts: no request at all, no other script."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed}"


def _environment() -> Environment:
    """The templates, their filters and functions."""
    loader = PackageLoader("ppl_assets.subset", "templates")
    environment = Environment(
        autoescape=True, loader=loader, lstrip_blocks=True, trim_blocks=True, undefined=StrictUndefined
    )
    environment.filters.update(
        measure=measure, number=number, perplexity=perplexity, words=plots.words, short=short, nats=comparison.nats
    )
    environment.globals.update(span=span, rounded=rounded, zip=zip)
    return environment


def _template_text(name: str) -> str:
    """A file beside the templates, as it is."""
    return files("ppl_assets.subset").joinpath("templates", name).read_text("utf-8")


def _scripts() -> list[str]:
    """What the live surface runs: the library's own, and ours."""
    from ppl_assets.plots.live import bokeh_scripts  # noqa: PLC0415 - Bokeh takes a second, which only a report should cost

    return [*bokeh_scripts(), _template_text("surface.js")]


def _live_data(live: LiveSurface) -> dict[str, Any]:
    """What ``surface.js`` reads."""
    return {"item": live.item, "layers": [asdict(layer) for layer in live.layers], "start": live.start}


def _json_for_html(value: object) -> Markup:
    """JSON that stays inside its script element whatever names it holds."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 - escaped above
