"""Numbers as a reader of the report sees them; what is not known is a dash."""

import math

from ppl_assets import plots

MISSING = "\N{EN DASH}"
"""What stands in a cell whose value is not known."""


def number(value: float | None, decimals: int = 3) -> str:
    """A number with thousands separators, a real minus sign and fixed decimals; a dash where it is not known."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:,.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def perplexity(value: float | None) -> str:
    """A perplexity with three digits; a dash where it is not known."""
    return MISSING if value is None or not math.isfinite(value) else plots.perplexity_text(value)


def span(low: float | None, high: float | None, decimals: int = 3) -> str:
    """An interval as 'low to high'; says so where there is none."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return "no interval"
    return f"{number(low, decimals)} to {number(high, decimals)}"


def measure(value: float | None) -> str:
    """A measure of unknown size with four digits; a dash where it is not known."""
    return MISSING if value is None or not math.isfinite(value) else f"{value:.4g}".replace("-", "\N{MINUS SIGN}")


def short(value: float) -> str:
    """A figure of unknown size with three digits."""
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")
