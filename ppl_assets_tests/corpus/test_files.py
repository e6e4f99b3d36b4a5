import fsspec
import pytest

from ppl_assets.corpus.errors import CorpusError
from ppl_assets.corpus.files import bucket_of, corpus_version, list_files


def names(settings, **given):
    return [file.relative for file in list_files(settings, **given)]


@pytest.fixture
def tree(tmp_path):
    for name in ("a.txt", "b.py", "docs/c.txt", "docs/deep/d.txt", "stats/e.txt", "stats/tests/f.txt", "tests/g.txt"):
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "root"


def test_a_folder_is_read_to_the_bottom_in_order_without_hidden_and_compiled_files(tree, corpus):
    for name in (".git/config", "docs/.hidden", "docs/__pycache__/x.txt", "docs/x.pyc"):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_text("no")
    assert names(corpus(tree)) == [
        "a.txt", "b.py", "docs/c.txt", "docs/deep/d.txt", "stats/e.txt", "stats/tests/f.txt", "tests/g.txt"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (["stats/**"], [], ["stats/e.txt", "stats/tests/f.txt"]),
        (["stats/"], [], ["stats/e.txt", "stats/tests/f.txt"]),
        (["*.py"], [], ["b.py"]),
        (["docs/*.txt"], [], ["docs/c.txt"]),
        (["docs/**/*.txt"], [], ["docs/c.txt", "docs/deep/d.txt"]),
        (["**/[ef].txt"], [], ["stats/e.txt", "stats/tests/f.txt"]),
        (["**"], ["tests", "docs/**"], ["a.txt", "b.py", "stats/e.txt"]),
        (["?.txt"], ["[!a].txt"], ["a.txt"]),
    ],
)
def test_patterns_choose_files_by_their_relative_name(tree, corpus, include, exclude, expected):
    assert names(corpus(tree, include=include, exclude=exclude)) == expected


def test_a_glob_a_single_file_and_a_file_url_are_locations_too(tree, corpus):
    assert names(corpus(f"{tree}/docs/**/*.txt")) == ["c.txt", "deep/d.txt"]
    assert names(corpus(f"{tree}/st*")) == ["stats/e.txt", "stats/tests/f.txt"]
    assert names(corpus(tree / "a.txt")) == ["a.txt"]
    assert names(corpus(f"file://{tree}/a.txt")) == ["a.txt"]


def test_a_name_with_brackets_is_meant_literally_when_it_exists(tmp_path, corpus):
    (tmp_path / "v[1]").mkdir()
    (tmp_path / "v[1]" / "a.txt").write_text("a")
    assert names(corpus(tmp_path / "v[1]")) == ["a.txt"]


def test_a_remote_prefix_lists_and_opens_like_a_folder(corpus):
    with fsspec.open("memory://listing/x/one.txt", "wb") as stream:
        stream.write(b"one")
    (file,) = list_files(corpus("memory://listing"))
    assert (file.relative, file.size) == ("x/one.txt", 3)
    with file.open() as stream:
        assert stream.read() == b"one"
    assert names(corpus("memory://listing/*/one.txt")) == ["x/one.txt"]


def test_equal_names_from_two_locations_stay_apart_and_one_file_is_read_once(tmp_path, corpus):
    for folder in ("left/data", "right/data"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.txt").write_text(folder)
    left, right = str(tmp_path / "left/data"), str(tmp_path / "right/data")
    assert names(corpus([left, right])) == ["data/a.txt", "data~2/a.txt"]
    assert names(corpus([left, f"{left}/a.txt"])) == ["data/a.txt"]


def test_a_loop_of_links_ends(tree, corpus):
    (tree / "docs" / "loop").symlink_to(tree)
    (tree / "dangling.txt").symlink_to(tree / "nowhere")
    assert len(names(corpus(tree))) == 7


def test_nothing_to_read_is_an_error_that_says_what_was_looked_for(tree, corpus):
    with pytest.raises(CorpusError, match=r"no file to read in .*\*\.parquet.*widen include"):
        list_files(corpus(tree, include=["*.parquet"]))


def test_buckets_divide_the_files_and_a_new_file_moves_none(tree, corpus):
    settings = corpus(tree, buckets=3)
    before = [set(names(settings, bucket=number)) for number in range(3)]
    assert set().union(*before) == set(names(corpus(tree)))
    assert sum(map(len, before)) == 7
    (tree / "new.txt").write_text("new")
    after = [set(names(settings, bucket=number)) for number in range(3)]
    before[bucket_of("new.txt", 3)].add("new.txt")
    assert after == before


def test_the_version_follows_content_names_and_settings_not_times(tree, corpus):
    first = corpus_version(corpus(tree))
    (tree / "a.txt").touch()
    assert corpus_version(corpus(tree, licence="MIT")) == first
    assert corpus_version(corpus(tree, sample=0.5)) != first
    (tree / "a.txt").write_text("other")
    changed = corpus_version(corpus(tree))
    assert changed != first
    (tree / "a.txt").rename(tree / "z.txt")
    assert corpus_version(corpus(tree)) not in {first, changed}


def test_the_version_of_a_bucket_ignores_the_other_buckets(tree, corpus):
    settings = corpus(tree, buckets=2)
    before = [corpus_version(settings, number) for number in range(2)]
    (tree / "a.txt").write_text("changed")
    changed = bucket_of("a.txt", 2)
    after = [corpus_version(settings, number) for number in range(2)]
    assert [a == b for a, b in zip(before, after, strict=True)] == [number != changed for number in range(2)]
