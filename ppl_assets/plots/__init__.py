"""Charts of the report: pure functions from tables to PNG bytes, each in a page and a small size.

They draw on matplotlib's Agg canvas without pyplot; the look is in ``style``.
"""

from ppl_assets.plots.curves import CURVE_COLUMNS, NO_CURVES, RESIDUAL_COLUMNS, loss_curves, residuals
from ppl_assets.plots.design import trial_design
from ppl_assets.plots.grid import LawSurface, SurfaceByTokens
from ppl_assets.plots.landscape import chunk_histogram, landscape
from ppl_assets.plots.strategies import base_losses, final_losses, strategies
from ppl_assets.plots.style import Size, as_markdown, perplexity_text, words
from ppl_assets.plots.surface import law_surface

__all__ = [
    "CURVE_COLUMNS",
    "NO_CURVES",
    "RESIDUAL_COLUMNS",
    "LawSurface",
    "Size",
    "SurfaceByTokens",
    "as_markdown",
    "base_losses",
    "chunk_histogram",
    "final_losses",
    "landscape",
    "law_surface",
    "loss_curves",
    "perplexity_text",
    "residuals",
    "strategies",
    "trial_design",
    "words",
]
