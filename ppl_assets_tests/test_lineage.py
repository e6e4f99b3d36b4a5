"""From a selected chunk back to what it was selected with, whatever has been written since."""

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from ppl_assets.automation.summary import lineage_table
from ppl_assets.lake import Lake, Provenance
from ppl_assets.lineage import FACTS, LINEAGE_QUERY, lineage_of
from ppl_assets.tables import TABLES
from ppl_assets_tests.subset.report_factory import law_table, table

VALUES = {"string": "x", "int64": 0, "double": 0.5, "list<item: int32>": [1]}


def row(name: str, **values: object) -> pl.DataFrame:
    """One row of a table; what is not given has a value of the column's type."""
    return table(name, [{c.name: values.get(c.name, VALUES.get(str(c.type))) for c in TABLES[name].columns}])


class Study:
    """Writes one chunk's way through the lake, every asset with a run named by the caller."""

    def __init__(self, lake: Lake) -> None:
        self.lake = lake

    def write(self, asset: str, run: str, partition: str, reads: tuple[str, ...], *rows: pl.DataFrame, **facts: str):
        number = self.lake.snapshot().number
        names = [asset, {"perplexity_scores": "scorers"}.get(asset, "")]
        keys = [partition, str(rows[-1]["scorer_id"][-1]) if len(rows) > 1 else ""]
        writes = [
            self.lake.stage(TABLES[name], frame, key or None)
            for name, frame, key in zip(names, rows, keys, strict=False)
        ]
        read = dict.fromkeys(reads, number)
        return self.lake.commit(writes, Provenance(asset, partition, run, f"code of {run}", run, run, read, facts))

    def model(self, run: str, model: str) -> None:
        self.write(
            "base_model", run, "", (), row("base_model", model_id=model, source=model, weights_fingerprint=model)
        )

    def chunk(self, run: str, *chunk_ids: str) -> None:
        rows = pl.concat([row("chunks", chunk_id=name, corpus="a") for name in chunk_ids])
        self.write("chunks", run, "a", (), rows, corpus_version=f"corpus of {run}")

    def score(self, run: str, scorer: str, *carried: str) -> None:
        scores = [row("perplexity_scores", chunk_id="c1", corpus="a", scorer_id=name) for name in (*carried, scorer)]
        policy = row("scorers", scorer_id=scorer, dtype=f"dtype of {scorer}")
        self.write("perplexity_scores", run, "a", ("base_model", "chunks"), pl.concat(scores), policy, scorer_id=scorer)

    def fit(self, run: str, form: str = "quadratic", kind: str = "interior_bowl") -> None:
        law = law_table().with_columns(is_chosen=(pl.col("form") == form) & (pl.col("link") == "anchored"))
        self.write("fitted_law", run, "", ("trial_losses",), law.with_columns(optimum_kind=pl.lit(kind)))

    def select(self, run: str, scorer: str) -> None:
        reads = ("fitted_law", "perplexity_landscape", "perplexity_scores", "chunks")
        chosen = row("final_subset", chunk_id="c1", corpus="a", scorer_id=scorer, selection_id=run, source="a.txt")
        self.write("final_subset", run, "", reads, chosen)


@pytest.fixture
def study(tmp_path):
    lake = Lake.under(tmp_path)
    made = Study(lake)
    made.model("model-1", "weights-1")
    made.chunk("cut-1", "c1", "c2")
    made.score("score-1", "scorer-1")
    made.fit("fit-1")
    made.select("select-1", "scorer-1")
    yield made
    lake.close()


