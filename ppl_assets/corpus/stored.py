"""Test and general documents read back from the lake."""

from collections.abc import Iterator, Mapping

import polars as pl

from ppl_assets.corpus.held_out import TestDocument, TestSet
from ppl_assets.lake import LakeError, Snapshot
from ppl_assets.study import Study
from ppl_assets.tables import TEST_DOCUMENTS


def stored_rows(snapshot: Snapshot, columns: list[str], where: Mapping[str, str] | None = None) -> pl.DataFrame:
    """Columns of ``TEST_DOCUMENTS``.

    Raises:
        LakeError: there is no such row; an empty test set would guard nothing.
    """
    rows = snapshot.read(TEST_DOCUMENTS, columns, where)
    if rows.is_empty():
        raise LakeError("table test_documents has no row where some are needed; materialize test_documents first")
    return rows


def stored_documents(snapshot: Snapshot, where: Mapping[str, str] | None = None) -> Iterator[TestDocument]:
    """The stored documents, without signatures; errors as in :func:`stored_rows`."""
    rows = stored_rows(snapshot, ["doc_id", "corpus", "split", "text", "text_hash"], where)
    return (TestDocument(**row) for row in rows.iter_rows(named=True))


def stored_test_set(study: Study, snapshot: Snapshot) -> TestSet:
    """The test and general documents of the lake, ready to be kept out of candidates."""
    return TestSet.of(stored_documents(snapshot), study)
