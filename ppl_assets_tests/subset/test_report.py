import base64
import dataclasses
import hashlib
import html
import json
import re

import polars as pl
import pytest

from ppl_assets.plots.live import bokeh_scripts
from ppl_assets.subset import report_page
from ppl_assets.subset.report import Finding, Provenance, draw_live, summarize, write_report
from ppl_assets.subset.report_rows import cleaning_rows, gain_rows
from ppl_assets_tests.subset.report_factory import report_input, table, without

HOSTILE = '<script>alert("x")</script>'


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    data = report_input(corpus=HOSTILE)
    path = write_report(data, tmp_path_factory.mktemp("report"))
    return data, path, path.read_text("utf-8")


def body(page: str) -> str:
    """The page's text, tags, styles and scripts left out."""
    text = re.sub(r"<style>.*?</style>|<[^>]+>", " ", markup(page), flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(text).replace("\N{NO-BREAK SPACE}", " "))


def markup(page: str) -> str:
    """The page without what stands in its scripts."""
    return re.sub(r"(<script[^>]*>).*?</script>", r"\1</script>", page, flags=re.DOTALL)


def rendered(data) -> str:
    return report_page.render(data, {})


def heading(page: str) -> str:
    return body(re.search(r"<h1>(.*?)</h1>", page, re.DOTALL).group(1)).strip()


def test_the_page_opens_with_the_answer_then_the_evidence_then_how_to_make_it_again(written):
    _, _, page = written
    assert heading(page) == "Use this subset of 98,304 tokens: it beats random."
    marks = ("<h1>", 'class="facts"', 'id="strategies"', 'id="law"', 'id="trials"', 'id="cleaning"', 'id="reproduce"')
    order = [page.index(mark) for mark in marks]
    assert order == sorted(order)


def test_the_first_screen_answers_what_how_good_how_sure_and_at_which_price(written):
    data, _, page = written
    text = body(page[: page.index('id="strategies"')])
    said = data.forecast.at(303.0, 103.0, 98_304)
    assert "in exports/a91c0e77d2" in text
    assert f"{said.loss:.3f} nats a token 95 %: {said.low:.3f} to {said.high:.3f}" in text
    assert "at mean 303, spread 103 and 98,304 tokens" in text
    assert re.search(
        r"Gain over random 0\.\d{3} nats a token .*? 95 % interval 0\.\d{3} to 0\.\d{3}, 3 paired seeds", text
    )
    assert re.search(r"Random needs for the same loss more than 98,304 tokens by the law about \d", text)
    assert (
        "1,179,648 tokens trained in 12 runs, 12.0 times the selection; gain over 'matched', which needs none: 0.0"
        in text
    )


def test_the_exports_path_is_said_from_the_study_files_folder_where_it_lies_below():
    data = report_input()
    text = body(rendered(without(data, provenance=Provenance("study.toml", export="data/exports/a91c0e77d2"))))
    assert "of perplexity, in data/exports/a91c0e77d2" in text


def test_the_page_asks_nothing_of_any_network(written):
    _, _, page = written
    visible = markup(page)
    targets = re.findall(r"""(?:src|href|srcset|action)\s*=\s*["']?([^"'\s>]+)""", visible)
    assert targets
    assert all(target.startswith(("data:image/png;base64,", "#")) for target in targets)
    assert "url(" not in visible
    assert "@import" not in visible
    assert "http://" not in visible
    assert "https://" not in visible
    assert not re.search(r"<(?:link|iframe|object|embed|base)\b", visible)
    assert all("src" not in tag for tag in re.findall(r"<script[^>]*>", page))


def test_the_browser_is_told_to_load_nothing_and_to_run_these_scripts_only(written):
    _, _, page = written
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]+)"', page).group(1))
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert scripts[:-1] == bokeh_scripts()
    assert rules["script-src"].split() == [
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts
    ]


def test_without_a_surface_the_page_has_no_script():
    page = rendered(report_input())
    assert "<script" not in page
    assert "script-src 'none'" in html.unescape(page)
    assert "surface-live" not in page


def test_without_scripts_the_static_surface_is_there_and_the_other_is_not(written):
    _, _, page = written
    assert '<div class="live" id="surface-live" hidden>' in page
    assert 'alt="predicted loss over mean and spread"' in page


def test_a_hostile_name_stays_text_in_the_script_too(written):
    data, _, _ = written
    hostile = without(data, trial_losses=data.trial_losses.with_columns(trial="</script>" + pl.col("trial")))
    page = report_page.render(hostile, {}, draw_live(hostile))
    assert page.count("</script>") == len(bokeh_scripts()) + 2
    assert "\\u003c/script\\u003egrid-00-s0" in page


def test_every_chart_says_how_many_it_is_made_from(written):
    _, _, page = written
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page, re.DOTALL)
    assert len(captions) == 6
    assert [
        bool(re.search(r"n = [\d,]+ \w+", caption)) or "Each line is one run" in caption for caption in captions
    ] == [True] * 6


