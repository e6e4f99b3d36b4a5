"""The variable-length kernel's call, with a kernel written out by us in its place: CPU has none."""

from types import SimpleNamespace

import pytest
import torch

from ppl_assets.perplexity import attention

LENGTHS = [29, 3, 1, 16]


def written_out(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1), **given):
    """torch's ``varlen_attn`` [tokens, heads, size] by its documentation: places to the left and right are seen."""
    assert torch.equal(cu_seq_q, cu_seq_k)
    assert (max_q, max_k, given.pop("enable_gqa", False)) == (
        max(LENGTHS),
        max(LENGTHS),
        query.shape[1] != key.shape[1],
    )
    assert not given
    groups, out = query.shape[1] // key.shape[1], torch.empty_like(query)
    for low, high in zip(cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist(), strict=True):
        q, k, v = (x[low:high].transpose(0, 1) for x in (query, key, value))
        places = torch.arange(high - low)
        away = places[:, None] - places[None]  # how far to the left
        left = high if window_size[0] < 0 else window_size[0]
        seen = (away <= left) & (away >= -window_size[1])
        products = q @ k.repeat_interleave(groups, 0).transpose(1, 2) * scale
        weights = products.masked_fill(~seen, -torch.inf).softmax(-1)
        out[low:high] = (weights @ v.repeat_interleave(groups, 0)).transpose(0, 1)
    return out


def of_torch(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1), enable_gqa=False
):
    return written_out(
        query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale=scale, window_size=window_size, enable_gqa=enable_gqa
    )


@pytest.mark.parametrize("window", [0, 1, 4, 16])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_the_kernel_is_given_windows_groups_and_scale_as_it_means_them(window, key_heads, monkeypatch):
    monkeypatch.setattr(attention, "varlen", SimpleNamespace(varlen_attn=of_torch))
    attention._varlen_parameters.cache_clear()
    torch.manual_seed(0)
    total = sum(LENGTHS)
    query = torch.randn(1, 4, total, 8)
    key, value = torch.randn(2, 1, key_heads, total, 8)
    starts = torch.tensor([0, *LENGTHS]).cumsum(0).to(torch.int32)
    kernel = attention._varlen(query, key, value, starts, max(LENGTHS), 0.3, window)
    attention._varlen_parameters.cache_clear()
    plain = attention._attend(query, key, value, starts, 0.3, window, 0.0, True, 0.0)
    torch.testing.assert_close(kernel, plain, rtol=1e-5, atol=1e-6)
