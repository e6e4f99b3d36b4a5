from hypothesis import given
from hypothesis import strategies as st

from ppl_assets.corpus.digest import UnorderedDigest


def digest(*parts):
    made = UnorderedDigest()
    for part in parts:
        made.update(part)
    return made.hexdigest()


@given(st.lists(st.text(max_size=5)), st.randoms(), st.integers(0, 20))
def test_order_and_batches_do_not_matter(rows, draw, cut):
    shuffled = draw.sample(rows, len(rows))
    assert digest(shuffled[:cut], shuffled[cut:]) == digest(rows)


@given(st.lists(st.text(max_size=3), max_size=6), st.lists(st.text(max_size=3), max_size=6))
def test_other_rows_have_another_digest(left, right):
    assert (digest(left) == digest(right)) == (sorted(left) == sorted(right))


def test_a_row_that_comes_twice_does_not_cancel_out():
    assert len({digest([]), digest(["a"]), digest(["a", "a"]), digest(["a", "a", "a"])}) == 4
