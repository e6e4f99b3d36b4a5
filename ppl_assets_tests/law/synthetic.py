"""Trials with a known law: a 3 x 3 grid of regimes, four centres, seven token counts."""

import numpy as np

from ppl_assets.law.forms import FORMS, LINKS, LinkName, design
from ppl_assets.law.observations import FloatArray, Observations

GRID = [(mu, sigma) for mu in (100.0, 200.0, 400.0) for sigma in (50.0, 110.0, 250.0)]
CENTRES = [(200.0, 110.0)] * 3
TOKENS = np.geomspace(4e3, 64e3, 7)
BASE_LOSS = 5.0

TRUTHS: dict[str, tuple[str, LinkName, float, list[float]]] = {
    # Built so that A = -b1 mu ln s and B = -a1 s ln mu hold at (200, 100): a bowl of the paper's form.
    "paper bowl": ("paper", "paper", 3.0, [14.8, 1.5816, -0.002, 1.3597, -0.0015, 0.3]),
    "scale-free edge": ("scale_free", "anchored", 3.5, [-6.0, 0.3, -0.001, 0.4, -0.001, 0.001, 0.001, 0.5]),
    "quadratic bowl": ("quadratic", "anchored", 3.5, [-24.5, 4.8, 3.5, -0.6, 0.25, -0.5, 0.5]),
    "quadratic bowl, paper's link": ("quadratic", "paper", 3.5, [25.0, 5.5, 3.5, -0.6, 0.2, -0.5, 0.4]),
    "edge": ("no_interaction", "anchored", 3.5, [-2.0, -0.3, -0.2, 0.5]),
    # 0.4 (u - ln 200)(v - ln 110), expanded.
    "saddle": ("quadratic", "anchored", 3.5, [-5.2 + 9.962, -1.880, -2.119, 0.0, 0.4, 0.0, 0.5]),
    "nothing": ("d_only", "anchored", 3.5, [-5.2, 0.5]),
}


def truth(name: str, mu: FloatArray, sigma: FloatArray, tokens: FloatArray) -> FloatArray:
    form, link, floor, coefficients = TRUTHS[name]
    y = design(FORMS[form], LINKS[link], mu, sigma, tokens, "deviation") @ np.array(coefficients)
    return LINKS[link].loss(y, np.array(floor), BASE_LOSS)


def trials(
    name: str,
    run_noise: float = 0.0,
    point_noise: float = 0.0,
    seed: int = 0,
    regimes: list[tuple[float, float]] | None = None,
    base_loss: float | None = None,
) -> Observations:
    """Noise is relative; a run's noise is shared by its points."""
    rng = np.random.default_rng(seed)
    places = np.array(GRID + CENTRES if regimes is None else regimes)
    mu, sigma = np.repeat(places, len(TOKENS), axis=0).T
    run = np.repeat(np.arange(len(places)), len(TOKENS))
    tokens = np.tile(TOKENS, len(places))
    loss = truth(name, mu, sigma, tokens)
    loss = loss * np.exp(
        run_noise * rng.standard_normal(len(places))[run] + point_noise * rng.standard_normal(len(run))
    )
    regime = np.array([f"{m:g}-{s:g}" for m, s in zip(mu, sigma, strict=True)])
    highest = BASE_LOSS if TRUTHS[name][1] == "anchored" else 1.01 * float(loss.max())
    return Observations(mu, sigma, tokens, loss, run, highest if base_loss is None else base_loss, regime)
