"""Rows and a description to export, with only what a test is about given by it."""

from dataclasses import replace

import pyarrow as pa

from ppl_assets.subset.card import Description, Moments, Source
from ppl_assets.subset.shards import SCHEMA

SOURCES = [Source("docs", "cc-by-4.0", ["docs"]), Source("code", "", ["code-000", "code-001"])]


def batch(texts: list[str], start: int = 0, *, tokens: int = 4, corpus: str = "docs") -> pa.RecordBatch:
    """One chunk a text, ``tokens`` each."""
    rows = [
        {
            "rank": start + place,
            "chunk_id": f"c{start + place}",
            "doc_id": "d",
            "corpus": corpus,
            "source": "a b/ü.txt",
            "text": text,
            "n_tokens": tokens,
            "ppl": 1.5,
        }
        for place, text in enumerate(texts)
    ]
    return pa.RecordBatch.from_pylist(rows, schema=SCHEMA)


def description(**changes: object) -> Description:
    """A selection from two corpora, one of them in two buckets and without a licence."""
    told = Description(
        study={"study": {"name": "tiny"}, "selection": {"method": "tilt"}, "chunks": {"tokens": 4}},
        lake_snapshot=41,
        run_id="run-1",
        inputs="abc",
        scorer_id="5c0",
        scorer={"first_token": "bos", "window_tokens": 4, "dtype": "float32", "attention": "sdpa"},
        base_model={
            "source": "HuggingFaceTB/SmolLM2-135M",
            "revision": "main",
            "model_id": "m0",
            "weights_fingerprint": "w0",
        },
        target=Moments(10.0, 3.0),
        reached=Moments(10.01, 2.99),
        token_budget=24,
        seed=7,
        message="The target was reached to 0.1 %.",
        sources=SOURCES,
    )
    return replace(told, **changes)
