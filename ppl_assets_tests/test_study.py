import tomllib
from pathlib import Path

import pytest

from ppl_assets.study import Study, StudyError, load_study
from ppl_assets_tests.conftest import STUDY as TINY

REPOSITORY = Path(__file__).parents[1]
SHIPPED = {
    file.name: file.read_text("utf-8") for file in (REPOSITORY / "study.toml", *(REPOSITORY / "studies").glob("*.toml"))
}

MINIMAL = """
[corpora.notes]
path = "notes"
[base_model]
source = "some/model"
[selection]
tokens = 100_000
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
    assert study.strategies.names == ["selected", "random", "lowest", "middle", "matched", "redrawn"]


def test_unknown_key_is_named_with_the_nearest_known_one(write):
    message = refused(write(MINIMAL + "[trials]\ntoken = 5\n"))
    assert "trials.token" in message
    assert "did you mean tokens?" in message
    assert len(message.splitlines()) == 1


def test_unknown_key_of_a_corpus_is_named_with_what_is_accepted(write):
    assert "text_field" in refused(write(MINIMAL.replace('path = "notes"', 'path = "notes"\ntext_feild = "x"')))


def test_wrong_type_names_key_and_value(write):
    message = refused(write(MINIMAL.replace("tokens = 100_000", 'tokens = "many"')))
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
    assert "exactly one" in refused(write(MINIMAL.replace("tokens = 100_000", "tokens = 100_000\nshare = 0.5")))


def test_corpus_name_must_be_a_partition_key(write):
    assert "named with a-z" in refused(write(MINIMAL.replace("corpora.notes", 'corpora."My Notes"')))


def test_environment_overrides_the_file(write, monkeypatch):
    monkeypatch.setenv("PPL__SELECTION__TOKENS", "77000")
    monkeypatch.setenv("PPL__CORPORA__NOTES__SAMPLE", "0.5")
    study = load_study(write(MINIMAL))
    assert study.selection.tokens == 77_000
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


INCONSISTENT = {
    "[trials]\ntokens = 8192\nbatch_tokens = 1024": "trials.tokens = 8192 are fewer than trials.span = 16 steps",
    "[strategies]\ntokens = 4096": "strategies.tokens = 4096 are fewer than trials.span = 16 steps",
    "[chunks]\ntokens = 4096": "chunks.tokens = 4096 exceeds trials.batch_tokens = 2048",
    "[chunks]\ntokens = 64\nmin_tokens = 65": "chunks.min_tokens = 65 exceeds chunks.tokens = 64",
    "[trials]\nwarmup_steps = 65": "make the rate rise over 133,120 of trials.tokens = 262,144",
    "[trials]\nlearning_rate = inf": "trials.learning_rate = inf",
    "[regimes]\nquantiles = [0.75, 0.25]": "quantiles = [0.75, 0.25] are not two shares from 0 to 1",
    "[regimes]\nquantiles = [0.49, 0.51]": "the second at least 0.2 above the first",
    "[law]\nbootstrap = 1": "bootstrap = 1 refits give no interval",
    "[held_out]\ntest_share = 0.0": "held_out.test_share = 0 leaves nothing to measure",
}


@pytest.mark.parametrize(("given", "expected"), INCONSISTENT.items(), ids=INCONSISTENT.values())
def test_values_that_do_not_fit_together_are_one_sentence(write, given, expected):
    message = refused(write(MINIMAL + given))
    assert expected in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("[regimes]\nquantiles = [0.2]\n", "regimes.quantiles = [0.2] has too few values; give one more."),
        (
            "[regimes]\nquantiles = [0.1, 0.2, 0.3]\n",
            "regimes.quantiles = [0.1, 0.2, 0.3] has too many values; it takes 2 at most.",
        ),
        ("[corpora]\nmine = 3\n", "corpora.mine = 3 is not accepted: it is a section of its own, [corpora.mine]"),
    ],
)
def test_a_value_of_the_wrong_shape_is_answered_without_jargon(write, given, expected):
    assert expected in refused(write(MINIMAL + given))


def test_an_attention_that_does_not_exist_is_refused_with_those_that_do(write):
    message = refused(write(MINIMAL + '[score]\nattention = "flash_attention_2"\n'))
    assert "score.attention" in message
    assert "'auto', 'sdpa' or 'eager'" in message


def test_adapters_without_the_package_that_makes_them_are_refused_before_anything_runs(write, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert "lora_rank = 4 needs peft, which is not installed" in refused(write(MINIMAL + "[trials]\nlora_rank = 4\n"))


def test_a_selection_too_small_to_be_trained_on_is_refused_unless_strategies_have_their_own_tokens(write):
    small = MINIMAL.replace("100_000", "32_767")
    assert "selection.tokens = 32767 are fewer" in refused(write(small))
    assert load_study(write(small + "[strategies]\ntokens = 32_768\n")).selection.tokens == 32_767


def test_a_corpus_named_like_a_bucket_of_another_is_refused(write):
    twice = MINIMAL.replace('"notes"', '"notes"\nbuckets = 2') + '[corpora.notes-000]\npath = "notes"\n'
    assert "two corpora have a partition 'notes-000'" in refused(write(twice))


def test_every_inconsistency_gets_its_own_sentence(write):
    message = refused(write(MINIMAL + "[held_out]\ntest_share = 0.0\n[chunks]\ntokens = 4096\n"))
    assert [line.count("study.toml: ") for line in message.splitlines()] == [1, 1]


def test_chunks_of_a_recipe_fit_its_context_by_default_and_are_refused_where_they_do_not(write):
    recipe = MINIMAL.replace('"some/model"', '"recipe"') + '[corpora.general]\nrole = "general"\npath = "notes"\n'
    study = load_study(write(recipe))
    assert study.chunks.tokens <= study.base_model.recipe.context
    message = refused(write(recipe + "[base_model.recipe]\ncontext = 512\n"))
    assert "chunks.tokens = 1024 exceeds base_model.recipe.context = 512" in message


def test_no_share_has_to_be_held_out_where_a_target_is_named(write):
    target = '[corpora.target]\nrole = "test"\npath = "notes"\n[held_out]\ntest_share = 0.0\n'
    assert load_study(write(MINIMAL + target)).has_target


def test_sigma_of_the_paper_is_a_key_of_the_law(write):
    assert load_study(write(MINIMAL)).law.sigma == "deviation"
    assert load_study(write(MINIMAL + '[law]\nsigma = "variance"\n')).law.sigma == "variance"
    assert "unknown key landscape.sigma" in refused(write(MINIMAL + '[landscape]\nsigma = "variance"\n'))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("PPL__SELECTON__TOKENS", "unknown key selecton.tokens; did you mean selection?"),
        ("PPL__SELECTION__TOKEN", "unknown key selection.token; did you mean tokens?"),
        ("ppl__chunk", "unknown key chunk; did you mean chunks?"),
    ],
)
def test_an_environment_variable_that_names_no_key_is_refused_with_the_nearest_one(write, monkeypatch, name, expected):
    monkeypatch.setenv(name, "5")
    message = refused(write(MINIMAL))
    assert f"environment variable {name}: {expected}" in message
    assert len(message.splitlines()) == 1


def test_the_variable_that_names_the_study_file_is_no_override(write, monkeypatch):
    monkeypatch.setenv("PPL_ASSETS_STUDY", "study.toml")
    assert load_study(write(MINIMAL))


@pytest.mark.parametrize("source", ["./models/mine", "models/mine.gguf", "../{folder}/models/mine"])
def test_a_model_folder_or_file_is_found_beside_the_study_file(write, tmp_path, monkeypatch, source):
    (tmp_path / "models" / "mine").mkdir(parents=True)
    (tmp_path / "models" / "mine.gguf").touch()
    monkeypatch.chdir("/")
    given = source.format(folder=tmp_path.name)
    found = Path(load_study(write(MINIMAL.replace("some/model", given))).base_model.source)
    assert found.is_absolute()
    assert found.resolve() == (tmp_path / given).resolve()


def test_a_model_that_is_not_beside_the_study_file_is_named(write):
    message = refused(write(MINIMAL.replace("some/model", "./models/absent")))
    assert "base_model.source = './models/absent' does not exist" in message


def test_a_hugging_face_id_is_no_path_even_beside_a_folder_of_that_name(write, tmp_path, monkeypatch):
    (tmp_path / "some" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert load_study(write(MINIMAL)).base_model.source == "some/model"


@pytest.mark.parametrize("name", ["notes", "notes-1", "notes-0001", "notes-²"])
def test_only_the_exact_partition_key_leads_to_a_bucket(write, name):
    study = load_study(write(MINIMAL.replace('path = "notes"', 'path = "notes"\nbuckets = 2')))
    with pytest.raises(StudyError, match="not in the study"):
        study.corpus_of(name)


@pytest.mark.parametrize("text", [*SHIPPED.values(), TINY], ids=[*SHIPPED, "tiny"])
def test_the_numbers_of_a_shipped_study_fit_together(text):
    assert Study(**tomllib.loads(text)).strategies.names[0] == "selected"


@pytest.mark.parametrize("name", ["study.toml"])
def test_shipped_default_study_is_valid_and_names_a_target(name):
    study = load_study(REPOSITORY / name)
    assert isinstance(study, Study)
    assert study.has_target
    assert study.base_model.source == "recipe"


def test_sequential_mode_needs_a_budget_to_end(write):
    message = refused(write(MINIMAL + '[trials]\nmode = "sequential"\n'))
    assert "mode = 'sequential' needs max_tokens" in message
    assert "mode = 'fixed'" in message
    assert load_study(write(MINIMAL + '[trials]\nmode = "sequential"\nmax_tokens = 10_000_000\n')).trials.batch == 3


def test_which_trials_are_run_is_no_part_of_how_one_is(write):
    plain = load_study(write(MINIMAL)).trials
    other = load_study(write(MINIMAL + '[trials]\nmode = "sequential"\nmax_tokens = 9_000_000\nbatch = 5\n')).trials
    assert plain.model_dump() == other.model_dump()
    assert other.batch == 5


LIMITED = MINIMAL.replace(
    'path = "notes"', 'path = "notes"\nmin_share = 0.6\n[corpora.web]\npath = "notes"\nmax_share = 0.3'
)


def test_limits_of_corpora_are_read(write):
    study = load_study(write(LIMITED))
    assert {name: (c.min_share, c.max_share) for name, c in study.limited_corpora.items()} == {
        "notes": (0.6, 1.0),
        "web": (0.0, 0.3),
    }
    assert load_study(write(MINIMAL)).limited_corpora == {}


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("max_share = 0.3", "min_share = 0.5", "add up to 1.1, more than the whole selection"),
        ("min_share = 0.6", "max_share = 0.6", "add up to 0.9, less than the whole selection"),
        ("max_share = 0.3", "min_share = 0.4\nmax_share = 0.3", "min_share = 0.4 exceeds max_share = 0.3"),
        ("max_share = 0.3", 'max_share = 0.3\nrole = "test"', "nothing is selected from a corpus with role = 'test'"),
        ("tokens = 100_000", 'tokens = 100_000\nmethod = "greedy_dos"', "keeps none: take selection.method = 'tilt'"),
        ("tokens = 100_000", 'tokens = 100_000\n[strategies]\nrivals = ["greedy_dos"]', "leave greedy_dos out"),
        ("max_share = 0.3", "max_share = 0.0", "corpora.web.max_share = 0.0 is not accepted"),
    ],
)
def test_limits_that_no_selection_keeps_are_refused_in_a_sentence(write, old, new, sentence):
    message = refused(write(LIMITED.replace(old, new)))
    assert sentence in message
    assert len(message.splitlines()) == 1


def test_nothing_is_repeated_unless_asked(write):
    assert load_study(write(MINIMAL)).selection.repeats == 1
    message = refused(write(MINIMAL.replace("tokens = 100_000", "share = 1.5")))
    assert "share = 1.5 is more than the candidates" in message
    assert "repeats = 2" in message
    assert load_study(write(MINIMAL.replace("tokens = 100_000", "share = 1.5\nrepeats = 2"))).selection.share == 1.5
    assert "repeats = 0 is not accepted" in refused(write(MINIMAL + "repeats = 0\n"))


def test_whole_documents_know_no_limits_no_repetition_and_no_greedy_selection(write):
    whole = MINIMAL + 'unit = "document"\n'
    assert load_study(write(whole)).selection.unit == "document"
    assert "once each, and knows no selection.repeats = 2" in refused(write(whole + "repeats = 2\n"))
    assert "knows no greedy_dos" in refused(write(whole + 'method = "greedy_dos"\n'))
    assert "knows no min_share" in refused(write(whole.replace('path = "notes"', 'path = "notes"\nmin_share = 0.1')))
