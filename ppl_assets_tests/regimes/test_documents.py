"""Whole documents: all chunks of each, together and in order, at the target's moments as near as documents allow."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppl_assets.regimes.candidates import Candidates, SelectionError
from ppl_assets.regimes.documents import Documents, draw_documents
from ppl_assets.regimes.drawn import Drawn, Target
from ppl_assets.regimes.ordering import prefix_error
from ppl_assets.subset.selection import select_documents


def corpus(count: int, seed: int = 0) -> Documents:
    """Documents of 2 to 30 chunks that are alike within, the last chunk of each a short one."""
    draw = np.random.default_rng(seed)
    sizes = np.minimum(1 + draw.geometric(0.2, count), 30)
    number = np.repeat(np.arange(count), sizes)
    ppl = np.exp((4.3 + 0.45 * draw.standard_normal(count))[number] + 0.4 * draw.standard_normal(number.size))
    position = np.concatenate([np.arange(size) for size in sizes])
    tokens = np.where(np.append(number[1:] != number[:-1], True), draw.integers(16, 65, number.size), 64)
    key, names = (draw.integers(0, 2**63, size).astype(np.uint64) for size in (number.size, count))
    return Documents(Candidates(ppl, tokens, key), number, position, names)


FEW, MANY = corpus(300), corpus(3000)


def assert_whole(documents: Documents, drawn: Drawn) -> None:
    """Every document is there with all its chunks, in a row and in order."""
    number, position = documents.number[drawn.index], documents.position[drawn.index]
    begins = np.flatnonzero(np.append(True, number[1:] != number[:-1]))
    assert np.unique(number[begins]).size == begins.size
    sizes = np.bincount(documents.number)
    np.testing.assert_array_equal(np.diff(np.append(begins, number.size)), sizes[number[begins]])
    np.testing.assert_array_equal(position, np.concatenate([np.arange(sizes[n]) for n in number[begins]]))


@settings(max_examples=20, deadline=None)
@given(st.floats(60.0, 150.0), st.floats(25.0, 90.0), st.floats(0.05, 0.95), st.integers(0, 9))
def test_documents_are_whole_and_the_budget_is_kept(mu: float, sigma: float, share: float, seed: int) -> None:
    target = Target(mu, sigma, int(share * FEW.candidates.total_tokens))
    drawn = draw_documents(FEW, target, seed=seed)
    assert_whole(FEW, drawn)
    assert target.tokens - FEW.as_candidates.longest < drawn.tokens <= target.tokens
    assert "whole documents." in drawn.message


@pytest.mark.parametrize(("mu", "sigma", "share"), [(80.0, 40.0, 0.1), (120.0, 60.0, 0.2), (97.0, 63.0, 0.5)])
def test_moments_are_met_and_prefixes_follow(mu: float, sigma: float, share: float) -> None:
    drawn = draw_documents(MANY, Target(mu, sigma, int(share * MANY.candidates.total_tokens)), seed=3)
    assert drawn.is_reachable
    assert drawn.objective <= 1e-8
    chunks = drawn.members
    assert prefix_error(chunks.ppl, chunks.tokens, [drawn.tokens // 16, drawn.tokens // 4]) < 0.08


def test_moments_that_whole_documents_cannot_have_are_said_to_be_out_of_reach() -> None:
    drawn = draw_documents(FEW, Target(70.0, 4.0, FEW.candidates.total_tokens // 10), seed=3)
    assert not drawn.is_reachable
    assert "Whole documents cannot have these moments" in drawn.message
    assert drawn.sigma > 8
    assert_whole(FEW, drawn)


def test_nothing_depends_on_the_order_of_the_rows() -> None:
    shuffled = np.random.default_rng(1).permutation(FEW.number.size)
    renumbered = np.random.default_rng(2).permutation(FEW.key.size)
    given = FEW.candidates
    chunks = Candidates(given.ppl[shuffled], given.tokens[shuffled], given.key[shuffled])
    other = Documents(chunks, renumbered[FEW.number[shuffled]], FEW.position[shuffled], FEW.key[np.argsort(renumbered)])
    target = Target(80.0, 40.0, given.total_tokens // 5)
    first, second = (draw_documents(documents, target, seed=3) for documents in (FEW, other))
    np.testing.assert_array_equal(given.key[first.index], chunks.key[second.index])


@pytest.mark.parametrize("name", ["random", "lowest", "middle", "highest", "gaussian", "matched", "selected"])
def test_rivals_take_whole_documents_too(name: str) -> None:
    target = Target(80.0, 40.0, FEW.candidates.total_tokens // 5)
    drawn = select_documents(name, FEW, target, seed=1)
    assert_whole(FEW, drawn)
    assert target.tokens - FEW.as_candidates.longest < drawn.tokens <= target.tokens


def test_what_takes_no_whole_document_is_refused() -> None:
    target = Target(80.0, 40.0, 20)
    with pytest.raises(SelectionError, match="below one document"):
        draw_documents(FEW, target, seed=1)
    with pytest.raises(SelectionError, match="'greedy_dos' does not draw whole documents"):
        select_documents("greedy_dos", FEW, target, seed=1)


def test_everything_and_one_perplexity_need_no_probabilities() -> None:
    total = FEW.candidates.total_tokens
    assert draw_documents(FEW, Target(80.0, 40.0, total), seed=1).tokens == total
    flat = Candidates(np.full(FEW.number.size, 50.0), FEW.candidates.tokens, FEW.candidates.key)
    same = Documents(flat, FEW.number, FEW.position, FEW.key)
    assert_whole(same, draw_documents(same, Target(50.0, 5.0, total // 4), seed=1))


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 6), st.sampled_from([1, 2, 50]), st.floats(0.05, 0.99), st.integers(0, 9))
def test_few_documents_and_few_perplexities_are_drawn_too(count: int, values: int, share: float, seed: int) -> None:
    documents = corpus(count, seed)
    chunks = documents.candidates
    ppl = 40.0 + 10.0 * (np.arange(chunks.count) % values)
    documents = Documents(
        Candidates(ppl, chunks.tokens, chunks.key), documents.number, documents.position, documents.key
    )
    budget = max(int(share * chunks.total_tokens), documents.as_candidates.shortest)
    try:
        drawn = draw_documents(documents, Target(45.0, 5.0, budget), seed=seed)
    except SelectionError as error:
        assert "has any spread" in str(error)  # noqa: PT017 - either is right
        return
    assert_whole(documents, drawn)
    assert 0 < drawn.tokens <= budget
