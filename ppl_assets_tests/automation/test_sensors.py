"""What the sensors do on real files: look, register, observe, and what then runs; the daemon's part is the test's."""

import datetime as dt
import os
import shutil
import time

import dagster as dg
import pytest
from dagster._core.definitions.partitions.context import partition_loading_context

from ppl_assets.automation import sensors
from ppl_assets.automation.conditions import CONDITIONS
from ppl_assets.definitions import build_defs
from ppl_assets.errors import UserError
from ppl_assets.resources import Platform

STUDY = """
[corpora.general]
role = "general"
path = "general"
[corpora.law]
path = "law"
[discovery]
folder = "inbox"
settle_seconds = 10
[selection]
share = 0.5
"""
PAIR = ("chunks", "perplexity_scores")


class Team:
    """A team that drops files, and a day in which all that is requested is done at once."""

    def __init__(self, folder) -> None:
        self.folder = folder
        for corpus in ("general", "law", "inbox/notes"):
            self.write(f"{corpus}/a.txt", corpus)
        (folder / "study.toml").write_text(STUDY)
        self.platform = Platform(study_path=str(folder / "study.toml"))
        self.definitions = build_defs({"platform": self.platform})
        self.instance = dg.DagsterInstance.ephemeral()
        for asset in ("test_documents", "base_model"):
            self.materialize(asset)
        self.now, self.cursor, self._followed, self.said = 1e6, None, None, ""
        self.follow()
        self.settle()

    def write(self, name: str, text: str) -> None:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text)

    @property
    def partitions(self) -> list[str]:
        return sorted(self.instance.get_dynamic_partitions("corpus"))

    def materialize(self, asset: str, partition: str | None = None) -> None:
        version = str(time.monotonic_ns())
        self.instance.report_runless_asset_event(
            dg.AssetMaterialization(asset, partition=partition, tags={"dagster/data_version": version})
        )

    def look(self, seconds: float = 5.0) -> list[str]:
        """One tick of the sensor; the partitions observed."""
        self.now += seconds
        known = self.instance.get_dynamic_partitions("corpus")
        log: list[str] = []
        result = sensors.tick(self.platform.study, known, self.cursor, self.now, log.append)
        self.cursor, self.said = result.cursor, "\n".join(log)
        for request in result.dynamic_partitions_requests or []:
            if isinstance(request, dg.AddDynamicPartitionsRequest):
                self.instance.add_dynamic_partitions("corpus", list(request.partition_keys))
            else:
                for key in request.partition_keys:
                    self.instance.delete_dynamic_partition("corpus", key)
        return [key for request in result.run_requests or [] for key in self.observe(request)]

    def observe(self, request: dg.RunRequest) -> list[str]:
        job = self.definitions.resolve_job_def(request.job_name)
        done = job.execute_in_process(
            instance=self.instance, partition_key=request.partition_key, tags=dict(request.tags)
        )
        observed = [event.asset_observation_data.asset_observation for event in done.get_asset_observation_events()]
        return sorted(one.partition for one in observed)

    def follow(self) -> set[tuple[str, str | None]]:
        """What the automation sensor requests."""
        with partition_loading_context(dt.datetime.now(dt.UTC), self.instance):
            found = dg.evaluate_automation_conditions(
                self.definitions, self.instance, dg.AssetSelection.assets(*CONDITIONS), cursor=self._followed
            )
            self._followed = found.cursor
            subsets = [one.true_subset for one in found.results if isinstance(one.true_subset.key, dg.AssetKey)]
            return {
                (subset.key.to_user_string(), key.partition_key)
                for subset in subsets
                for key in subset.expensively_compute_asset_partitions()
            }

    def settle(self) -> list[set[tuple[str, str | None]]]:
        """Look and follow until nothing happens any more; the requests."""
        self.look()
        self.look(10.0)
        requests = []
        while requested := self.follow():
            requests.append(requested)
            for asset, partition in requested:
                self.materialize(asset, partition)
            for asset, partition in {(asset, key) for asset, key in requested if asset in PAIR}:
                self.pass_checks(asset, partition)
            assert len(requests) < 9, "it never comes to rest"
        return requests

    def pass_checks(self, asset: str, partition: str) -> None:
        for check in self.definitions.asset_checks or []:
            for spec in check.check_specs:
                if spec.asset_key == dg.AssetKey(asset) and spec.blocking:
                    self.instance.report_runless_asset_event(
                        dg.AssetCheckEvaluation(
                            spec.asset_key, spec.name, passed=True, metadata={}, partition=partition
                        )
                    )


