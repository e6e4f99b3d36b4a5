"""Where the loss still falls beyond an optimum on the edge, and the trial that would settle it."""

import numpy as np

from ppl_assets.law.fit import LawFit
from ppl_assets.law.region import SearchRegion, Slopes


def beyond(law: LawFit, region: SearchRegion, u: float, v: float) -> tuple[str, tuple[float, float] | None]:
    """Side toward which the loss falls at (ln mu, ln sigma), in words, and the (mu, sigma) of a trial beyond it.

    The trial lies outside the hull of the trials and inside what the corpus can give; None where no place does.
    """
    slope = Slopes.at(law.form, np.array([u]), np.array([v]), law.sigma_kind).gradient(law.surface_coefficients)[0]
    length = float(np.hypot(*slope))
    if length == 0:
        return "", None
    direction = slope / length
    words = [
        f"{'higher' if direction[0] > 0 else 'lower'} mean perplexity" if abs(direction[0]) > 0.38 else "",
        f"{'more' if direction[1] > 0 else 'less'} spread" if abs(direction[1]) > 0.38 else "",
    ]
    side = "toward " + " and ".join(word for word in words if word)
    span = 0.25 * np.hypot(*(region.step * 60))
    for part in (1.0, 0.5, 0.25):
        mu, sigma = np.exp(u + part * span * direction[0]), np.exp(v + part * span * direction[1])
        reachable = bool(np.asarray(region.inside(np.array([mu]), np.array([sigma])))[0])
        if reachable and not region.covered(np.array([mu]), np.array([sigma]))[0]:
            return side, (float(mu), float(sigma))
    return side, None