def test_a_chunk_leads_back_to_every_run_and_to_law_model_and_corpus(study):
    found = lineage_of(study.lake, "c1")
    assert tuple(found) == FACTS
    assert {name: found[name] for name in found if name.endswith("_by_run")} == {
        "selected_by_run": "select-1",
        "fitted_by_run": "fit-1",
        "scored_by_run": "score-1",
        "model_by_run": "model-1",
        "chunked_by_run": "cut-1",
    }
    assert (found["law_form"], found["law_link"], found["optimum_kind"]) == ("quadratic", "anchored", "interior_bowl")
    assert (found["base_model"], found["weights_fingerprint"]) == ("weights-1", "weights-1")
    assert (found["scorer_dtype"], found["scorer_code"]) == ("dtype of scorer-1", "code of score-1")
    assert (found["corpus_version"], found["file"]) == ("corpus of cut-1", "a.txt")
    of_code = {"package_version", "git_commit"}  # facts that the platform adds to every commit
    assert all(value is not None for name, value in found.items() if name not in of_code)


@pytest.mark.parametrize(
    "change",
    [
        lambda study: study.fit("fit-2", "paper", "saddle"),
        lambda study: study.chunk("cut-2", "c1"),
        lambda study: study.chunk("cut-2", "c2"),
        lambda study: study.model("model-2", "weights-2"),
        lambda study: (study.model("model-2", "weights-2"), study.score("score-2", "scorer-2")),
        lambda study: (study.model("model-2", "weights-2"), study.score("score-2", "scorer-2", "scorer-1")),
    ],
    ids=["a refit", "a re-chunk", "a vanished chunk", "a new model", "new scores", "new scores beside the old"],
)
def test_what_is_written_later_leaves_the_lineage_as_it_was(study, change):
    before = lineage_of(study.lake, "c1")
    change(study)
    assert lineage_of(study.lake, "c1") == before


def test_scores_carried_along_by_another_scorers_run_are_credited_to_the_run_that_made_them(study):
    before = lineage_of(study.lake, "c1")
    study.model("model-2", "weights-2")
    study.score("score-2", "scorer-2", "scorer-1")
    study.select("select-2", "scorer-1")
    after = lineage_of(study.lake, "c1")
    assert after["selected_by_run"] == "select-2"
    same = ("scored_by_run", "scorer_code", "base_model", "weights_fingerprint")
    assert [after[name] for name in same] == [before[name] for name in same]


def test_a_new_selection_has_the_new_lineage(study):
    study.fit("fit-2", "paper", "saddle")
    study.chunk("cut-2", "c1")
    study.select("select-2", "scorer-1")
    found = lineage_of(study.lake)
    assert (found["fitted_by_run"], found["law_form"], found["optimum_kind"]) == ("fit-2", "paper", "saddle")
    assert found["corpus_version"] == "corpus of cut-2"


def test_the_query_alone_names_the_commits_in_a_duckdb_prompt(study):
    number = study.lake.snapshot().number
    study.fit("fit-2")
    study.lake.close()
    attach = "; ".join([*study.lake.attach_statements(), "USE lake", "SET VARIABLE chunk_id = 'c1';"])
    command = [str(Path(sys.executable).with_name("duckdb")), "-csv", "-cmd", attach, "-c", f".read {LINEAGE_QUERY}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = pl.read_csv(done.stdout.encode()).row(0, named=True)
    assert (found["fitted_by_run"], found["chunked_by_run"], found["corpus_version"]) == (
        "fit-1",
        "cut-1",
        "corpus of cut-1",
    )
    assert found["selected_in_snapshot"] == number
    assert found["law_read_at"] == found["fitted_in_snapshot"]


def test_a_chunk_that_is_not_selected_is_told_from_a_lake_without_a_selection(study, tmp_path):
    with pytest.raises(LookupError, match="'c2' is not in final_subset"):
        lineage_of(study.lake, "c2")
    empty = Lake.under(tmp_path / "empty")
    with pytest.raises(LookupError, match="nothing is selected yet"):
        lineage_of(empty)
    empty.close()


def test_the_table_has_one_fact_a_line(study):
    lines = lineage_table(study.lake, None).splitlines()
    assert [line.split()[0] for line in lines] == list(FACTS)
