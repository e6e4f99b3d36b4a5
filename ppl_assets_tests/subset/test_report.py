import html
import re

import polars as pl
import pytest

from ppl_assets.subset import report_page
from ppl_assets.subset.report import Provenance, summarize, write_report
from ppl_assets_tests.subset.report_factory import report_input, table, without

HOSTILE = '<script>alert("x")</script>'


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    data = report_input(corpus=HOSTILE)
    path = write_report(data, tmp_path_factory.mktemp("report"))
    return data, path, path.read_text("utf-8")


def body(page: str) -> str:
    """The page's text, tags and styles left out."""
    text = re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(text).replace("\N{NO-BREAK SPACE}", " "))


def rendered(data) -> str:
    return report_page.render(data, {})


def test_the_page_opens_with_the_answer(written):
    _, _, page = written
    heading = re.search(r"<h1>(.*?)</h1>", page, re.DOTALL)
    assert "beats random." in heading.group(1)
    order = [
        page.index(mark) for mark in ("<h1>", 'class="facts"', 'id="landscape"', 'id="cleaning"', 'id="reproduce"')
    ]
    assert order == sorted(order)


def test_the_page_needs_no_network(written):
    _, _, page = written
    targets = re.findall(r"""(?:src|href|srcset|action)\s*=\s*["']?([^"'\s>]+)""", page)
    assert targets
    assert all(target.startswith(("data:image/png;base64,", "#")) for target in targets)
    assert "url(" not in page
    assert "@import" not in page
    assert "<script" not in page


def test_a_hostile_corpus_name_is_escaped(written):
    _, _, page = written
    assert HOSTILE not in page
    assert html.escape(HOSTILE, quote=False).split("(")[0] in page


def test_pages_and_charts_have_reasonable_sizes(written):
    _, path, page = written
    charts = {file.name: file.stat().st_size for file in (path.parent / "plots").iterdir()}
    assert len(charts) == 10
    assert all(size < (70_000 if "small" in name else 150_000) for name, size in charts.items())
    assert len(page) < 2_000_000


def test_the_numbers_on_the_page_are_those_of_the_tables(written):
    data, _, page = written
    gain = summarize(data).gain("random")
    text = body(page)
    assert f"{gain.difference.mean:.3f} nats a token" in text
    assert "1,179,648 tokens" in text
    assert "303 and 103" in text
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
    empty = without(data, **gone, surface=None, curves=pl.DataFrame(), residuals=pl.DataFrame())
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
    bare = without(report_input(), **gone, surface=None, findings=(), provenance=Provenance("study.toml"))
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
    assert "does not beat random: it is worse." in re.search(r"<h1>(.*?)</h1>", page, re.DOTALL).group(1)
    assert "selection worse" in page


def test_one_seed_has_no_interval_on_the_page():
    text = body(rendered(report_input(seeds=1)))
    assert "one seed: nothing is sure" in text
    assert "nan" not in text.lower().split()


def test_a_rival_far_off_does_not_squeeze_the_scale():
    rows = {row.gain.rival: row for row in report_page.gain_rows(summarize(report_input()))}
    assert rows["lowest"].beyond == "right"
    assert rows["random"].end - rows["random"].start > 3
    assert list(rows)[:2] == ["random", "matched"]


def test_refused_forms_are_shown_with_dashes():
    data = report_input()
    nulls = {name: pl.lit(None, kind) for name, kind in data.fitted_law.schema.items() if kind == pl.Float64}
    refused = data.fitted_law.with_columns(**nulls, status=pl.lit("refused"), is_chosen=pl.lit(value=False))
    assert "refused" in body(rendered(without(data, fitted_law=refused)))


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
