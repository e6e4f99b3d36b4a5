"""A token budget for a corpus: which chunks stay where there is more text than one wants to score.

The chunks with the lowest ids stay. Ids are hashes, so this is a random sample of chunks that does not depend on their
order, and that changes little when the corpus grows.
"""

import heapq
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc


def last_kept_id(chunks: Iterable[tuple[str, int]], max_tokens: int) -> str:
    """The highest chunk id that still fits the budget; memory follows the budget, not the corpus.

    Args:
        chunks: id and tokens of each candidate chunk.
        max_tokens: budget; at least one chunk stays.
    """
    kept: list[tuple[int, str, int]] = []  # a heap, the highest id first
    total, first_dropped = 0, "g"  # above every hexadecimal id
    for chunk_id, tokens in chunks:
        if chunk_id >= first_dropped:
            continue
        heapq.heappush(kept, (-int(chunk_id, 16), chunk_id, tokens))
        total += tokens
        while total > max_tokens and len(kept) > 1:
            _, first_dropped, dropped_tokens = heapq.heappop(kept)
            total -= dropped_tokens
    return kept[0][1] if kept else ""


def within_budget(batches: Iterable[pa.RecordBatch], last_id: str) -> Iterator[pa.RecordBatch]:
    """The batches without candidate chunks whose id is above ``last_id``; test and general chunks all stay."""
    for batch in batches:
        is_candidate = pc.equal(batch["split"], "candidate")
        stays = pc.or_(pc.invert(is_candidate), pc.less_equal(batch["chunk_id"], last_id))
        yield batch.filter(stays)
