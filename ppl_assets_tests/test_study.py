from pathlib import Path

import pytest

from ppl_assets.study import Study, StudyError, load_study

REPOSITORY = Path(__file__).parents[1]

MINIMAL = """
[corpora.notes]
path = "notes"
[base_model]
source = "some/model"
[selection]
tokens = 1000
"""


@pytest.fixture
def write(tmp_path):
    (tmp_path / "notes").mkdir()

    def _write(text: str) -> Path:
        file = tmp_path / "study.toml"
        file.write_text(text)
        return file

    return _write


def refused(file: Path) -> str:
    with pytest.raises(StudyError) as caught:
        load_study(file)
    return str(caught.value)


def test_minimal_study_has_defaults_and_paths_beside_its_file(write, tmp_path):
    study = load_study(write(MINIMAL))
    assert study.corpora["notes"].paths == [str(tmp_path / "notes")]
    assert study.storage.root == tmp_path / "data"
    assert study.chunks.shortest == study.chunks.tokens == 1024
    assert study.strategies.names == ["selected", "random", "lowest", "matched"]


def test_unknown_key_is_named_with_the_nearest_known_one(write):
    message = refused(write(MINIMAL + "[trials]\ntoken = 5\n"))
    assert "trials.token" in message
    assert "did you mean tokens?" in message
    assert len(message.splitlines()) == 1


def test_unknown_key_of_a_corpus_is_named_with_what_is_accepted(write):
    assert "text_field" in refused(write(MINIMAL.replace('path = "notes"', 'path = "notes"\ntext_feild = "x"')))


def test_wrong_type_names_key_and_value(write):
    message = refused(write(MINIMAL.replace("tokens = 1000", 'tokens = "many"')))
    assert "selection.tokens = 'many'" in message


def test_every_problem_gets_its_own_sentence(write):
    assert len(refused(write(MINIMAL + "[trials]\ntokens = -1\nspan = 1\n")).splitlines()) == 2


def test_missing_path_is_named(write):
    assert "corpora.notes.path = 'nowhere' does not exist" in refused(write(MINIMAL.replace('"notes"', '"nowhere"')))


def test_package_that_is_not_installed_is_named(write):
    message = refused(write(MINIMAL.replace('"notes"', '"package:no_such_package_here"')))
    assert "no package 'no_such_package_here' is installed" in message


def test_missing_study_file_is_one_sentence(tmp_path):
    assert "does not exist" in refused(tmp_path / "absent.toml")


def test_broken_toml_is_one_sentence(write):
    assert "not valid TOML" in refused(write("[corpora\n"))


def test_budget_is_given_exactly_once(write):
    assert "exactly one" in refused(write(MINIMAL.replace("tokens = 1000", "tokens = 1000\nshare = 0.5")))


def test_corpus_name_must_be_a_partition_key(write):
    assert "named with a-z" in refused(write(MINIMAL.replace("corpora.notes", 'corpora."My Notes"')))


def test_environment_overrides_the_file(write, monkeypatch):
    monkeypatch.setenv("PPL__SELECTION__TOKENS", "77")
    monkeypatch.setenv("PPL__CORPORA__NOTES__SAMPLE", "0.5")
    study = load_study(write(MINIMAL))
    assert study.selection.tokens == 77
    assert study.corpora["notes"].sample == 0.5


def test_recipe_needs_general_text(write):
    assert "role = 'general'" in refused(write(MINIMAL.replace('source = "some/model"', 'source = "recipe"')))


def test_buckets_become_partitions_and_lead_back_to_their_corpus(write):
    study = load_study(write(MINIMAL.replace('path = "notes"', 'path = "notes"\nbuckets = 2')))
    assert study.corpus_partitions() == ["notes-000", "notes-001"]
    name, _, bucket = study.corpus_of("notes-001")
    assert (name, bucket) == ("notes", 1)
    with pytest.raises(StudyError, match="not in the study"):
        study.corpus_of("notes-002")


@pytest.mark.parametrize("name", ["study.toml"])
def test_shipped_default_study_is_valid_and_names_a_target(name):
    study = load_study(REPOSITORY / name)
    assert isinstance(study, Study)
    assert study.has_target
    assert study.base_model.source == "recipe"
