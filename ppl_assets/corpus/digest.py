"""A digest of many rows that does not depend on their order: constant memory, no sorting."""

from collections.abc import Iterable

import xxhash

from ppl_assets.fingerprint import fingerprint


class UnorderedDigest:
    """A 128-bit digest of a multiset of strings: the sum of their hashes modulo 2^128, with their number.

    A sum, not an exclusive or: the same row twice must not cancel out (Clarke et al., Incremental multiset hash
    functions, ASIACRYPT 2003, section 5). The hash is xxh3, so this tells changed rows apart, not forged ones.
    """

    def __init__(self) -> None:
        self._sum = 0
        self._count = 0

    def update(self, rows: Iterable[str]) -> None:
        """Take more rows in, in any order."""
        for row in rows:
            self._sum = (self._sum + xxhash.xxh3_128_intdigest(row.encode())) % 2**128
            self._count += 1

    def hexdigest(self) -> str:
        """32 hexadecimal digits."""
        return fingerprint(f"{self._sum:032x}", self._count)
