"""The landscape: how perplexity is distributed over chunks, with noise set aside first.

Belongs here: the fence, the moments, the histogram, on plain arrays. 0.1 % of junk chunks lifts the deviation of a
corpus from 9 to 61, and even a cut at the 99.9 % quantile can leave it in the thousands; so the fence follows the bulk
(median and median absolute deviation of log perplexity), not the tail.
"""

from dataclasses import dataclass

import numpy as np

QUANTILES = (0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 100)
"""Percentages at which quantiles are stored."""

MAD_TO_DEVIATION = 1.4826
"""Median absolute deviation to standard deviation, for a normal distribution."""


@dataclass(frozen=True)
class Moments:
    """Raw and log moments of chunk perplexity. Variances are of the population (divided by n).

    Attributes:
        chunks: how many counted.
        mean: mean perplexity (mu).
        variance: its variance.
        deviation: its standard deviation (sigma).
        log_mean: mean log perplexity, nats.
        log_deviation: standard deviation of log perplexity.
        quantiles: float64 [11], perplexity at :data:`QUANTILES`.
    """

    chunks: int
    mean: float
    variance: float
    deviation: float
    log_mean: float
    log_deviation: float
    quantiles: np.ndarray


@dataclass(frozen=True)
class Histogram:
    """Chunks and tokens in equal bins of log perplexity.

    Attributes:
        edges: float64 [bins + 1], log perplexity.
        chunks: int64 [bins].
        tokens: int64 [bins].
    """

    edges: np.ndarray
    chunks: np.ndarray
    tokens: np.ndarray


def _finite(values: np.ndarray, name: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0 or not np.isfinite(array).all():
        raise ValueError(
            f"{name} holds {array.size} values; give at least one and only finite ones (drop chunks without a score)"
        )
    return array


def noise_fence(log_ppl: np.ndarray, mads: float) -> tuple[float, float]:
    """Lowest and highest log perplexity that still count: median -+ mads * 1.4826 * MAD.

    Args:
        log_ppl: float64 [n], finite, nats a token.
        mads: width of the fence in deviations of a normal distribution.

    Raises:
        ValueError: nothing is given, or something that is not finite.
    """
    values = _finite(log_ppl, "log_ppl")
    middle = float(np.median(values))
    width = mads * MAD_TO_DEVIATION * float(np.median(np.abs(values - middle)))
    return middle - width, middle + width


def moments(ppl: np.ndarray) -> Moments:
    """Moments and quantiles of chunk perplexities, float64 [n], finite.

    Raises:
        ValueError: nothing is given, or something that is not finite.
    """
    values = _finite(ppl, "ppl")
    logs = np.log(values)
    variance = float(values.var())
    return Moments(
        chunks=len(values),
        mean=float(values.mean()),
        variance=variance,
        deviation=variance**0.5,
        log_mean=float(logs.mean()),
        log_deviation=float(logs.std()),
        quantiles=np.quantile(values, np.array(QUANTILES) / 100.0),
    )


def histogram(log_ppl: np.ndarray, tokens: np.ndarray, bins: int) -> Histogram:
    """Chunks and tokens in ``bins`` equal bins from the lowest to the highest log perplexity, both included.

    Args:
        log_ppl: float64 [n], finite.
        tokens: int64 [n].
        bins: number of bins.

    Raises:
        ValueError: nothing is given, or something that is not finite.
    """
    values = _finite(log_ppl, "log_ppl")
    edges = np.histogram_bin_edges(values, bins)
    place = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, bins - 1)
    weights = np.zeros(bins, dtype=np.int64)
    np.add.at(weights, place, np.asarray(tokens, dtype=np.int64))
    return Histogram(edges, np.bincount(place, minlength=bins).astype(np.int64), weights)
