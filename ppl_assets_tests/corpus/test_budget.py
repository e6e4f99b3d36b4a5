import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from ppl_assets.corpus.budget import last_kept_id, within_budget

CHUNKS = st.lists(
    st.tuples(st.integers(0, 2**128 - 1).map(lambda n: f"{n:032x}"), st.integers(1, 50)),
    unique_by=lambda c: c[0],
    min_size=1,
)


@given(CHUNKS, st.integers(1, 500), st.randoms())
def test_the_lowest_ids_that_fit_stay_whatever_the_order(chunks, budget, draw):
    shuffled = draw.sample(chunks, len(chunks))
    last = last_kept_id(shuffled, budget)
    kept = [tokens for chunk_id, tokens in chunks if chunk_id <= last]
    assert sum(kept) <= budget or len(kept) == 1
    above = sorted(chunk for chunk in chunks if chunk[0] > last)
    assert not above or sum(kept) + above[0][1] > budget
    assert last == last_kept_id(chunks, budget)


def test_held_out_chunks_stay_whatever_their_id():
    batch = pa.record_batch({"chunk_id": ["a", "b", "c"], "split": ["candidate", "candidate", "test"]})
    (kept,) = within_budget([batch], "a")
    assert kept["chunk_id"].to_pylist() == ["a", "c"]
