import dagster as dg
import pytest

from ppl_assets.automation.conditions import CONDITIONS
from ppl_assets.definitions import defs
from ppl_assets.resources import CORPUS_PARTITIONS


class Day:
    """A small harness: observe corpora, materialize assets, tick, see what is requested."""

    def __init__(self) -> None:
        self.instance = dg.DagsterInstance.ephemeral()
        self.instance.add_dynamic_partitions(str(CORPUS_PARTITIONS.name), ["a", "b"])
        self._cursor = None

    def observe(self, **versions: str) -> None:
        for corpus, version in versions.items():
            self.instance.report_runless_asset_event(
                dg.AssetObservation("raw_corpus", partition=corpus, tags={"dagster/data_version": version})
            )

    def materialize(self, asset: str, *partitions: str, version: str = "1") -> None:
        for partition in partitions or (None,):
            self.instance.report_runless_asset_event(
                dg.AssetMaterialization(asset, partition=partition, tags={"dagster/data_version": version})
            )

    def tick(self) -> set[tuple[str, str | None]]:
        result = dg.evaluate_automation_conditions(
            defs, self.instance, dg.AssetSelection.assets(*CONDITIONS), cursor=self._cursor
        )
        self._cursor = result.cursor
        return {
            (subset.key.to_user_string(), key)
            for subset in (r.true_subset for r in result.results)
            if isinstance(subset.key, dg.AssetKey)
            for key in (p.partition_key for p in subset.expensively_compute_asset_partitions())
        }


@pytest.fixture
def day() -> Day:
    day = Day()
    day.materialize("test_documents")
    day.materialize("base_model")
    day.observe(a="1", b="1")
    day.tick()
    for asset in ("chunks", "perplexity_scores"):
        day.materialize(asset, "a", "b")
    day.tick()
    return day


def test_the_same_version_observed_again_requests_nothing(day):
    day.tick()
    day.observe(a="1", b="1")
    assert day.tick() == set()


@pytest.mark.parametrize("above", ["test_documents", "base_model"])
def test_what_was_found_unchanged_above_the_chunks_requests_nothing_and_what_changed_does(day, above):
    day.tick()
    day.materialize(above)
    assert day.tick() == set()
    day.materialize(above, version="2")
    assert {request for request in day.tick() if request[0] == "chunks"} == {("chunks", "a"), ("chunks", "b")}


def test_a_changed_corpus_requests_its_own_chunks_only(day):
    day.tick()
    day.observe(b="2")
    assert {request for request in day.tick() if request[0] == "chunks"} == {("chunks", "b")}


def test_rechunking_with_equal_content_requests_no_scores(day):
    day.tick()
    day.materialize("chunks", "b", version="1")
    assert ("perplexity_scores", "b") not in day.tick()


def test_trials_and_strategies_never_run_by_themselves():
    assert not {"trial_losses", "strategy_losses", "regime_partitions", "base_model", "test_documents"} & set(
        CONDITIONS
    )
