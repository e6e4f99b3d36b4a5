"""The fitted law on a grid over mean and deviation of perplexity, with the colours and levels that it is drawn in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.colors import LinearSegmentedColormap

LEVELS = 9


@dataclass(frozen=True)
class LawSurface:
    """Predicted loss on a grid, at one token count.

    Attributes:
        mu: [m] mean perplexity, increasing and positive.
        sigma: [s] standard deviation of perplexity, increasing and positive.
        loss: [s, m] predicted test loss, nats a token; nan where the law is not asked.
        hull: [k, 2] corners (mu, sigma) of the region searched: the hull of the trials, k >= 3.
        tokens: the token count D of the prediction.
        form: name of the form, for the caption.
    """

    mu: NDArray[np.float64]
    sigma: NDArray[np.float64]
    loss: NDArray[np.float64]
    hull: NDArray[np.float64]
    tokens: int
    form: str

    def __post_init__(self) -> None:
        """Refuse a grid that cannot be drawn.

        Raises:
            ValueError: no loss is finite, or the shape does not fit the axes.
        """
        if self.loss.shape != (len(self.sigma), len(self.mu)) or not np.isfinite(self.loss).any():
            raise ValueError(
                f"loss of shape {self.loss.shape} is not a finite grid of {len(self.sigma)} deviations "
                f"by {len(self.mu)} means; give predictions on the grid"
            )


@dataclass(frozen=True)
class SurfaceByTokens:
    """Predicted loss with its interval on one grid, at several token counts.

    Attributes:
        mu: [m] mean perplexity, increasing and positive.
        sigma: [s] standard deviation of perplexity, increasing and positive.
        tokens: [T] token counts D.
        loss: [T, s, m] predicted test loss, nats a token.
        low: [T, s, m] lower end of its interval; nan where there is none.
        high: [T, s, m] upper end.
        hull: [k, 2] corners (mu, sigma) of the hull of the trials, k >= 3.
    """

    mu: NDArray[np.float64]
    sigma: NDArray[np.float64]
    tokens: tuple[int, ...]
    loss: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    hull: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Refuse a stack that cannot be drawn.

        Raises:
            ValueError: no token count, or shapes that do not fit the axes.
        """
        shape = (len(self.tokens), len(self.sigma), len(self.mu))
        if not self.tokens or {self.loss.shape, self.low.shape, self.high.shape} != {shape}:
            raise ValueError(
                f"losses of shapes {self.loss.shape}, {self.low.shape} and {self.high.shape} are not layers of "
                f"{len(self.tokens)} token counts, {len(self.sigma)} deviations and {len(self.mu)} means"
            )

    @property
    def inside(self) -> NDArray[np.bool_]:
        """[s, m] whether a grid point lies in the hull."""
        return in_hull(self.hull, self.mu, self.sigma)


@lru_cache(maxsize=1)
def palette() -> LinearSegmentedColormap:
    """The surface's colours from the least loss to the greatest."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("loss", ["#3f86b5", "#8ab8d4", "#c5dbe7", "#ebf1f4", "#fbf7f0"])


def shades(number: int) -> list[str]:
    """So many colours of the palette, as hexadecimal texts."""
    from matplotlib.colors import to_hex

    return [to_hex(color) for color in palette()(np.linspace(0.0, 1.0, number))]


def loss_levels(loss: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round losses for contours, from below the least to above the greatest."""
    from matplotlib.ticker import MaxNLocator

    low, high = float(loss.min()), float(loss.max())
    return np.asarray(MaxNLocator(LEVELS).tick_values(low, max(high, low + 1e-9)))


def in_hull(hull: NDArray[np.float64], mu: NDArray[np.float64], sigma: NDArray[np.float64]) -> NDArray[np.bool_]:
    """[s, m] whether a grid point lies in the hull, on logarithmic axes."""
    from matplotlib.patches import Polygon

    across, up = np.meshgrid(np.log(mu), np.log(sigma))
    path = Polygon(np.log(hull), closed=True).get_path()
    inside: NDArray[np.bool_] = path.contains_points(np.column_stack([across.ravel(), up.ravel()]))
    return inside.reshape(across.shape)
