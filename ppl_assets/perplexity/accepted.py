"""Which chunks a scorer accepts."""

from collections.abc import Sequence

import numpy as np

from ppl_assets.errors import UserError
from ppl_assets.perplexity.policy import ScorePolicy


class ScoringError(UserError, ValueError):
    """A chunk cannot be scored under the policy; nothing was scored."""


def check_chunks(chunks: Sequence[np.ndarray], policy: ScorePolicy, context_length: int, vocabulary: int) -> None:
    """Refuse chunks that cannot be scored; all are looked at at once, since a GPU waits meanwhile.

    Args:
        chunks: int32 [n_i] each, token ids without any prefix.
        policy: the score policy.
        context_length: places that the model has.
        vocabulary: its ids are 0 to this less one.

    Raises:
        ScoringError: a chunk is longer than the window or context, starts with the prefix itself, or holds something
            else than integers, or an id outside the vocabulary.
    """
    for number, chunk in enumerate(chunks):
        if len(chunk) and not np.issubdtype(chunk.dtype, np.integer):
            raise ScoringError(f"chunk {number} holds {chunk.dtype} values; token ids are integers, give int32")
    prefix = policy.prefix_id
    lengths = np.array([len(chunk) for chunk in chunks], dtype=np.int64)
    fed = lengths - (prefix is None)  # the last token is predicted, not fed
    for number in np.flatnonzero((lengths > policy.window_tokens) | (fed > context_length))[:1]:
        raise ScoringError(
            f"chunk {number} has {lengths[number]} tokens; the window is {policy.window_tokens} and the "
            f"model's context {context_length}, prefix included: cut shorter chunks"
        )
    if not lengths.sum():
        return
    tokens, ends = np.concatenate(chunks), lengths.cumsum()
    first = np.where(lengths > 0, tokens[np.minimum(ends - lengths, len(tokens) - 1)], -1)
    if prefix is not None and (first == prefix).any():
        raise ScoringError(
            f"chunk {int(np.argmax(first == prefix))} starts with token {prefix}, the {policy.first_token} "
            "prefix that the scorer adds itself; encode text with add_special_tokens=False"
        )
    outside = (tokens < 0) | (tokens >= vocabulary)
    if outside.any():
        number = int(np.searchsorted(ends, np.argmax(outside), side="right"))
        raise ScoringError(f"chunk {number} holds ids outside 0 to {vocabulary - 1}; use the model's tokenizer")
