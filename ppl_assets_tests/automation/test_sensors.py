"""What the sensors do on real files: look, register, remove, observe; the daemon's part is the test's."""

import os
import shutil

import dagster as dg
import pytest

from ppl_assets.automation import sensors
from ppl_assets.corpus.files import corpus_version
from ppl_assets.definitions import build_defs
from ppl_assets.errors import UserError
from ppl_assets.resources import CORPORA_TAG, Platform

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


class Team:
    """A team that drops files, and the daemon that looks; what follows an observation is in ``test_follow``."""

    def __init__(self, folder) -> None:
        self.folder = folder
        for corpus in ("general", "law", "inbox/notes"):
            self.write(f"{corpus}/a.txt", corpus)
        (folder / "study.toml").write_text(STUDY)
        self.platform = Platform(study_path=str(folder / "study.toml"))
        self.partitions: list[str] = []
        self.now, self.cursor, self.said = 1e6, None, ""

    def write(self, name: str, text: str) -> None:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text)

    def look(self, seconds: float = 5.0) -> list[str]:
        """One tick of the sensor; the partitions that are to be observed."""
        self.now += seconds
        log: list[str] = []
        result = sensors.tick(self.platform.study, self.partitions, self.cursor, self.now, log.append)
        self.cursor, self.said = result.cursor, "\n".join(log)
        for request in result.dynamic_partitions_requests or []:
            added = request.partition_keys if isinstance(request, dg.AddDynamicPartitionsRequest) else []
            removed = set(request.partition_keys) - set(added)
            self.partitions = [key for key in self.partitions if key not in removed] + list(added)
        return sorted(key for request in result.run_requests or [] for key in asked_by(request))

    def settle(self) -> list[str]:
        """Look twice, so that everything is quiet; the partitions that are to be observed."""
        return self.look() + self.look(10.0)

    def version(self, corpus: str) -> str:
        return corpus_version(self.platform.study.corpora[corpus])


def asked_by(request: dg.RunRequest) -> list[str]:
    assert request.job_name == "observe_corpora"
    assert request.partition_key is None
    return request.tags[CORPORA_TAG].split()


@pytest.fixture
def team(tmp_path) -> Team:
    team = Team(tmp_path)
    team.settle()
    return team


def test_every_corpus_is_registered_at_once_and_looked_into_when_it_was_quiet(tmp_path):
    team = Team(tmp_path)
    assert team.look() == []
    assert team.partitions == ["general", "law", "notes"]
    assert team.look(10.0) == ["general", "law", "notes"]
    assert team.settle() == []
    assert team.said == ""


def test_a_new_corpus_is_found_and_read_when_it_is_quiet(team):
    team.write("inbox/mails/a.txt", "mail")
    assert team.look() == []
    assert "mails" in team.partitions
    assert "Corpora new: mails." in team.said
    assert team.look(10.0) == ["mails"]
    assert team.settle() == []


def test_a_half_written_corpus_waits_until_nothing_is_written_any_more(team):
    for length in range(1, 5):
        team.write("inbox/mails.txt", "mail" * length)
        assert team.look(9.0) == []
        assert "waiting until nothing more is written: mails" in team.said
    assert team.settle() == ["mails"]


def test_a_download_under_a_temporary_name_is_no_corpus_before_it_has_its_own(team):
    team.write("inbox/mails.txt.part", "ma")
    assert team.settle() == []
    (team.folder / "inbox/mails.txt.part").rename(team.folder / "inbox/mails.txt")
    assert team.settle() == ["mails"]


def test_a_changed_corpus_alone_is_looked_into(team):
    before = team.version("law")
    team.write("law/b.txt", "more law")
    assert team.settle() == ["law"]
    assert team.version("law") != before


def test_a_touched_corpus_is_looked_into_and_has_the_version_that_it_had(team):
    before = team.version("law")
    os.utime(team.folder / "law/a.txt", (1, 1))
    assert team.settle() == ["law"]
    assert team.version("law") == before


