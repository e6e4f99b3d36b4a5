"""How far the optimum may move when the form itself is in doubt.

A form's refits know only that form: its intervals, its bound on regret and its set of places that cannot be told from
the optimum are conditional on it. Here the forms that predict as well are taken together.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ppl_assets.law.optimum import Optimum
from ppl_assets.law.uncertainty import Interval


@dataclass(frozen=True)
class AcrossForms:
    """The union of what several forms say of the optimum; no level is claimed for it.

    Attributes:
        forms: their names, the chosen one first.
        mu: least lower and greatest upper end of their intervals of the mean perplexity.
        sigma: the same of the standard deviation.
        equal_share: share of the region that at least one of them cannot tell from its optimum.
    """

    forms: tuple[str, ...]
    mu: Interval
    sigma: Interval
    equal_share: float


def across_forms(optima: Mapping[str, Optimum]) -> AcrossForms | None:
    """Take the optima of several forms together, by name, the chosen one first; None where that one has no refits.

    All are searched in one region. A form without refits, or whose optimum was refused, adds nothing.
    """
    known = {name: best for name, best in optima.items() if best.equals is not None}
    if not known or next(iter(known)) != next(iter(optima)):
        return None
    masks = [best.equals.mask for best in known.values() if best.equals is not None]
    return AcrossForms(
        tuple(known),
        _union([best.mu_interval for best in known.values()]),
        _union([best.sigma_interval for best in known.values()]),
        float(np.any(masks, axis=0).mean()),
    )


def across_sentence(forms: str, mu: Interval, sigma: Interval, equal_share: float) -> str:
    """The union in plain words."""
    number = forms.count(";") + 1
    which = "No other form predicts as well" if number == 1 else f"{number} forms predict as well ({forms})"
    return (
        f"{which}: the optimum lies at mean perplexity {mu[0]:.4g} to {mu[1]:.4g} and standard deviation "
        f"{sigma[0]:.4g} to {sigma[1]:.4g}, and {100 * equal_share:.0f} % of the region searched cannot be told from "
        "it. Intervals of the chosen form alone assume that it is the true one."
    )


def _union(intervals: list[Interval]) -> Interval:
    return min(low for low, _ in intervals), max(high for _, high in intervals)