def test_a_hostile_corpus_name_is_escaped(written):
    _, _, page = written
    assert HOSTILE not in page
    assert html.escape(HOSTILE, quote=False).split("(")[0] in page


def test_pages_and_charts_have_reasonable_sizes(written):
    _, path, page = written
    charts = {file.name: file.stat().st_size for file in (path.parent / "plots").iterdir()}
    assert len(charts) == 10
    assert all(size < (70_000 if "small" in name else 150_000) for name, size in charts.items())
    assert len(page) < 2_600_000
    assert len(markup(page)) < 1_000_000


def test_the_numbers_on_the_page_are_those_of_the_tables(written):
    data, _, page = written
    gain = summarize(data).gain("random")
    text = body(page)
    assert f"{gain.difference.mean:.3f} nats a token" in text
    assert "1,179,648 tokens" in text
    assert "mean 303 and spread 103 of perplexity" in text
    assert all(form in text for form in ("tokens only", "no interaction", "scale-free", "quadratic"))


def test_failed_checks_come_first_and_are_named_at_the_top(written):
    _, _, page = written
    assert page.index("residual is 4.5 times") < page.index("The chosen form leaves")
    assert "1 of 3 checks failed: residual is noise" in body(page)


def test_a_second_report_replaces_the_first_and_its_charts(written, tmp_path):
    data, _, _ = written
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "strategies.png").write_bytes(b"old")
    gone = {name: table(name, []) for name in ("strategy_losses", "trial_losses")}
    empty = without(data, **gone, surface=None, layers=None, curves=pl.DataFrame(), residuals=pl.DataFrame())
    path = write_report(empty, tmp_path)
    assert {file.name for file in (tmp_path / "plots").iterdir()} == {"landscape.png", "landscape-small.png"}
    assert {file.name for file in tmp_path.iterdir()} == {"index.html", "plots"}
    assert "nothing has been trained on it yet" in body(path.read_text("utf-8"))


def test_without_strategies_the_prediction_is_not_called_a_measurement():
    text = body(rendered(without(report_input(), strategy_losses=table("strategy_losses", []))))
    assert "No strategy has been trained yet" in text
    assert "not yet" in text
    assert "no comparison by measurement yet" in text


def test_without_any_evidence_each_gap_is_said():
    names = ("strategy_losses", "fitted_law", "trial_losses", "regimes", "landscape", "cleaning_counts", "base_model")
    gone = {name: table("perplexity_landscape" if name == "landscape" else name, []) for name in names}
    bare = without(
        report_input(),
        **gone,
        surface=None,
        layers=None,
        forecast=None,
        findings=(),
        provenance=Provenance("study.toml"),
    )
    text = body(rendered(bare))
    for sentence in (
        "No form of the law was chosen",
        "No law has been fitted yet.",
        "no trial was run",
        "No check has been recorded",
        "No cleaning counts were recorded.",
        "not recorded",
    ):
        assert sentence in text


def test_a_selection_that_does_not_win_says_so_in_the_heading():
    page = rendered(report_input({"selected": 0.0, "random": -0.03, "matched": -0.05}))
    assert heading(page) == "Do not use this subset of 98,304 tokens: it is worse than random."
    assert "selection worse" in page


def test_further_measures_stand_beside_the_losses_with_paired_differences():
    data = report_input()
    last = data.strategy_losses["tokens"] == data.strategy_losses["tokens"].max()
    values = [json.dumps({"acc": 0.5 + 0.01 * (row["strategy"] == "selected") + 0.02 * row["seed"]} if is_last else {})
              for row, is_last in zip(data.strategy_losses.iter_rows(named=True), last, strict=True)]  # fmt: skip
    measured = data.strategy_losses.with_columns(downstream=pl.Series(values))
    text = body(rendered(dataclasses.replace(data, strategy_losses=measured)))
    assert "Further measures" in text
    assert "acc selected 3 0.53 0.02" in text
    assert re.search(r"acc random 3 0\.52 0\.02 0\.01 0\.01 to 0\.01", text)
    assert "Further measures" not in body(rendered(data))


def test_the_first_screen_says_what_is_forgotten_and_whether_random_forgets_less():
    data = report_input()
    text = body(rendered(data))
    assert re.search(
        r"General loss 4\.100 to 4\.1\d\d nats a token 0\.0\d+ forgotten; 0\.\d+ (more|less) than random", text
    )
    assert "General loss" not in body(rendered(without(data, strategy_losses=data.strategy_losses.clear())))[:3000]


