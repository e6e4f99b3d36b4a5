"""Fingerprints: equal inputs have equal ones, on every machine and in every process."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any


def fingerprint(*parts: Any) -> str:
    """A 128-bit hexadecimal digest of JSON-like values (strings, numbers, lists, dictionaries, None)."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def fingerprint_of_rows(rows: Iterable[Any]) -> str:
    """A digest of many values, taken in order without holding them."""
    digest = hashlib.blake2b(digest_size=16)
    for row in rows:
        digest.update(json.dumps(row, ensure_ascii=False, default=str).encode())
        digest.update(b"\n")
    return digest.hexdigest()
