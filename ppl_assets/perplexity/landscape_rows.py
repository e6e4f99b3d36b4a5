"""From scored chunks to rows of ``perplexity_landscape`` and ``landscape_histogram``."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from ppl_assets.errors import UserError
from ppl_assets.perplexity.landscape import histogram, moments, noise_fence
from ppl_assets.tables import LANDSCAPE_HISTOGRAM, PERPLEXITY_LANDSCAPE

ROUNDING = 1e-9
"""Equal perplexities have a fence without width; rounding must not put them outside it."""


class LandscapeError(UserError, ValueError):
    """There is nothing to draw a landscape of; the message says why."""


@dataclass(frozen=True)
class LandscapeRows:
    """Both tables of the landscape."""

    landscape: pl.DataFrame
    histogram: pl.DataFrame


def landscape_rows(scored: Mapping[str, pl.DataFrame], scorer_id: str, fence_mads: float, bins: int) -> LandscapeRows:
    """Moments, quantiles and histogram of every scope, noise set aside by the candidates' fence.

    Args:
        scored: scope to its chunks (columns of ``candidates.scored_chunks``); the scope ``candidates`` sets the fence.
        scorer_id: scorer of these figures.
        fence_mads: width of the fence in scaled median absolute deviations.
        bins: histogram bins.

    Raises:
        LandscapeError: no candidate chunk has a score.
    """
    candidates = scored["candidates"].filter(pl.col("status") == "ok")
    if candidates.is_empty():
        raise LandscapeError(
            "no candidate chunk has a score; look at cleaning_counts for what happened to the documents, "
            "and lower chunks.tokens where documents are shorter than a chunk"
        )
    low, high = (float(np.exp(edge)) for edge in noise_fence(candidates["log_ppl"].to_numpy(), fence_mads))
    low, high = low * (1 - ROUNDING), high * (1 + ROUNDING)
    rows, bars = [], []
    for scope, chunks in scored.items():
        ok = chunks.filter(pl.col("status") == "ok")
        inside = ok.filter(pl.col("ppl").is_between(low, high))
        if inside.is_empty():
            continue
        rows.append(_landscape_row(scope, scorer_id, chunks, ok, inside) | {"fence_low": low, "fence_high": high})
        drawn = histogram(ok["log_ppl"].to_numpy(), ok["n_tokens"].to_numpy(), bins)
        bars.append(
            pl.DataFrame(
                {
                    "scope": [scope] * bins,
                    "log_low": drawn.edges[:-1],
                    "log_high": drawn.edges[1:],
                    "chunks": drawn.chunks,
                    "tokens": drawn.tokens,
                }
            )
        )
    schema = pl.Schema(PERPLEXITY_LANDSCAPE.schema)
    return LandscapeRows(pl.DataFrame(rows, schema=schema), pl.concat(bars).cast(pl.Schema(LANDSCAPE_HISTOGRAM.schema)))


def _landscape_row(
    scope: str, scorer_id: str, chunks: pl.DataFrame, ok: pl.DataFrame, inside: pl.DataFrame
) -> dict[str, object]:
    found = moments(inside["ppl"].to_numpy())
    return {
        "scope": scope,
        "scorer_id": scorer_id,
        "chunks": inside.height,
        "tokens": int(inside["n_tokens"].sum()),
        "noise_chunks": ok.height - inside.height,
        "unscored_chunks": chunks.height - ok.height,
        "duplicate_chunks": int((chunks["copies"] - 1).sum()),
        "mean": found.mean,
        "variance": found.variance,
        "deviation": found.deviation,
        "log_mean": found.log_mean,
        "log_deviation": found.log_deviation,
        "quantiles": found.quantiles.tolist(),
    }