def test_dropped_chunks_are_no_documents():
    data = report_input()
    more = table("cleaning_counts", [
        {"corpus": "scipy", "outcome": "kept", "documents": 8, "characters": 100},
        {"corpus": "scipy", "outcome": "too_short", "documents": 2, "characters": 1},
        {"corpus": "scipy", "outcome": "short_chunk", "documents": 90, "characters": 9},
    ])  # fmt: skip
    outcomes, dropped, rows = cleaning_rows(without(data, cleaning_counts=more))
    assert (outcomes, dropped) == (["kept", "too_short"], ["short_chunk"])
    assert (rows[0]["total"], rows[0]["kept_pct"], rows[0]["counts"]["short_chunk"]) == (10, 80.0, 90)


def test_one_seed_has_no_interval_on_the_page():
    text = body(rendered(report_input(seeds=1)))
    assert "one seed: nothing is sure" in text
    assert "nan" not in text.lower().split()


def test_a_rival_far_off_does_not_squeeze_the_scale():
    rows = {row.gain.rival: row for row in gain_rows(summarize(report_input()))}
    assert rows["lowest"].beyond == "right"
    assert rows["random"].end - rows["random"].start > 3
    assert list(rows)[:2] == ["random", "matched"]


def test_refused_forms_are_shown_with_dashes():
    data = report_input()
    nulls = {name: pl.lit(None, kind) for name, kind in data.fitted_law.schema.items() if kind == pl.Float64}
    refused = data.fitted_law.with_columns(**nulls, status=pl.lit("refused"), is_chosen=pl.lit(value=False))
    assert "refused" in body(rendered(without(data, fitted_law=refused)))


def test_a_refused_law_and_trials_on_a_line_say_why_there_is_no_surface():
    data = without(report_input(), surface=None, layers=None)
    assert "the trials lie on a line in mean and spread" in body(rendered(data))
    refused = data.fitted_law.with_columns(floor_loss=pl.lit(None, pl.Float64))
    text = body(rendered(without(data, fitted_law=refused, forecast=None)))
    assert "the fit was refused, so there is no surface to draw" in text
    assert "no form of the law was chosen or could be fitted" in text


def test_losses_of_two_settings_are_refused():
    data = report_input()
    mixed = data.trial_losses.with_columns(
        pl.when(pl.col("seed") > 3).then(pl.lit("s9")).otherwise("setting_id").alias("setting_id")
    )
    with pytest.raises(ValueError, match="cannot be compared"):
        without(data, trial_losses=mixed)


def test_two_selections_are_refused():
    data = report_input()
    with pytest.raises(ValueError, match="exactly one"):
        without(data, selection=pl.concat([data.selection, data.selection]))


def test_a_rival_that_needs_no_trial_and_does_better_is_what_the_heading_advises():
    page = rendered(report_input({"selected": 0.0, "random": 0.09, "matched": -0.05}))
    assert heading(page) == (
        "This subset of 98,304 tokens beats random, but 'matched', which needs no trial, does better."
    )


def test_a_law_that_did_not_decide_or_was_a_screening_says_so_beside_its_prediction():
    data = report_input()
    findings = [Finding(name, passed=False, sentence="No.") for name in ("surface_significant", "full_training")]
    elsewhere = data.selection.with_columns(mu_target=pl.lit(320.0))
    text = body(rendered(without(data, findings=tuple(findings), selection=elsewhere)))
    assert "with care, see below" in text
    assert "a screening with adapters, so it is not a prediction of full training" in text
    assert "the law did not decide where the subset sits" in text
    asked = body(rendered(without(data, findings=tuple(findings[:1]))))
    assert "the law was asked to decide where the subset sits" in asked
    assert "Take the predicted loss with care" not in body(rendered(data))


def test_a_law_without_an_optimum_did_not_decide():
    data = report_input()
    flat = data.fitted_law.with_columns(mu_optimum=pl.lit(None, pl.Float64), sigma_optimum=pl.lit(None, pl.Float64))
    assert "the law has no optimum, so it did not decide" in body(rendered(without(data, fitted_law=flat)))


def test_a_prediction_beyond_the_trials_is_called_one():
    data = report_input()
    untrained = without(data, strategy_losses=table("strategy_losses", []))
    far = untrained.selection.with_columns(mu=pl.lit(1_500.0), tokens=pl.lit(983_040))
    text = body(rendered(without(untrained, selection=far)))
    assert "the place lies beyond what the trials covered" in text
    assert "extrapolated to 10.0 times the tokens of the longest trial" in text


def test_without_a_forecast_the_page_says_there_is_no_prediction():
    text = body(rendered(without(report_input(), forecast=None, layers=None)))
    assert "no form of the law was chosen or could be fitted" in text


@pytest.mark.parametrize("name", ["<b>&amp;", "study/with .. spaces", "\N{SNOWMAN}" * 200, "{{ 7 * 6 }}"])
def test_an_awkward_study_name_is_shown_as_it_is(name):
    page = rendered(without(report_input(), study=name))
    assert f"study {name}" in re.sub(r"\s+", " ", html.unescape(markup(page)))
    assert html.escape(name, quote=False) in page
