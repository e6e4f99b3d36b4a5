"""Keep test text out of what may be trained on: near-duplicates of test documents, and pieces of them inside others.

A near-duplicate is a whole document like a test document (MinHash). A test document quoted inside a longer one has a
low Jaccard similarity and is not seen that way; for it the share of word 13-grams is measured, as in the
decontamination of GPT-3 (Brown et al. 2020, appendix C).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ppl_assets.corpus.cleaning import NearIndex, Signature, normalize, signature, text_hash
from ppl_assets.corpus.words import Hashes, ngram_hashes, word_hashes
from ppl_assets.sections import ChunksSection

OVERLAP_WORDS = 13
"""Words an n-gram, as in GPT-3's decontamination."""

LARGEST_TEXT_SHARE = 0.2
"""Share of a candidate's n-grams that may occur in test documents: licence headers and stock phrases stay below it."""

LARGEST_TEST_SHARE = 0.3
"""Share of one test document's n-grams that a candidate may hold. Under a half, since a test document quoted across a
chunk boundary shows up as two halves, each less the n-grams that the boundary cuts."""


@dataclass(frozen=True)
class Overlap:
    """N-grams that a text shares with the test documents.

    Attributes:
        of_text: share of the text's own n-grams that occur in any test document.
        of_test: largest share of one test document's n-grams that the text holds.
    """

    of_text: float
    of_test: float

    @property
    def is_leak(self) -> bool:
        """Whether the text gives test text away."""
        return self.of_text > LARGEST_TEXT_SHARE or self.of_test > LARGEST_TEST_SHARE


@dataclass(frozen=True)
class Violation:
    """A candidate chunk that should not be one, and why."""

    chunk_id: str
    reason: str


class TestGuard:
    """Knows the test documents, as hashes, signatures and n-grams, and recognizes them in other texts.

    Built from the texts of all test documents (and of general ones, to keep forgetting honest). Test documents
    shorter than 13 words have no n-gram: they are recognized as whole documents only.
    """

    def __init__(self, settings: ChunksSection) -> None:
        self._settings = settings
        exact_only = settings.near_duplicate_threshold == 1.0
        self._near = None if exact_only else NearIndex(settings.near_duplicate_threshold, settings.permutations)
        self._hashes: set[str] = set()
        self._grams: Hashes = np.zeros(0, np.uint64)  # sorted; one entry a pair of n-gram and test document
        self._owners: npt.NDArray[np.int64] = np.zeros(0, np.int64)  # the document of each entry
        self._sizes: npt.NDArray[np.int64] = np.zeros(0, np.int64)  # distinct n-grams of each document

    @classmethod
    def from_texts(cls, texts: Iterable[str], settings: ChunksSection) -> "TestGuard":
        """A guard over these texts, which are normalized here.

        Args:
            texts: the test documents.
            settings: shingle, permutations and threshold.
        """
        guard = cls(settings)
        grams: list[Hashes] = []
        for text in map(normalize, texts):
            guard._hashes.add(text_hash(text))
            if guard._near is not None:
                guard._near.add(signature(text, settings.shingle, settings.permutations))
            grams.append(np.unique(ngram_hashes(word_hashes(text), OVERLAP_WORDS)))
        guard._sizes = np.array([len(each) for each in grams], np.int64)
        if grams:
            flat = np.concatenate(grams)
            order = np.argsort(flat, kind="stable")
            guard._grams = flat[order]
            guard._owners = np.repeat(np.arange(len(grams)), guard._sizes)[order]
        return guard

    def is_near(self, text_hash: str, signature: Signature | None) -> bool:
        """Whether a document equals, or nearly equals, a test document."""
        if text_hash in self._hashes:
            return True
        return self._near is not None and signature is not None and self._near.contains_near(signature)

    def overlap(self, text: str) -> Overlap:
        """The 13-grams that a normalized text shares with the test documents."""
        grams = np.unique(ngram_hashes(word_hashes(text), OVERLAP_WORDS))
        first = np.searchsorted(self._grams, grams, "left")
        last = np.searchsorted(self._grams, grams, "right")
        found = np.flatnonzero(last > first)
        if len(found) == 0:
            return Overlap(0.0, 0.0)
        owners = np.concatenate([self._owners[first[i] : last[i]] for i in found])
        documents, held = np.unique(owners, return_counts=True)
        return Overlap(len(found) / len(grams), float((held / self._sizes[documents]).max()))


def near_test_violations(candidates: Iterable[tuple[str, str]], guard: TestGuard) -> Iterator[Violation]:
    """Candidate chunks that hold test text, judged from their texts alone.

    Independent of how the chunks were made: an exact or near copy of a test document shows as overlap of n-grams in its
    chunks (a document of Jaccard similarity 0.8 in shingles of 5 words keeps about three quarters of its 13-grams).

    Args:
        candidates: pairs of chunk id and text.
        guard: the test documents.
    """
    for chunk_id, text in candidates:
        overlap = guard.overlap(text)
        if overlap.is_leak:
            yield Violation(
                chunk_id,
                f"{overlap.of_text:.0%} of its 13-grams occur in test documents, "
                f"and it holds {overlap.of_test:.0%} of those of one",
            )
        elif guard.is_near(text_hash(normalize(text)), None):
            yield Violation(chunk_id, "its text is a whole test document")
