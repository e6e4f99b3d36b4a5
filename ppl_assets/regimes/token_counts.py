"""At how many tokens a run is measured and branches, and which chunks that is: the design orders by it."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ppl_assets.errors import UserError


class TokenCountError(UserError, ValueError):
    """A run is too short for the measurements asked for."""


def measured_token_counts(tokens: int, batch_tokens: int, span: float, points: int) -> list[int]:
    """Token counts at which a run is measured: log-spaced over at least ``span``, whole steps, the last = ``tokens``.

    Where steps are too coarse to tell two counts apart they are one, so there may be fewer than ``points``.

    Args:
        tokens: tokens of the run.
        batch_tokens: tokens a step.
        span: largest over smallest count.
        points: counts wanted.

    Raises:
        TokenCountError: several counts are asked for and the run has fewer steps than ``span``.
    """
    steps = tokens / batch_tokens
    if points > 1 and steps < span:
        raise TokenCountError(
            f"tokens = {tokens} are {steps:.1f} steps of {batch_tokens}; a span of {span:g} needs "
            f"that many: raise tokens to {math.ceil(span * batch_tokens)}, or lower batch_tokens or span"
        )
    first = max(1, math.floor(steps / span))
    counts = {round(step) * batch_tokens for step in np.geomspace(first, steps, points)[:-1]}
    return [*sorted(count for count in counts if count < tokens), tokens]


def chunks_reaching(tokens: ArrayLike, counts: ArrayLike) -> NDArray[np.int64]:
    """Chunks that a run has seen when it is measured at each count: the one that reaches it is the last of them.

    Args:
        tokens: int [n], lengths in training order.
        counts: int [m], token counts; beyond the end, all chunks.

    Returns:
        int64 [m], between 1 and n.
    """
    reached = np.cumsum(tokens)
    return np.searchsorted(reached, np.minimum(np.asarray(counts), reached[-1]), side="left").astype(np.int64) + 1


def branch_token_counts(counts: Sequence[int], total: int, branches: int, share: float) -> list[int]:
    """The largest measured counts after which ``total`` tokens leave enough for a decay branch.

    Args:
        counts: measured token counts, ascending.
        total: tokens of the run.
        branches: branches wanted.
        share: length of a branch, as a share of the tokens before it.
    """
    room = [count for count in counts if count * (1.0 + share) <= total]
    return room[-branches:] if branches else []
