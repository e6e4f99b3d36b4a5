"""Quotas: whole numbers beside the expected ones."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ppl_assets.regimes.quotas import quotas_of


@settings(max_examples=200, deadline=None)
@given(
    arrays(np.int64, st.integers(1, 30), elements=st.integers(1, 100)),
    st.floats(0, 1),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 2**32 - 1),
)
def test_quotas_follow_the_expected_numbers_and_never_exceed_a_stratum(
    sizes: np.ndarray, full: float, offset: float, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    share = np.where(draw.random(sizes.size) < full, 1.0, draw.random(sizes.size))
    expected = sizes * share
    quotas = quotas_of(expected, sizes.astype(float), offset=offset)
    assert (quotas >= 0).all()
    assert (quotas <= sizes).all()
    assert (np.abs(quotas[:-1] - expected[:-1]) <= 1 + 1e-6).all()
    assert abs(quotas.sum() - expected.sum()) <= 2
