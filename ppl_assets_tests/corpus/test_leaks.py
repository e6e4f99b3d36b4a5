import random

import pytest

from ppl_assets.corpus.cleaning import signature, text_hash
from ppl_assets.corpus.leaks import TestGuard as Guard
from ppl_assets.corpus.leaks import near_test_violations
from ppl_assets.sections import ChunksSection

SETTINGS = ChunksSection()
DRAW = random.Random(7)  # repeatable text


def prose(words):
    return " ".join(f"w{DRAW.randrange(5000)}" for _ in range(words))


TEST_TEXT = prose(60)
GUARD = Guard.from_texts([TEST_TEXT, prose(300), "short test text"], SETTINGS)


def near(text):
    return GUARD.is_near(text_hash(text), signature(text, SETTINGS.shingle, SETTINGS.permutations))


def test_a_near_copy_of_a_test_document_is_recognized():
    assert near(TEST_TEXT)
    assert near(TEST_TEXT + " one more")
    assert near("short test text")
    assert not near(prose(60))


@pytest.mark.parametrize("around", [0, 20, 2000])
def test_a_test_document_inside_a_longer_text_is_recognized_however_long(around):
    text = f"{prose(around)} {TEST_TEXT} {prose(around)}"
    assert GUARD.overlap(text).is_leak


def test_a_test_document_cut_by_a_chunk_boundary_is_recognized_in_both_halves():
    words = TEST_TEXT.split()
    assert GUARD.overlap(f"{prose(500)} {' '.join(words[:30])}").is_leak
    assert GUARD.overlap(f"{' '.join(words[30:])} {prose(500)}").is_leak


def test_a_stock_phrase_shared_with_a_test_document_is_no_leak():
    phrase = " ".join(TEST_TEXT.split()[:15])
    overlap = GUARD.overlap(f"{prose(100)} {phrase} {prose(100)}")
    assert 0 < overlap.of_text < 0.05
    assert not overlap.is_leak


def test_case_and_punctuation_do_not_hide_a_leak():
    assert GUARD.overlap(TEST_TEXT.upper().replace(" ", ",\n")).is_leak


def test_a_threshold_of_one_recognizes_exact_documents_and_pieces_only():
    exact = Guard.from_texts([TEST_TEXT], ChunksSection(near_duplicate_threshold=1.0))
    assert exact.is_near(text_hash(TEST_TEXT), None)
    assert not exact.is_near(text_hash(TEST_TEXT + " x"), signature(TEST_TEXT + " x", 5, 128))
    assert exact.overlap(TEST_TEXT + " x").is_leak


def test_no_test_document_means_no_leak():
    assert not Guard.from_texts([], SETTINGS).overlap(TEST_TEXT).is_leak


def test_violations_name_the_chunk_and_the_reason():
    candidates = [("clean", prose(80)), ("leak", TEST_TEXT), ("tiny", "short test text")]
    found = list(near_test_violations(candidates, GUARD))
    assert [violation.chunk_id for violation in found] == ["leak", "tiny"]
    assert "100%" in found[0].reason
