"""Which runs are forgotten, and that nothing which refers to a kept one is lost with them."""

from datetime import UTC, datetime, timedelta

import dagster as dg

from ppl_assets.automation.broken import find_broken
from ppl_assets.automation.history import forgettable_runs, runs_in_lineage
from ppl_assets.automation.instance import study_instance
from ppl_assets.automation.plan import pending
from ppl_assets.lake import LakeError
from ppl_assets.resources import Step

LATER = timedelta(days=91)


def test_only_what_nothing_refers_to_is_forgotten_and_nothing_becomes_due_or_broken(study, monkeypatch):
    looked = [study.materialize("observe_corpora", "easy").run_id for _ in range(2)]
    unchanged = [study.materialize("chunk_corpus", "easy").run_id for _ in range(2)]
    with monkeypatch.context() as broken:
        broken.setattr(Step, "unchanged", _fail)
        failed = study.materialize("fit_law").run_id
    monkeypatch.setattr("ppl_assets.automation.history.datetime", Later)
    with study_instance(study.platform.study) as instance:
        assert forgettable_runs(study.platform, instance, datetime.now(UTC)) == []
        old = set(forgettable_runs(study.platform, instance, datetime.now(UTC) + LATER))
        assert {looked[0], unchanged[0]} <= old
        assert not old & {looked[1], unchanged[1], failed, *runs_in_lineage(study.platform.lake)}
        before = [one.sentence for one in find_broken(study.platform, instance)]
    assert study.materialize("forget_old_runs").success
    with study_instance(study.platform.study) as instance:
        assert not instance.get_runs(dg.RunsFilter(run_ids=list(old)))
        assert [one.sentence for one in find_broken(study.platform, instance)] == before
        assert not pending("chunks", "easy", study.platform, instance)
        assert not pending("perplexity_scores", "hard", study.platform, instance)
        home = study.platform.root / "dagster"
        assert not [path for run in old for path in home.rglob(f"*{run}*")]


class Later(datetime):
    """A clock three months ahead."""

    @classmethod
    def now(cls, tz=None) -> datetime:
        return datetime.now(tz) + LATER


def _fail(*_: object) -> None:
    raise LakeError("the lake is away")