def test_a_file_that_only_grew_while_its_time_stood_still_is_looked_into(team):
    facts = (team.folder / "law/a.txt").stat()
    team.write("law/a.txt", "longer law")
    os.utime(team.folder / "law/a.txt", ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert team.settle() == ["law"]


def test_several_changed_corpora_are_looked_into_in_one_run(team):
    for corpus in ("law", "inbox/notes"):
        team.write(f"{corpus}/b.txt", "more")
    team.look()
    result = sensors.tick(team.platform.study, team.partitions, team.cursor, team.now + 10, lambda _: None)
    (request,) = result.run_requests
    assert asked_by(request) == ["law", "notes"]


def test_a_removed_corpus_leaves_after_a_while(team):
    shutil.rmtree(team.folder / "inbox/notes")
    team.look()
    assert "notes" in team.partitions
    assert "notes" not in team.platform.study.corpora
    assert team.look(10.0) == []
    assert team.partitions == ["general", "law"]
    assert "Corpora removed: notes." in team.said


def test_a_corpus_that_is_replaced_within_a_moment_does_not_leave(team):
    (team.folder / "inbox/notes").rename(team.folder / "away")
    team.look()
    team.write("inbox/notes/a.txt", "other notes")
    assert team.settle() == ["notes"]
    assert team.partitions == ["general", "law", "notes"]


def test_a_section_taken_out_of_the_study_file_is_a_removed_corpus_and_one_added_a_new_one(team):
    team.write("mails/a.txt", "mail")
    (team.folder / "study.toml").write_text(
        STUDY.replace('[corpora.law]\npath = "law"', '[corpora.mails]\npath = "mails"')
    )
    assert team.settle() == ["mails"]
    assert team.partitions == ["general", "notes", "mails"]


def test_a_renamed_corpus_leaves_under_its_old_name_and_comes_under_its_new_one(team):
    before = team.version("notes")
    (team.folder / "inbox/notes").rename(team.folder / "inbox/papers")
    assert team.settle() == ["papers"]
    assert team.partitions == ["general", "law", "papers"]
    assert team.version("papers") == before


def test_other_settings_of_a_corpus_are_a_change_of_it(team):
    (team.folder / "study.toml").write_text(STUDY.replace('path = "law"', 'path = "law"\nsample = 0.5'))
    assert team.settle() == ["law"]


def test_an_entry_that_cannot_be_a_corpus_is_said_in_the_tick(team):
    team.write("inbox/My Mails/a.txt", "mail")
    team.look()
    assert "'My Mails' does not; rename it" in team.said
    team.look()
    assert team.said == ""
    result = sensors.tick(team.platform.study, team.partitions, team.cursor, team.now, lambda _: None)
    assert "'My Mails' does not; rename it" in result.skip_reason.skip_message


def test_other_settings_of_the_model_ask_the_checks_to_say_what_is_due_and_nothing_else(team):
    (team.folder / "study.toml").write_text(STUDY + '[score]\ndtype = "bfloat16"\n')
    result = sensors.tick(team.platform.study, team.partitions, team.cursor, team.now, lambda _: None)
    assert [request.job_name for request in result.run_requests] == ["check_study"]
    again = sensors.tick(team.platform.study, team.partitions, result.cursor, team.now, lambda _: None)
    assert not again.run_requests


class Daemon:
    """The definitions, an instance, and what the daemon does with a sensor and a schedule."""

    def __init__(self, team: Team) -> None:
        self.team, self.definitions = team, build_defs({"platform": team.platform})
        self.instance = dg.DagsterInstance.local_temp(str(team.folder))  # a schedule opens it by its reference

    @property
    def partitions(self) -> list[str]:
        return sorted(self.instance.get_dynamic_partitions("corpus"))

    def tick(self):
        sensor = self.definitions.get_sensor_def("corpus_changes")
        context = dg.build_sensor_context(
            self.instance, self.team.cursor, resources={"platform": self.team.platform}, definitions=self.definitions
        )
        return sensor.evaluate_tick(context)

    def night(self) -> list[str]:
        """The partitions that the nightly run observes."""
        schedule = self.definitions.get_schedule_def("observe_corpora_nightly")
        with dg.build_schedule_context(self.instance, resources={"platform": self.team.platform}) as context:
            (request,) = schedule.evaluate_tick(context).run_requests
        job = self.definitions.resolve_job_def("observe_corpora")
        done = job.execute_in_process(instance=self.instance, tags=dict(request.tags))
        observed = [event.asset_observation_data.asset_observation for event in done.get_asset_observation_events()]
        return sorted(one.partition for one in observed)


def test_the_sensor_gives_the_daemon_what_a_look_decides(team):
    (request,) = Daemon(team).tick().dynamic_partitions_requests
    assert list(request.partition_keys) == ["general", "law", "notes"]


def test_a_study_that_cannot_be_read_changes_nothing_and_says_why(team):
    (team.folder / "study.toml").write_text("[corpora")
    data = Daemon(team).tick()
    assert "The study cannot be read, so nothing is changed: study file" in data.skip_message
    assert data.cursor == team.cursor
    assert not data.dynamic_partitions_requests


def test_the_night_registers_removes_and_looks_into_every_corpus_that_nobody_writes_to(team):
    daemon = Daemon(team)
    daemon.instance.add_dynamic_partitions("corpus", ["law", "gone"])
    for file in team.folder.rglob("*.txt"):
        os.utime(file, (1e9, 1e9))
    team.write("inbox/mails/a.txt", "half a ma")
    assert daemon.night() == ["general", "law", "notes"]
    assert daemon.partitions == ["general", "law", "mails", "notes"]


def test_sensors_and_schedule_run_as_soon_as_the_daemon_does():
    definitions = build_defs()
    assert {sensor.name: sensor.default_status.value for sensor in definitions.sensors} == {
        "corpus_changes": "RUNNING",
        "follow_corpora": "RUNNING",
    }
    assert {schedule.name: schedule.default_status.value for schedule in definitions.schedules} == {
        "observe_corpora_nightly": "RUNNING",
        "look_for_broken_daily": "RUNNING",
        "maintain_lake_weekly": "RUNNING",
        "forget_old_runs_weekly": "RUNNING",
    }
    assert all("Runs by itself as long as the UI does" in one.description for one in definitions.sensors)


def test_the_interval_of_the_sensors_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv(sensors.INTERVAL_VARIABLE, "7")
    assert {sensor.minimum_interval_seconds for sensor in build_defs().sensors} == {7}
    monkeypatch.setenv(sensors.INTERVAL_VARIABLE, "soon")
    with pytest.raises(UserError, match=r"PPL_ASSETS_SENSOR_SECONDS = 'soon' is not accepted: give whole seconds"):
        sensors.interval()
