"""The final subset's members: drawn, put into training order, and written as rows that are never all in memory.

Memory follows the number of chunks drawn, not the number of candidates: about 100 bytes for each while they are drawn
and ordered (perplexity, length, key, position, and the orders' work), none for their names, which DuckDB joins.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ppl_assets.lake import Snapshot
from ppl_assets.regimes.design import subset_hash
from ppl_assets.regimes.distribution import IntArray
from ppl_assets.regimes.documents import Documents
from ppl_assets.regimes.drawn import Drawn, Target
from ppl_assets.regimes.ordering import prefix_order
from ppl_assets.regimes.pool import BATCH_ROWS, StoredPool
from ppl_assets.subset.selection import BY_RANK, SelectionOptions, select, select_documents
from ppl_assets.subset.target import ChosenTarget
from ppl_assets.tables import CHUNKS

_PICKED = """
FROM read_parquet($picks) AS k
JOIN read_parquet($pool, file_row_number => true) AS p ON p.file_row_number = k.row_number
LEFT JOIN {chunks} AS c ON c.chunk_id = p.chunk_id AND c.corpus = p.corpus
"""

_MEMBERS = f"""
SELECT $selection_id AS selection_id, k.rank, p.chunk_id, p.corpus, c.doc_id, c.source, p.n_tokens, p.ppl,
       $scorer_id AS scorer_id
{_PICKED} ORDER BY k.rank
"""

_ORIGIN = f"""
SELECT format('{{{{:x}}}}', bit_xor(md5_number(concat_ws(chr(31), k.rank, p.corpus, c.doc_id, c.source)))) AS origin
{_PICKED}
"""
"""One number of all rows, whatever order they come in: each is hashed with its rank."""


@dataclass(frozen=True)
class OrderedMembers:
    """A drawn subset and its training order.

    Attributes:
        drawn: what was drawn and what it reached.
        index: int64 [n], row numbers in the pool, in training order.
        subset_hash: of the chunks' keys in this order.
    """

    drawn: Drawn
    index: IntArray
    subset_hash: str


def draw_members(
    pool: StoredPool,
    target: Target,
    seed: int,
    prefixes: list[int],
    options: SelectionOptions,
    documents: Documents | None = None,
) -> OrderedMembers:
    """Draw the selected subset and order it like a trial's: every prefix has the whole's moments.

    Args:
        pool: all candidates.
        target: moments and token budget.
        seed: any integer.
        prefixes: token counts that will be measured.
        options: method and objective.
        documents: the pool's documents where these are selected whole; their order is that of the draw.
    """
    if documents is not None:
        drawn = select_documents(_name(options), documents, target, seed=seed)
        return OrderedMembers(drawn, drawn.index, subset_hash(drawn.members.key))
    drawn = select("selected", pool.candidates, target, seed=seed, options=options)
    order, _ = prefix_order(drawn.members.ppl, drawn.members.tokens, seed=seed, prefixes=prefixes)
    return OrderedMembers(drawn, drawn.index[order], subset_hash(drawn.members.key[order]))


def _name(options: SelectionOptions) -> str:
    return options.method if options.method in BY_RANK else "selected"


def target_by_rank(
    pool: StoredPool, tokens: int, seed: int, options: SelectionOptions, documents: Documents | None = None
) -> ChosenTarget:
    """The moments that a method without a target will have: it is drawn once to know them."""
    anything = Target(1.0, 1.0, tokens)
    if documents is not None:
        drawn = select_documents(_name(options), documents, anything, seed=seed)
    else:
        drawn = select("selected", pool.candidates, anything, seed=seed, options=options)
    reason = f"{BY_RANK[options.method]} (selection.method = '{options.method}'): no law and no target is followed."
    return ChosenTarget(drawn.mu, drawn.sigma, reason)


def member_batches(
    snapshot: Snapshot, pool: StoredPool, index: IntArray, selection_id: str, scorer_id: str
) -> Iterator[pa.RecordBatch]:
    """Rows of ``final_subset`` in training order.

    Args:
        snapshot: where the chunks' documents and files are looked up.
        pool: the pool that was drawn from.
        index: row numbers in it, in training order.
        selection_id: of the selection.
        scorer_id: of the scorer that measured the perplexities.
    """
    with _picks(pool, index) as files:
        names = {"selection_id": selection_id, "scorer_id": scorer_id, **files}
        yield from snapshot.stream(_MEMBERS, (CHUNKS,), names, batch_rows=BATCH_ROWS)


def origin_of(snapshot: Snapshot, pool: StoredPool, index: IntArray) -> str:
    """Fingerprint of where each member comes from: its corpus, document and file, as an export names them.

    The same chunks of a corpus or file that was renamed are another export.
    """
    with _picks(pool, index) as files:
        return str(snapshot.query(_ORIGIN, (CHUNKS,), files)["origin"].item())


@contextmanager
def _picks(pool: StoredPool, index: IntArray) -> Iterator[dict[str, str]]:
    """The members' row numbers as a file beside the pool's; the paths of both, as the queries name them."""
    with tempfile.TemporaryDirectory(prefix="picks-", dir=pool.names.parent) as place:
        picks = Path(place) / "picks.parquet"
        pq.write_table(pa.table({"rank": np.arange(index.size), "row_number": index}), picks)
        yield {"picks": str(picks), "pool": str(pool.names)}
