"""What counts as a changed corpus, and when it is quiet enough to be read."""

import os

import pytest

from ppl_assets.corpus.watch import GONE, MOVING, Stamp, corpus_stamps, from_json, look, study_stamps, to_json

SETTLE = 10.0


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


class Watch:
    """Looks at one set of corpora after another; the clock is the test's."""

    def __init__(self):
        self.memory, self.now = {}, 1000.0

    def look(self, seconds=5.0, **digests):
        self.now += seconds
        found = look(digests, self.memory, self.now, SETTLE)
        self.memory = from_json(to_json(found.memory))
        return found

    def until_quiet(self, **digests):
        """Changed corpora, once everything has been quiet."""
        self.look(**digests)
        return self.look(SETTLE, **digests).changed


def test_a_new_corpus_is_asked_for_once_after_it_was_quiet():
    watch = Watch()
    assert watch.look(a="1").waiting == ["a"]
    assert watch.look(a="1").changed == []
    assert watch.look(a="1").changed == ["a"]
    quiet = watch.look(a="1")
    assert (quiet.changed, quiet.waiting) == ([], [])


def test_every_further_write_makes_a_corpus_wait_again():
    watch = Watch()
    for digest in "12345":
        assert watch.look(8.0, a=digest).waiting == ["a"]
    assert watch.look(9.0, a="5").changed == []
    assert watch.look(1.0, a="5").changed == ["a"]


def test_only_the_changed_one_of_several_is_asked_for():
    watch = Watch()
    assert watch.until_quiet(a="1", b="1") == ["a", "b"]
    assert watch.until_quiet(a="1", b="2") == ["b"]


def test_what_changes_back_before_it_is_quiet_is_not_asked_for():
    watch = Watch()
    watch.until_quiet(a="1")
    assert watch.look(a="2").waiting == ["a"]
    assert watch.look(a="1").waiting == []
    assert watch.look(SETTLE, a="1").changed == []


def test_a_corpus_is_given_up_when_it_was_away_for_as_long():
    watch = Watch()
    watch.until_quiet(a="1")
    assert watch.look(a=GONE).gone == []
    assert watch.look(a="1").gone == []  # moved away and back
    assert watch.look(a=GONE).gone == []
    found = watch.look(SETTLE, a=GONE)
    assert (found.gone, found.changed, found.memory) == (["a"], [], {})


def test_one_that_comes_back_is_asked_for_again():
    watch = Watch()
    watch.until_quiet(a="1")
    watch.look(a=GONE)
    watch.look(SETTLE, a=GONE)
    assert watch.until_quiet(a="1") == ["a"]


def test_files_that_move_while_they_are_listed_are_never_quiet():
    watch = Watch()
    assert all(watch.look(SETTLE, a=MOVING).waiting == ["a"] for _ in range(3))


def test_a_memory_of_another_version_is_forgotten():
    assert from_json({"a": {"stamp": "1"}}) == {}
    assert from_json(None) == {}


@pytest.fixture
def notes(tmp_path, corpus):
    write(tmp_path, {"a.txt": "one", "b/c.txt": "two"})
    return corpus(tmp_path)


def stamp(settings) -> Stamp:
    (found,) = corpus_stamps(settings).values()
    return found


def test_a_stamp_changes_with_names_sizes_and_times_and_with_settings(notes, tmp_path):
    os.utime(tmp_path / "a.txt", (1e9, 1e9))
    stamps = [stamp(notes)]
    os.utime(tmp_path / "a.txt", (1e9 + 1, 1e9 + 1))
    stamps.append(stamp(notes))
    (tmp_path / "a.txt").write_text("other")
    os.utime(tmp_path / "a.txt", (1e9 + 1, 1e9 + 1))
    stamps.append(stamp(notes))
    (tmp_path / "a.txt").rename(tmp_path / "z.txt")
    stamps += [stamp(notes), stamp(notes.model_copy(update={"sample": 0.5}))]
    assert len({one.digest for one in stamps}) == 5
    assert stamp(notes) == stamps[3]
    assert stamps[3].modified == pytest.approx((tmp_path / "b/c.txt").stat().st_mtime)


@pytest.mark.parametrize(
    "name", [".a.txt.Xy12", "d.txt.part", "d.tmp", "D.TMP", "d.crdownload", "a.txt~", "w.tmp/x.txt"]
)
def test_unfinished_files_are_neither_seen_nor_read(notes, tmp_path, name):
    before = stamp(notes)
    write(tmp_path, {name: "half"})
    assert stamp(notes) == before


def test_a_new_file_changes_the_stamp_of_its_bucket_alone(notes, tmp_path):
    notes = notes.model_copy(update={"buckets": 4})
    before = corpus_stamps(notes)
    write(tmp_path, {"d.txt": "new"})
    after = corpus_stamps(notes)
    assert sum(before[bucket] != after[bucket] for bucket in range(4)) == 1


def test_a_corpus_behind_a_url_is_not_listed(corpus):
    assert stamp(corpus("s3://nowhere/at/all")).modified == 0.0


def test_a_corpus_without_files_is_said_and_the_others_are_looked_at(notes, tmp_path, study):
    (tmp_path / "empty").mkdir()
    empty = notes.model_copy(update={"path": str(tmp_path / "empty")})
    stamps, problems = study_stamps(study({"notes": notes, "empty": empty}))
    assert list(stamps) == ["notes"]
    assert "corpus empty is not looked at: no file to read" in problems[0]
