"""The conditions tick by tick: real runs of small assets on an ephemeral instance, under the conditions themselves."""

import datetime as dt

import dagster as dg
import pytest
from dagster._core.definitions.partitions.context import partition_loading_context
from dagster._core.events import DagsterEvent, DagsterEventType

from ppl_assets.automation.conditions import FOLLOW_CONTENT, FOLLOW_CORPORA, FOLLOW_FILES, FOLLOW_LANDSCAPE

CORPORA = dg.DynamicPartitionsDefinition(name="corpora")
PAIR = ("chunks", "scores")


class Platform:
    """Files, chunks, scores and a landscape; what fails and what comes out is the test's choice."""

    def __init__(self, code_version: str = "1") -> None:
        self.content: dict[str, str] = {}
        self.failing: set[str] = set()
        self.unsound: set[str] = set()
        self.law = "1"

        @dg.observable_source_asset(partitions_def=CORPORA)
        def files() -> dg.DataVersionsByPartition:
            return dg.DataVersionsByPartition({})

        @dg.asset(deps=[dg.AssetDep(files)], partitions_def=CORPORA, automation_condition=FOLLOW_FILES)
        def chunks(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
            if context.partition_key in self.failing:
                raise RuntimeError("it fails")
            return dg.MaterializeResult(data_version=dg.DataVersion(self.content[context.partition_key]))

        @dg.asset_check(asset=chunks, blocking=True, partitions_def=CORPORA)
        def chunks_are_sound(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
            return dg.AssetCheckResult(passed=context.partition_key not in self.unsound)

        @dg.asset(deps=[chunks], partitions_def=CORPORA, automation_condition=FOLLOW_CONTENT, code_version=code_version)
        def scores(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
            return dg.MaterializeResult(data_version=dg.DataVersion(self.content[context.partition_key]))

        @dg.asset(deps=[scores], automation_condition=FOLLOW_CORPORA)
        def perplexity_landscape() -> dg.MaterializeResult:
            return dg.MaterializeResult(data_version=dg.DataVersion(str(sorted(self.content.items()))))

        @dg.asset
        def law() -> dg.MaterializeResult:
            return dg.MaterializeResult(data_version=dg.DataVersion(self.law))

        @dg.asset(deps=[perplexity_landscape, chunks, law], automation_condition=FOLLOW_LANDSCAPE)
        def subset() -> dg.MaterializeResult:
            return dg.MaterializeResult(data_version=dg.DataVersion("any"))

        assets = [files, chunks, scores, perplexity_landscape, law, subset]
        self.definitions = dg.Definitions(assets, asset_checks=[chunks_are_sound])


class Days:
    """Observe, tick, run; the daemon's part is played by the test."""

    def __init__(self) -> None:
        self.instance = dg.DagsterInstance.ephemeral()
        self.platform = Platform()
        self._cursor = None
        self.tick()
        self.run({("law", None)})
        for corpus in ("a", "b"):
            self.add(corpus)
        self.observe(a="1", b="1")
        self.settle()

    @property
    def job(self) -> dg.JobDefinition:
        return self.platform.definitions.resolve_implicit_global_asset_job_def()

    def add(self, corpus: str) -> None:
        self.instance.add_dynamic_partitions(str(CORPORA.name), [corpus])

    def remove(self, corpus: str) -> None:
        self.instance.delete_dynamic_partition(str(CORPORA.name), corpus)
        self.platform.content.pop(corpus)

    def observe(self, *, equal_chunks: bool = False, **versions: str) -> None:
        """Content versions of the files; chunks have the same, unless their text is equal all the same."""
        for corpus, version in versions.items():
            tags = {"dagster/data_version": version}
            self.instance.report_runless_asset_event(dg.AssetObservation("files", partition=corpus, tags=tags))
            if not equal_chunks:
                self.platform.content[corpus] = version

    def tick(self) -> set[tuple[str, str | None]]:
        """What is requested: asset and partition."""
        now = dt.datetime.now(dt.UTC)
        with partition_loading_context(now, self.instance):
            found = dg.evaluate_automation_conditions(self.platform.definitions, self.instance, cursor=self._cursor)
            self._cursor = found.cursor
            subsets = [one.true_subset for one in found.results if isinstance(one.true_subset.key, dg.AssetKey)]
            return {
                (subset.key.to_user_string(), key.partition_key)
                for subset in subsets
                for key in subset.expensively_compute_asset_partitions()
            }

    def run(self, requested: set[tuple[str, str | None]]) -> None:
        for partition in sorted({key for _, key in requested}, key=str):
            assets = [dg.AssetKey(asset) for asset, key in requested if key == partition]
            self.job.execute_in_process(
                instance=self.instance, partition_key=partition, asset_selection=assets, raise_on_error=False
            )

    def settle(self) -> list[set[tuple[str, str | None]]]:
        """Tick and run until nothing is requested; all requests."""
        requests = []
        while requested := self.tick():
            requests.append(requested)
            self.run(requested)
            assert len(requests) < 9, "it never comes to rest"
        return requests

    def start(self, corpus: str) -> dg.DagsterRun:
        """A run of both partitioned assets that goes on until :meth:`finish`."""
        run = self.instance.create_run_for_job(
            self.job,
            asset_selection=frozenset(dg.AssetKey(asset) for asset in PAIR),
            tags={"dagster/partition": corpus},
        )
        self._report(run, DagsterEventType.PIPELINE_START)
        return run

    def finish(self, run: dg.DagsterRun, corpus: str, version: str) -> None:
        for asset in PAIR:
            tags = {"dagster/data_version": version}
            self.instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=corpus, tags=tags))
        self._report(run, DagsterEventType.PIPELINE_SUCCESS)

    def _report(self, run: dg.DagsterRun, kind: DagsterEventType) -> None:
        self.instance.report_dagster_event(DagsterEvent(kind.value, self.job.name), run.run_id)


@pytest.fixture
def days() -> Days:
    return Days()


def both(corpus: str) -> set[tuple[str, str | None]]:
    return {(asset, corpus) for asset in PAIR}


LANDSCAPE = {("perplexity_landscape", None), ("subset", None)}
"""The landscape, and what is selected on it in the same run."""


def one_by_one(corpus: str) -> list[set[tuple[str, str | None]]]:
    """Where the chunks' blocking check has not passed yet, the scores wait for it."""
    return [{("chunks", corpus)}, {("scores", corpus)}, LANDSCAPE]


def test_the_same_version_observed_again_requests_nothing(days):
    days.observe(a="1", b="1")
    assert days.settle() == []


def test_a_changed_corpus_is_followed_by_itself_alone_and_then_by_the_landscape(days):
    days.observe(b="2")
    assert days.settle() == [both("b"), LANDSCAPE]


def test_changed_files_with_equal_text_end_at_the_scores(days):
    days.observe(b="2", equal_chunks=True)
    assert days.settle() == [both("b")]


def test_a_new_corpus_is_followed_once_it_was_observed(days):
    days.add("c")
    assert days.settle() == []
    days.observe(c="1")
    assert days.settle() == one_by_one("c")


def test_a_removed_corpus_leaves_no_event_and_the_landscape_is_drawn_again_all_the_same(days):
    days.remove("b")
    assert days.settle() == [LANDSCAPE]
    assert days.settle() == []


def test_a_corpus_that_comes_back_as_it_was_is_drawn_again_and_not_scored_again(days):
    days.remove("b")
    days.settle()
    days.add("b")
    days.observe(b="1")
    assert days.settle() == [LANDSCAPE]


def test_a_removal_while_another_corpus_is_being_scored_waits_for_it(days):
    days.observe(a="2")
    requested = days.tick()
    days.remove("b")
    run = days.start("a")
    assert (requested, days.tick()) == (both("a"), set())
    days.finish(run, "a", "2")
    days.run(both("a"))
    assert LANDSCAPE in days.settle()


def test_a_renamed_corpus_is_one_that_left_and_one_that_came(days):
    days.remove("b")
    days.add("c")
    days.observe(c="1")
    assert days.settle() == one_by_one("c")


def test_another_law_requests_another_subset_and_the_same_law_does_not(days):
    days.run({("law", None)})
    assert days.settle() == []
    days.platform.law = "2"
    days.run({("law", None)})
    assert days.settle() == [{("subset", None)}]


def test_a_landscape_drawn_again_with_equal_figures_asks_whether_the_subset_is_due(days):
    days.run({("perplexity_landscape", None)})
    assert days.settle() == [{("subset", None)}]


def test_a_run_that_failed_is_retried_once_and_then_waits_for_a_person(days):
    days.platform.failing = {"a"}
    days.observe(a="2")
    assert days.settle() == [both("a"), {("chunks", "a")}]
    assert days.settle() == []


def test_a_run_that_failed_once_ends_as_if_it_had_not(days):
    days.platform.failing = {"a"}
    days.observe(a="2")
    days.run(days.tick())
    days.platform.failing = set()
    assert days.settle() == one_by_one("a")


def test_after_a_person_mended_it_the_next_failure_is_retried_again(days):
    days.platform.failing = {"a"}
    days.observe(a="2")
    days.settle()
    days.platform.failing = set()
    days.run(both("a"))
    days.settle()
    days.platform.failing = {"a"}
    days.observe(a="3")
    assert days.settle() == [both("a"), {("chunks", "a")}]


def test_an_update_while_a_run_is_in_flight_is_not_lost(days):
    days.observe(a="2")
    assert days.tick() == both("a")
    run = days.start("a")
    assert days.tick() == set()
    days.observe(a="3")
    assert days.tick() == set()  # it waits
    days.finish(run, "a", "2")
    assert ("chunks", "a") in days.tick()


def test_an_update_on_the_tick_after_a_request_is_not_lost(days):
    days.observe(a="2")
    assert days.tick() == both("a")
    days.observe(a="3")
    assert days.tick() == both("a")


def test_a_blocking_check_that_failed_stops_what_is_downstream_until_it_passes(days):
    days.platform.unsound = {"a"}
    days.observe(a="2")
    days.run(days.tick())
    assert ("perplexity_landscape", None) not in set().union(*days.settle())
    assert days.settle() == []
    days.platform.unsound = set()
    days.observe(a="3")
    assert days.settle() == one_by_one("a")


def test_other_code_requests_nothing_by_itself(days):
    content = days.platform.content
    days.platform = Platform(code_version="2")
    days.platform.content = content
    assert days.settle() == []
