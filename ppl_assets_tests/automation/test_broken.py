"""What is broken now: in the status, and as a daily check that the UI shows."""

import dagster as dg
import pytest

from ppl_assets.automation.broken import LOOK_DAILY, _why, broken_lines, find_broken
from ppl_assets.automation.instance import study_instance
from ppl_assets.automation.plan import INPUTS, status_lines
from ppl_assets.corpus.errors import CorpusError
from ppl_assets.corpus.files import SourceFile
from ppl_assets.corpus.leaks import Overlap
from ppl_assets.lake import LakeError
from ppl_assets.resources import CORPORA_TAG, Inputs, Step
from ppl_assets_tests.conftest import TinyStudy


def found(study) -> dict[str, list[str]]:
    with study_instance(study.platform.study) as instance:
        return {one.asset: list(one.reasons) for one in find_broken(study.platform, instance)}


def looked_at(study) -> dg.AssetCheckEvaluation:
    """The check as the schedule runs it: alone."""
    key = dg.AssetCheckKey(dg.AssetKey("selection_report"), "nothing_is_broken")
    job = study.definitions.resolve_job_def(LOOK_DAILY.job_name)
    with study_instance(study.platform.study) as instance:
        result = job.execute_in_process(instance=instance)
    (evaluation,) = result.get_asset_check_evaluations()
    assert evaluation.asset_check_key == key
    return evaluation


def test_nothing_is_broken_after_a_whole_run(finished_study):
    assert found(finished_study) == {}
    with study_instance(finished_study.platform.study) as instance:
        assert broken_lines(finished_study.platform, instance) == []


def test_the_daily_look_passes_then_names_what_failed_with_the_command_that_mends_it(study, monkeypatch):
    evaluation = looked_at(study)
    assert evaluation.passed
    assert evaluation.description == "Nothing is broken."
    with monkeypatch.context() as broken:
        broken.setattr(Step, "unchanged", lambda *_: _raise(LakeError("the lake is away")))
        assert not study.materialize("fit_law").success
        assert not study.materialize("chunk_corpus", "hard").success
    assert found(study) == {"chunks": ["hard"], "fitted_law": [""]}
    evaluation = looked_at(study)
    assert not evaluation.passed
    assert "chunks (1: hard): run " in evaluation.description
    assert "the lake is away. Mend it with: ppl-assets " in evaluation.description
    assert "backfill chunks --failed" in evaluation.description
    assert evaluation.metadata["broken"].value == 2
    assert study.materialize("fit_law").success
    assert study.materialize("chunk_corpus", "hard").success
    assert found(study) == {}


def test_rows_that_failed_a_blocking_check_are_broken_until_it_passes(study, monkeypatch):
    with monkeypatch.context() as leaking:
        leaking.setattr(Overlap, "is_leak", property(lambda _overlap: True))
        study.materialize("chunk_corpus", "easy")
    with study_instance(study.platform.study) as instance:
        (line,) = broken_lines(study.platform, instance)[2:]
    assert "chunks (1: easy): blocking check no_candidate_holds_test_text failed" in line
    study.materialize("chunk_corpus", "easy")
    assert found(study) == {}


def test_one_corpus_that_cannot_be_read_keeps_no_other_from_being_observed_and_the_one_never_scored_is_waited_for(
    study, monkeypatch
):
    for name in ("notes", "weird"):
        (study.folder / "corpora" / name).mkdir()
        (study.folder / "corpora" / name / "a.txt").write_text(f"some words of {name}")
        study.file.write_text(study.file.read_text() + f'\n[corpora.{name}]\npath = "corpora/{name}"\n')
    study = TinyStudy(study.folder)
    tags, opened = {CORPORA_TAG: "notes weird"}, SourceFile.open

    def open_or_fail(file):
        return _raise(OSError(5, "EIO")) if "weird" in file.url else opened(file)

    with monkeypatch.context() as away:
        away.setattr(SourceFile, "open", open_or_fail)
        assert not study.materialize("observe_corpora", tags=tags).success
    with study_instance(study.platform.study) as instance:
        (one,) = find_broken(study.platform, instance)
        assert list(one.reasons) == ["weird"]
        told = instance.fetch_observations(dg.AssetKey("raw_corpus"), limit=1).records[0].asset_observation
    assert told.partition == "notes"
    assert "a.txt cannot be read (EIO); repair it, remove it, or name it under exclude" in one.sentence
    assert "until it is mended or removed, landscape, subset and report do not follow" in one.sentence
    assert study.materialize("observe_corpora", tags=tags).success
    assert found(study) == {}


def test_a_run_that_dagster_gave_up_is_told_with_the_event_before(study):
    with study_instance(study.platform.study) as instance:
        run = instance.create_run_for_job(study.definitions.resolve_job_def("fit_law"))
        instance.report_engine_event("Its worker ended with signal 9", run)
        instance.report_run_failed(run)
        assert _why(run.run_id, instance) == f"run {run.run_id[:8]} failed: Its worker ended with signal 9."


def test_status_answers_where_what_is_below_something_due_cannot_be_read(study, monkeypatch):
    def unreadable(*_):
        raise CorpusError("hard cannot be read")

    monkeypatch.setitem(INPUTS, "test_documents", lambda *_: Inputs(["other"]))
    monkeypatch.setitem(INPUTS, "chunks", unreadable)
    with study_instance(study.platform.study) as instance:
        lines = status_lines(study.platform, instance)
    assert "test_documents         1 of 1 to compute" in lines
    assert "chunks                 waits for what is above" in lines


def test_maintenance_that_failed_is_broken_too(study, monkeypatch):
    with monkeypatch.context() as away:
        away.setattr("ppl_assets.automation.maintenance.plan", lambda *_: _raise(LakeError("the lake is away")))
        assert not study.materialize("maintain_lake").success
    with study_instance(study.platform.study) as instance:
        (one,) = find_broken(study.platform, instance)
    assert "the lake is away. Mend it with: ppl-assets maintain" in one.sentence


def test_a_corpus_that_could_not_be_looked_at_is_broken_until_it_was(study, monkeypatch):
    with monkeypatch.context() as away:
        away.setattr("ppl_assets.corpus.assets.corpus_version", lambda *_: _raise(OSError("the share is away")))
        assert not study.materialize("observe_corpora", "hard").success
    assert found(study) == {"raw_corpus": ["hard"]}
    assert study.materialize("observe_corpora", "easy").success
    assert found(study) == {"raw_corpus": ["hard"]}
    assert study.materialize("observe_corpora").success
    assert found(study) == {}


def test_the_look_is_daily_and_runs_unasked():
    assert LOOK_DAILY.cron_schedule == "0 6 * * *"
    assert LOOK_DAILY.default_status == dg.DefaultScheduleStatus.RUNNING


def _raise(error: Exception):
    raise error


pytestmark = pytest.mark.timeout(120)
