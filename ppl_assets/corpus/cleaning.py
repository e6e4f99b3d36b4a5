"""Normal form of a text, its hash and MinHash signature, and removal of exact and near duplicates."""

import re
import unicodedata
from typing import Literal

import numpy as np
import numpy.typing as npt
import rensa
import xxhash

from ppl_assets.corpus.words import ngram_hashes, word_hashes

Signature = npt.NDArray[np.uint32]

SIGNATURE_SEED = 20251221
"""Fixed, not the study's seed: stored signatures stay comparable between studies."""

_LINE_ENDS = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_DROPPED = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ufeff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_BLANK_LINES = re.compile("\n{4,}")

_MISSED = 0.01
"""Largest share of pairs exactly at the threshold that the bands may fail to bring together."""


def normalize(text: str) -> str:
    """The normal form in which a text is hashed, chunked and trained on; applying it twice changes nothing.

    In order: lone surrogates become U+FFFD; every kind of line end becomes a newline; control characters other than
    newline and tab, and byte order marks, are dropped; Unicode NFC; spaces at line ends go; more than two blank lines
    in a row become two; white space around the whole text goes. Indentation and everything inside a line stay.
    """
    text = _SURROGATE.sub("\ufffd", text)
    text = _LINE_ENDS.sub("\n", text)
    text = _DROPPED.sub("", text)
    text = unicodedata.normalize("NFC", text)
    text = "\n".join(line.rstrip() for line in text.split("\n"))
    return _BLANK_LINES.sub("\n\n\n", text).strip()


def text_hash(text: str) -> str:
    """128-bit hash of a normalized text, 32 hexadecimal digits."""
    return xxhash.xxh3_128_hexdigest(text.encode())


def signature(text: str, shingle: int, permutations: int) -> Signature:
    """MinHash signature of the word shingles of a normalized text, uint32 of shape (permutations,).

    The share of equal places of two signatures estimates the Jaccard similarity J of their shingle sets, with standard
    deviation sqrt(J (1 - J) / permutations). A text of fewer words than a shingle counts as one shingle of them all; a
    text without words (digits and letters are words) as one shingle of its characters.
    """
    words = word_hashes(text)
    if len(words) == 0:
        words = np.array([xxhash.xxh3_64_intdigest(text.encode())], np.uint64)
    shingles = ngram_hashes(words, min(shingle, len(words)))
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(
        shingles, [0, len(shingles)], permutations, SIGNATURE_SEED
    )
    return np.array(matrix.to_rows()[0], np.uint32)


def rows_per_band(threshold: float, permutations: int) -> int:
    """The most rows a band, so that a pair at ``threshold`` shares no band with a probability of at most 1 %.

    A pair of similarity J shares one of b bands of r rows with probability 1 - (1 - J^r)^b (Leskovec, Rajaraman and
    Ullman, Mining of Massive Datasets, section 3.4.2).
    """
    fits = [r for r in range(1, permutations + 1) if (1 - threshold**r) ** (permutations // r) <= _MISSED]
    return max(fits, default=1)


class NearIndex:
    """Signatures in which similar ones are found: bands propose, the estimated Jaccard similarity decides.

    About 3 kB of memory a signature at 128 permutations; divide a corpus of many millions of documents into buckets.
    """

    def __init__(self, threshold: float, permutations: int) -> None:
        self.threshold = threshold
        self._rows = rows_per_band(threshold, permutations)
        self._bands = permutations // self._rows
        self._buckets: dict[bytes, list[int]] = {}
        self._signatures = np.zeros((64, permutations), np.uint32)
        self._count = 0

    def add(self, signature: Signature) -> None:
        """Remember a signature."""
        if self._count == len(self._signatures):
            self._signatures = np.concatenate([self._signatures, np.zeros_like(self._signatures)])
        self._signatures[self._count] = signature
        for key in self._keys(signature):
            self._buckets.setdefault(key, []).append(self._count)
        self._count += 1

    def contains_near(self, signature: Signature) -> bool:
        """Whether a remembered signature has an estimated Jaccard similarity of at least the threshold."""
        places = {place for key in self._keys(signature) for place in self._buckets.get(key, ())}
        if not places:
            return False
        equal = self._signatures[sorted(places)] == signature
        return bool(equal.mean(axis=1).max() >= self.threshold)

    def _keys(self, signature: Signature) -> list[bytes]:
        rows = self._rows
        return [
            band.to_bytes(2, "little") + signature[band * rows : (band + 1) * rows].tobytes()
            for band in range(self._bands)
        ]


class Deduplicator:
    """Says of each document whether an earlier one had the same text, or nearly the same; the first one stays.

    A threshold of 1 compares exact texts only.
    """

    def __init__(self, threshold: float, permutations: int) -> None:
        self._hashes: set[bytes] = set()
        self._near = NearIndex(threshold, permutations) if threshold < 1.0 else None

    @property
    def needs_signatures(self) -> bool:
        """Whether ``add`` looks at the signature."""
        return self._near is not None

    def add(self, text_hash: str, signature: Signature | None) -> Literal["new", "exact_duplicate", "near_duplicate"]:
        """Compare a document with all before it, and remember it when it is new."""
        key = bytes.fromhex(text_hash)
        if key in self._hashes:
            return "exact_duplicate"
        if self._near is not None and signature is not None:
            if self._near.contains_near(signature):
                return "near_duplicate"
            self._near.add(signature)
        self._hashes.add(key)
        return "new"
