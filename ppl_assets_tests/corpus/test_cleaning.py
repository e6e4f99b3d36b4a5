import io
import json
import unicodedata
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from ppl_assets.corpus.cleaning import Deduplicator, normalize, rows_per_band, signature, text_hash
from ppl_assets.corpus.words import ngram_hashes, word_hashes

MEDQUAD = Path(__file__).parents[3] / "shared" / "data" / "medical_medquad.jsonl.zst"
WORDS = [f"word{number}" for number in range(400)]

messy = st.text(
    st.one_of(
        st.characters(), st.sampled_from(list("ab \t\n\r\x00\x0b\x0c\x85\u0301\u212b\u2028\ufeff\ud800\U0001f600"))
    ),
    max_size=60,
)


@given(messy)
@settings(max_examples=300, deadline=None)
def test_normalizing_twice_changes_nothing_and_leaves_nothing_forbidden(text):
    once = normalize(text)
    assert normalize(once) == once
    assert all(mark not in once for mark in ("\r", "\0", "\x0c", "\ufeff", " \n", "\n\n\n\n"))
    assert unicodedata.is_normalized("NFC", once)
    once.encode()


def test_normalizing_keeps_indentation_and_two_blank_lines():
    assert normalize("\ufeff a\r\n\tb  \n\n\n\n\n    c\x00d e\u0301\n") == "a\n\tb\n\n\n    cd e\u0301".replace(
        "e\u0301", "\xe9"
    )


def test_trailing_spaces_are_removed_in_linear_time():
    assert len(normalize("x" + " " * 1_000_000 + "y")) == 1_000_002


def test_signatures_estimate_the_jaccard_similarity_of_shingles():
    left, right = " ".join(WORDS), " ".join(WORDS[:300])
    equal = (signature(left, 5, 128) == signature(right, 5, 128)).mean()
    assert equal == pytest.approx(296 / 396, abs=0.12)


@pytest.mark.parametrize("text", ["", "!!!", "one", "two words", "\u4e2d\u6587"])
def test_texts_shorter_than_a_shingle_are_like_themselves_only(text):
    assert (signature(text, 5, 64) == signature(text, 5, 64)).all()
    assert (signature(text, 5, 64) == signature(text + " more", 5, 64)).mean() < 0.5


def test_texts_without_spaces_between_words_have_shingles():
    assert len(word_hashes("\u4e2d\u6587\u5b57 ab")) == 4
    assert len(ngram_hashes(word_hashes("a b c"), 5)) == 0


def test_words_are_the_same_beside_text_of_other_alphabets():
    assert word_hashes("Snake_case, 2 words!").tolist() == word_hashes("Snake_case, 2 words! \xfc").tolist()[:3]


def test_bands_find_all_but_one_in_a_hundred_pairs_at_the_threshold():
    for threshold in (0.3, 0.5, 0.8, 0.95):
        rows = rows_per_band(threshold, 128)
        assert (1 - threshold**rows) ** (128 // rows) <= 0.01


def judge(texts, threshold):
    seen = Deduplicator(threshold, 128)
    return [seen.add(text_hash(text), signature(text, 5, 128)) for text in texts]


def test_the_first_of_exact_and_near_duplicates_stays():
    original = " ".join(WORDS)
    near = original.replace("word200", "changed")
    far = " ".join(WORDS[::-1])
    assert judge([original, original, near, far], 0.8) == ["new", "exact_duplicate", "near_duplicate", "new"]


def test_a_threshold_of_one_compares_exact_texts_only():
    original = " ".join(WORDS)
    assert judge([original, original.upper(), original], 1.0) == ["new", "new", "exact_duplicate"]


def test_real_answers_hold_near_duplicates_and_those_found_are_similar():
    if not MEDQUAD.exists():
        pytest.skip("MedQuAD is not beside this checkout (../shared/data)")
    with zstandard.open(MEDQUAD, "rb") as stream:
        lines = [json.loads(line) for _, line in zip(range(1500), io.BufferedReader(stream), strict=False)]
    texts = [normalize(next(v for k, v in line.items() if k in {"text", "answer"})) for line in lines]
    outcomes = judge(texts, 0.8)
    assert outcomes.count("near_duplicate") > 10
    assert outcomes.count("new") > 500
    shingles = [set(ngram_hashes(word_hashes(text), 5).tolist()) for text in texts]
    for place in [n for n, outcome in enumerate(outcomes) if outcome == "near_duplicate"][:20]:
        mine = shingles[place]
        assert max(len(mine & other) / max(1, len(mine | other)) for other in shingles[:place]) > 0.6