@pytest.fixture
def team(tmp_path) -> Team:
    return Team(tmp_path)


def ran(requests) -> set[tuple[str, str | None]]:
    return set().union(*requests)


def followed(corpus: str) -> set[tuple[str, str | None]]:
    """What runs when one corpus has changed."""
    return {*((asset, corpus) for asset in PAIR), *REST}


REST = {("perplexity_landscape", None), ("final_subset", None), ("selection_report", None)}


def test_every_corpus_is_registered_at_once_and_looked_into_when_it_was_quiet(tmp_path):
    team = Team(tmp_path)
    assert team.partitions == ["general", "law", "notes"]
    assert team.settle() == []


def test_a_new_corpus_is_found_read_when_quiet_and_followed_by_itself(team):
    team.write("inbox/mails/a.txt", "mail")
    assert team.look() == []
    assert "mails" in team.partitions
    assert "Corpora new: mails." in team.said
    assert team.follow() == set()
    assert team.look(10.0) == ["mails"]
    assert ran(team.settle()) == followed("mails")


def test_a_half_written_corpus_waits_until_nothing_is_written_any_more(team):
    for length in range(1, 5):
        team.write("inbox/mails.txt", "mail" * length)
        assert team.look(9.0) == []
        assert "waiting until nothing more is written: mails" in team.said
    assert team.follow() == set()
    assert ran(team.settle()) == followed("mails")


def test_a_download_under_a_temporary_name_is_no_corpus_before_it_has_its_own(team):
    team.write("inbox/mails.txt.part", "ma")
    assert team.settle() == []
    (team.folder / "inbox/mails.txt.part").rename(team.folder / "inbox/mails.txt")
    assert ran(team.settle()) == followed("mails")


def test_a_changed_corpus_alone_is_looked_into_and_followed(team):
    team.write("law/b.txt", "more law")
    team.look()
    assert team.look(10.0) == ["law"]
    assert ran(team.settle()) == followed("law")


def test_a_touched_corpus_is_looked_into_and_nothing_follows(team):
    os.utime(team.folder / "law/a.txt", (1, 1))
    team.look()
    assert team.look(10.0) == ["law"]
    assert team.settle() == []


def test_several_changed_corpora_are_looked_into_in_one_run(team):
    for corpus in ("law", "inbox/notes"):
        team.write(f"{corpus}/b.txt", "more")
    team.look()
    assert team.look(10.0) == ["law", "notes"]


def test_a_removed_corpus_leaves_after_a_while_and_the_landscape_is_drawn_again(team):
    shutil.rmtree(team.folder / "inbox/notes")
    team.look()
    assert "notes" in team.partitions
    assert "notes" not in team.platform.study.corpora
    assert ran(team.settle()) == REST
    assert team.partitions == ["general", "law"]
    assert team.settle() == []


def test_a_section_taken_out_of_the_study_file_is_a_removed_corpus(team):
    (team.folder / "study.toml").write_text(STUDY.replace('[corpora.law]\npath = "law"\n', ""))
    assert ran(team.settle()) == REST
    assert team.partitions == ["general", "notes"]


def test_a_section_added_to_the_study_file_is_a_new_corpus(team):
    team.write("mails/a.txt", "mail")
    (team.folder / "study.toml").write_text(STUDY + '[corpora.mails]\npath = "mails"\n')
    assert ran(team.settle()) == followed("mails")


def test_a_renamed_corpus_leaves_under_its_old_name_and_comes_under_its_new_one(team):
    (team.folder / "inbox/notes").rename(team.folder / "inbox/papers")
    assert ran(team.settle()) == followed("papers")
    assert team.partitions == ["general", "law", "papers"]


