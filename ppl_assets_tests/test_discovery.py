"""Corpora found in a folder: which entries are, under which names, and what is said of the others."""

import pytest

from ppl_assets.corpus.compression import SUFFIXES
from ppl_assets.corpus.readers import FORMATS
from ppl_assets.discovery import COMPRESSION_SUFFIXES, DATA_SUFFIXES
from ppl_assets.resources import Platform
from ppl_assets.study import StudyError, load_study

STUDY = """
[corpora.general]
role = "general"
path = "general"
[corpora.law]
path = "law"
[discovery]
folder = "inbox"
[selection]
share = 0.5
"""


@pytest.fixture
def inbox(tmp_path):
    for name in ("general", "law", "inbox"):
        (tmp_path / name).mkdir()
    (tmp_path / "study.toml").write_text(STUDY)
    return tmp_path / "inbox"


def drop(inbox, name, text="text"):
    (inbox / name).parent.mkdir(parents=True, exist_ok=True)
    (inbox / name).write_text(text)


def load(inbox):
    return load_study(inbox.parent / "study.toml")


def test_sub_folders_and_data_files_are_candidates_named_after_themselves(inbox):
    for name in ("notes/a.txt", "mails/2024/b.eml", "reports.jsonl", "books.TXT", "old_books.csv.gz"):
        drop(inbox, name)
    study = load(inbox)
    assert list(study.corpora) == ["general", "law", "books", "mails", "notes", "old_books", "reports"]
    assert study.corpora["notes"].role == "candidate"
    assert study.corpora["reports"].paths == [str(inbox / "reports.jsonl")]
    assert study.corpus_partitions() == list(study.corpora)
    assert not study.found.skipped


def test_what_readers_take_for_data_is_data_here_too():
    assert set(DATA_SUFFIXES) == {*FORMATS, ".txt"}
    assert set(COMPRESSION_SUFFIXES) == set(SUFFIXES)


def test_unfinished_and_hidden_names_are_passed_over_silently(inbox):
    for name in (".git/config", "a.jsonl.part", "b.tmp", "c.crdownload", "d.txt~", "README.md", "notes/.hidden"):
        drop(inbox, name)
    study = load(inbox)
    assert not study.found.corpora
    assert study.found.skipped == (f"{inbox}/notes is passed over: it holds no file yet.",)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("My Notes/a.txt", "named with a-z, 0-9, _ and - and starts with a letter or digit, and 'My Notes' does not"),
        ("a,b.jsonl", "'a,b' does not"),
        ("picture.png", "a single file is a corpus where it ends with .jsonl"),
        ("law/a.txt", "the study has another corpus or partition 'law'"),
    ],
)
def test_what_cannot_be_a_corpus_is_passed_over_with_a_sentence_and_stops_nothing(inbox, name, said):
    drop(inbox, name)
    (sentence,) = load(inbox).found.skipped
    assert said in sentence
    assert sentence.startswith(str(inbox / name.partition("/")[0]))


def test_a_name_that_is_a_bucket_of_another_corpus_is_passed_over(inbox):
    (inbox.parent / "study.toml").write_text(STUDY.replace('path = "law"', 'path = "law"\nbuckets = 2'))
    drop(inbox, "law-001/a.txt")
    (sentence,) = load(inbox).found.skipped
    assert "'law-001'" in sentence


def test_the_same_name_twice_is_one_corpus_and_a_sentence(inbox):
    drop(inbox, "notes/a.txt")
    drop(inbox, "notes.jsonl")
    study = load(inbox)
    assert study.corpora["notes"].paths == [str(inbox / "notes")]
    assert "notes.jsonl is passed over" in study.found.skipped[0]


@pytest.mark.parametrize(
    "path", ["inbox/notes", "inbox/notes/", "inbox/notes/part", "inbox", "inbox/*", "inbox/n*", "inbox/notes/*.txt"]
)
def test_what_the_study_file_names_already_is_not_found_again(inbox, path):
    (inbox / "notes" / "part").mkdir(parents=True)
    drop(inbox, "notes/a.txt")
    (inbox.parent / "study.toml").write_text(STUDY.replace('path = "law"', f'path = "{path}"'))
    assert list(load(inbox).corpora) == ["general", "law"]


def test_a_section_without_a_path_gives_a_found_corpus_its_settings(inbox):
    drop(inbox, "notes.jsonl")
    (inbox.parent / "study.toml").write_text(STUDY + '[corpora.notes]\nid_field = "key"\n')
    notes = load(inbox).corpora["notes"]
    assert notes.paths == [str(inbox / "notes.jsonl")]
    assert notes.id_field == "key"


def test_the_platform_sees_what_comes_and_goes_and_reads_the_study_once_otherwise(inbox):
    platform = Platform(study_path=str(inbox.parent / "study.toml"))
    before = platform.study
    assert platform.study is before
    (inbox / "notes").mkdir()
    assert "notes" not in platform.study.corpora
    drop(inbox, "notes/a.txt")
    assert "notes" in platform.study.corpora
    assert platform.study is platform.study
    (inbox / "notes").rename(inbox / "papers")
    assert list(platform.study.corpora) == ["general", "law", "papers"]
    (inbox / "papers").rename(inbox.parent / "away")
    assert list(platform.study.corpora) == list(before.corpora)


def test_the_environment_names_the_folder_too(inbox, monkeypatch):
    drop(inbox.parent / "elsewhere", "notes.jsonl")
    monkeypatch.setenv("PPL__DISCOVERY__FOLDER", "elsewhere")
    platform = Platform(study_path=str(inbox.parent / "study.toml"))
    assert "notes" in platform.study.corpora
    drop(inbox.parent / "elsewhere", "mails.jsonl")
    assert "mails" in platform.study.corpora


@pytest.mark.parametrize(("folder", "said"), [("nowhere", "is no folder; make it"), ("s3://bucket/x", "is a URL")])
def test_a_discovery_folder_that_cannot_be_is_an_error(inbox, folder, said):
    (inbox.parent / "study.toml").write_text(STUDY.replace('"inbox"', f'"{folder}"'))
    with pytest.raises(StudyError, match=said):
        load(inbox)


def test_no_candidate_named_or_found_is_an_error_that_names_the_folder(inbox):
    (inbox.parent / "study.toml").write_text(STUDY.replace('[corpora.law]\npath = "law"\n', ""))
    with pytest.raises(StudyError, match="no corpus has role = 'candidate', and none was found in inbox"):
        load(inbox)
