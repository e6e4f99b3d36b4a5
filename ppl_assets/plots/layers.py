"""What the surface that answers to the pointer is made of.

Apart from ``live``, which draws it: that imports Bokeh, nearly a second, which only the report's page should cost.
"""

from dataclasses import dataclass
from typing import Any

NEAR = 0.05
"""Relative distance up to which a measurement counts as one at a layer's token count."""


@dataclass(frozen=True)
class Mark:
    """A named place on the surface.

    Attributes:
        name: optimum, selection, test set or corpus.
        mu: mean perplexity.
        sigma: standard deviation of perplexity, positive.
        note: what a reader should know beside it.
        cross: intervals of mu and of sigma, drawn as a cross; empty where there is none.
    """

    name: str
    mu: float
    sigma: float
    note: str = ""
    cross: tuple[tuple[float, float], tuple[float, float]] | None = None


@dataclass(frozen=True)
class Layer:
    """What the page needs to show one token count.

    Attributes:
        tokens: D.
        low: loss of the first colour, nats a token.
        high: loss of the last.
        measured: trials measured at this count.
    """

    tokens: int
    low: float
    high: float
    measured: int


@dataclass(frozen=True)
class LiveSurface:
    """The figure and its layers; of each layer's renderers, named ``cells-0``, ``lines-0``, ``trials-0``, one is seen.

    Attributes:
        item: what ``Bokeh.embed.embed_item`` takes.
        layers: token counts, rising.
        start: number of the layer seen first.
        marks: names of the places shown.
    """

    item: dict[str, Any]
    layers: tuple[Layer, ...]
    start: int
    marks: tuple[str, ...]