def test_a_corpus_that_comes_back_as_it_was_is_in_the_landscape_again(team):
    away = team.folder / "away"
    (team.folder / "inbox/notes").rename(away)
    team.settle()
    away.rename(team.folder / "inbox/notes")
    assert ran(team.settle()) == REST
    assert "notes" in team.partitions


def test_an_entry_that_cannot_be_a_corpus_is_said_in_the_tick(team):
    team.write("inbox/My Mails/a.txt", "mail")
    assert team.settle() == []
    assert "'My Mails' does not; rename it" in team.said


def test_other_settings_of_the_model_ask_the_checks_to_say_what_is_due_and_nothing_else(team):
    (team.folder / "study.toml").write_text(STUDY + '[score]\ndtype = "bfloat16"\n')
    result = sensors.tick(team.platform.study, team.partitions, team.cursor, team.now, lambda _: None)
    assert [request.job_name for request in result.run_requests] == ["check_study"]
    again = sensors.tick(team.platform.study, team.partitions, result.cursor, team.now, lambda _: None)
    assert not again.run_requests


def test_a_study_that_cannot_be_read_changes_nothing_and_says_why(team):
    (team.folder / "study.toml").write_text("[corpora")
    sensor = team.definitions.get_sensor_def("corpus_changes")
    context = dg.build_sensor_context(
        team.instance, team.cursor, resources={"platform": team.platform}, definitions=team.definitions
    )
    data = sensor.evaluate_tick(context)
    assert "The study cannot be read, so nothing is changed: study file" in data.skip_message
    assert data.cursor == team.cursor
    assert not data.dynamic_partitions_requests


def test_the_sensor_gives_the_daemon_what_a_tick_decides(team):
    team.write("inbox/mails/a.txt", "mail")
    sensor = team.definitions.get_sensor_def("corpus_changes")
    context = dg.build_sensor_context(
        team.instance, team.cursor, resources={"platform": team.platform}, definitions=team.definitions
    )
    data = sensor.evaluate_tick(context)
    assert [request.partition_keys for request in data.dynamic_partitions_requests] == [["mails"]]


def night(team) -> list[str]:
    schedule = team.definitions.get_schedule_def("observe_corpora_nightly")
    with dg.build_schedule_context(team.instance, resources={"platform": team.platform}) as context:
        (request,) = schedule.evaluate_tick(context).run_requests or [None]
    return team.observe(dg.RunRequest(job_name="observe_corpora", tags=request.tags)) if request else []


def test_the_night_registers_removes_and_looks_into_every_corpus_that_nobody_writes_to(team):
    for file in team.folder.rglob("*.txt"):
        os.utime(file, (1e9, 1e9))
    team.write("inbox/mails/a.txt", "half a ma")
    shutil.rmtree(team.folder / "inbox/notes")
    assert night(team) == ["general", "law"]
    assert team.partitions == ["general", "law", "mails"]
    os.utime(team.folder / "inbox/mails/a.txt", (1e9, 1e9))
    assert night(team) == ["general", "law", "mails"]


def test_sensors_and_schedule_run_as_soon_as_the_daemon_does():
    definitions = build_defs()
    assert {sensor.name: sensor.default_status.value for sensor in definitions.sensors} == {
        "corpus_changes": "RUNNING",
        "follow_corpora": "RUNNING",
    }
    assert [schedule.default_status.value for schedule in definitions.schedules] == ["RUNNING"]
    assert all("Runs by itself as long as the UI does" in one.description for one in definitions.sensors)


def test_the_interval_of_the_sensors_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv(sensors.INTERVAL_VARIABLE, "7")
    assert {sensor.minimum_interval_seconds for sensor in build_defs().sensors} == {7}
    monkeypatch.setenv(sensors.INTERVAL_VARIABLE, "soon")
    with pytest.raises(UserError, match=r"PPL_ASSETS_SENSOR_SECONDS = 'soon' is not accepted: give whole seconds"):
        sensors.interval()
