"""A past selection written again is the first export, byte by byte, whatever changed since."""

import json
import shutil
from pathlib import Path

import pytest

from ppl_assets.automation.instance import study_instance
from ppl_assets.automation.maintenance import run_config
from ppl_assets.automation.plan import status_lines
from ppl_assets.cli import main
from ppl_assets.lineage import lineage_of
from ppl_assets.subset.handover import differing_files, export_again
from ppl_assets.subset.history import selections
from ppl_assets.subset.shards import ExportError
from ppl_assets_tests.conftest import TinyStudy, pristine


@pytest.fixture(scope="module")
def changed(finished_study, tmp_path_factory) -> TinyStudy:
    """A copy of the finished study, tables too, after a new document, another budget and a second selection."""
    folder = tmp_path_factory.mktemp("changed") / "study"
    shutil.copytree(pristine(finished_study.folder), folder)
    tables = Path("data", "lake", "tables")
    shutil.copytree(finished_study.folder / tables, folder / tables)
    study = TinyStudy(folder)
    text = study.file.read_text()
    study.file.write_text(text.replace("[selection]\ntokens = 4096", "[selection]\ntokens = 3072"))
    for number in (3, 4):
        text = (folder / f"corpora/general/doc-00{number}.txt").read_text()
        (folder / f"corpora/easy/zz-{number}.txt").write_text(text[::-1])
    for job, partition in (("chunk_corpus", "easy"), ("score_corpus", "easy"), ("draw_landscape", None)):
        assert study.materialize(job, partition).success
    study.result = study.materialize("select_subset")
    assert study.result.success
    return study


def parts(study: TinyStudy):
    made = selections(study.platform.lake)
    return study.platform.study, study.platform.lake, made


def test_every_file_of_a_past_selection_comes_back_byte_by_byte(changed, tmp_path):
    settings, lake, made = parts(changed)
    first, second = changed.platform.root / "exports" / made[0].selection_id, made[-1]
    again = export_again(settings, lake, made[0], tmp_path)
    files = sorted(str(path.relative_to(again)) for path in again.rglob("*") if path.is_file())
    assert files == [
        "README.md",
        "jsonl/train-00000-of-00001.jsonl",
        "manifest.json",
        "parquet/train-00000-of-00001.parquet",
    ]
    assert differing_files(first, again) == []
    assert json.loads((again / "manifest.json").read_text())["study"]["selection"]["tokens"] == 4096
    assert differing_files(changed.platform.root / "exports" / second.selection_id, again) == files


def test_an_export_that_is_there_is_not_written_over(changed):
    settings, lake, made = parts(changed)
    with pytest.raises(ExportError, match="is there already; name another folder with --to"):
        export_again(settings, lake, made[0], changed.platform.root / "exports")


def test_a_selection_from_before_settings_were_recorded_is_described_by_its_manifest(changed, tmp_path, monkeypatch):
    settings, lake, made = parts(changed)
    monkeypatch.setattr("ppl_assets.subset.handover.recorded", lambda _selection: None)
    first = changed.platform.root / "exports" / made[0].selection_id
    assert differing_files(first, export_again(settings, lake, made[0], tmp_path)) == []


def test_what_changed_since_the_last_selection_stands_in_the_ui(changed):
    (event,) = changed.result.asset_materializations_for_node("final_subset")
    text = event.metadata["changes"].value
    assert "removed | the budget changed" in text or "the target and the budget changed" in text
    assert "new text" in text
    assert "| setting selection.tokens | 4096 | 3072 |" in text


def test_status_says_of_a_subset_that_followed_a_changed_corpus_that_it_stands(changed):
    with study_instance(changed.platform.study) as instance:
        lines = status_lines(changed.platform, instance)
    assert "regime_partitions      1 of 1 to compute" in lines
    assert "final_subset           up to date with what is stored; waits for what is above" in lines
    assert "strategy_losses        waits for what is above" in lines


def test_after_maintenance_nothing_is_due_exports_come_back_and_lineage_answers(changed, tmp_path, monkeypatch):
    settings, lake, made = parts(changed)
    lineage, before = lineage_of(lake), [one.snapshot for one in made]
    with study_instance(settings) as instance:
        due = status_lines(changed.platform, instance)
    monkeypatch.setenv("PPL__STORAGE__KEEP_DAYS", "0")
    with study_instance(settings) as instance:
        job = changed.definitions.resolve_job_def("maintain_lake")
        result = job.execute_in_process(instance=instance, run_config=run_config(0.0, remove_orphans=False))
    (event,) = result.asset_materializations_for_node("lake_maintenance")
    assert event.metadata["snapshots_expired"].value > 0
    assert "| an export's manifest names it |" in event.metadata["kept_because"].value
    lake.close()
    with study_instance(settings) as instance:
        assert status_lines(changed.platform, instance) == due
    assert lineage_of(lake) == lineage
    made = selections(lake)
    assert [one.snapshot for one in made] == before
    for one in made:
        again = export_again(settings, lake, one, tmp_path / str(one.snapshot))
        assert differing_files(changed.platform.root / "exports" / one.selection_id, again) == []


def test_the_commands_list_compare_and_export(changed, tmp_path, capsys):
    made = selections(changed.platform.lake)
    first, second = made[0].selection_id, made[-1].selection_id
    study = ["--study", str(changed.file)]
    assert main([*study, "selections"]) == 0
    listed = capsys.readouterr().out
    assert listed.index(second) < listed.index(first)
    file = tmp_path / "moved.csv"
    assert main([*study, "diff", first, second, "--chunks", str(file)]) == 0
    assert f"From selection {first} to {second}" in capsys.readouterr().out
    assert file.read_text().startswith("change,reason,corpus,chunk_id,")
    assert main([*study, "export", first, "--to", str(tmp_path)]) == 0
    assert "the same files, byte by byte" in capsys.readouterr().out
    assert main([*study, "diff", first]) == 2
    assert "diff compares two selections, 1 given" in capsys.readouterr().err
    assert main([*study, "export", "nothing"]) == 2
    assert "there is no selection 'nothing'; name an id" in capsys.readouterr().err
