"""Made-up laws with a known optimum inside the region, for simulated trials.

Each draws its own optimum and shape; all are scaled so that the loss varies by ``RANGE_PCT`` over the region at the
largest token count. With 0.3 % noise that is a signal of 13: enough to locate an optimum, with some dozens of points.
"""

from dataclasses import dataclass

import numpy as np

from ppl_assets.law.forms import FORMS, LINKS, LinkName
from ppl_assets.law.observations import FloatArray, Observations

LOW, HIGH = np.log([100.0, 50.0]), np.log([400.0, 250.0])
"""Corners of the region in (ln mu, ln sigma)."""

TOKENS = np.geomspace(4e3, 64e3, 6)
RANGE_PCT = 4.0
FLOOR, BASE_LOSS, BEST_LOSS = 3.2, 5.2, 4.2
EXPONENTS: dict[LinkName, float] = {"paper": 0.3, "anchored": 0.5}

FAMILIES: dict[str, tuple[str, LinkName]] = {
    "paper bowl": ("paper", "paper"),
    "scale-free": ("scale_free", "anchored"),
    "scale-free, paper link": ("scale_free", "paper"),
    "quadratic": ("quadratic", "anchored"),
    "quadratic, paper link": ("quadratic", "paper"),
    "outside the forms": ("outside", "anchored"),
}


@dataclass(frozen=True)
class Truth:
    """L = E + scale h(constant + strength * g + a ln D), its least loss at (mu, sigma)."""

    form: str
    link: LinkName
    coefficients: FloatArray
    mu: float
    sigma: float
    constant: float

    def loss(self, mu: FloatArray, sigma: FloatArray, tokens: FloatArray | float) -> FloatArray:
        """Test loss, shapes broadcast."""
        link = LINKS[self.link]
        g = _columns(self.form, np.asarray(mu, float), np.asarray(sigma, float)) @ self.coefficients
        y = self.constant + g + EXPONENTS[self.link] * np.log(tokens)
        return link.loss(y, np.asarray(FLOOR), BASE_LOSS)

    def regret_pct(self, mu: float, sigma: float) -> float:
        """Loss given away by a point at the largest token count, % of loss."""
        here, best = (
            float(self.loss(np.array(m), np.array(s), TOKENS[-1])) for m, s in ((mu, sigma), (self.mu, self.sigma))
        )
        return 100.0 * (here / best - 1.0)


def fine_grid(side: int = 121) -> tuple[FloatArray, FloatArray]:
    """mu and sigma [side * side] over the region."""
    u, v = np.meshgrid(*(np.linspace(low, high, side) for low, high in zip(LOW, HIGH, strict=True)), indexing="ij")
    return np.exp(u.ravel()), np.exp(v.ravel())


def draw_truth(family: str, rng: np.random.Generator) -> Truth:
    """One law of a family; drawn again until its stationary point is the least loss of the region."""
    form, link = FAMILIES[family]
    mu, sigma = fine_grid(41)
    while True:
        at = np.exp(LOW + (0.15 + 0.7 * rng.random(2)) * (HIGH - LOW))
        shape = _shape(form, at[0], at[1], rng)
        g = _columns(form, mu, sigma) @ shape
        top = float(_columns(form, at[:1], at[1:])[0] @ shape)
        if g.max() <= top + 1e-9 * np.ptp(g):
            return _scaled(form, link, shape, at, float(g.min()) - top)


def _columns(form: str, mu: FloatArray, sigma: FloatArray) -> FloatArray:
    """[..., k] columns of g; of ``outside``, which no fitted form holds, powers of log distances.

    Up to the fourth in x = ln(mu / 200) and y = ln(sigma / 112): a bowl steeper on one side than on the other.
    """
    if form != "outside":
        return FORMS[form].columns(mu, sigma)
    x, y = np.log(mu) - (LOW[0] + HIGH[0]) / 2, np.log(sigma) - (LOW[1] + HIGH[1]) / 2
    return np.stack([x, y, x * x, x * y, y * y, x**3, y**3, x**4, y**4], axis=-1)


def _shape(form: str, mu: float, sigma: float, rng: np.random.Generator) -> FloatArray:
    """Coefficients of g, stationary at (mu, sigma), of any size."""
    if form == "quadratic":
        u, v = np.log(mu), np.log(sigma)
        a, b = np.exp(rng.normal(0.0, 0.4, 2))
        c = rng.uniform(-1.2, 1.2) * np.sqrt(a * b)
        return np.array([2 * a * u + c * v, 2 * b * v + c * u, -a, -c, -b])
    if form == "outside":
        u, v = np.log(mu) - (LOW[0] + HIGH[0]) / 2, np.log(sigma) - (LOW[1] + HIGH[1]) / 2
        a, b = np.exp(rng.normal(0.0, 0.4, 2))
        skew, sharp = rng.uniform(-0.8, 0.8, 2) * (a, b), rng.uniform(0.2, 0.8, 2) * (a, b)
        # -a x^2 + skew x^3 - sharp x^4 in each direction, and the slope that makes (mu, sigma) stationary.
        slope = [
            2 * k * at - 3 * s * at**2 + 4 * q * at**3 for k, at, s, q in zip((a, b), (u, v), skew, sharp, strict=True)
        ]
        return np.array([*slope, -a, 0.0, -b, *skew, *-sharp])
    a1, b1 = -np.exp(rng.normal(0.0, 0.4, 2)) / (sigma, mu)
    m1, s1 = rng.normal(0.0, 0.5, 2) / (mu, sigma) if form == "scale_free" else (0.0, 0.0)
    a0 = -mu * (b1 * np.log(sigma) + m1) - a1 * sigma
    b0 = -sigma * (a1 * np.log(mu) + s1) - b1 * mu
    return np.array([a0, a1, b0, b1, m1, s1][: len(FORMS[form].names)])


def _scaled(form: str, link: LinkName, shape: FloatArray, at: FloatArray, depth: float) -> Truth:
    """The law whose loss at the optimum is BEST_LOSS and whose worst is RANGE_PCT above it, at the largest D."""
    how, floor = LINKS[link], np.asarray(FLOOR)

    def needed(loss: float) -> float:
        return float(how.response(np.asarray(loss), floor, BASE_LOSS))

    size = (needed(BEST_LOSS * (1 + RANGE_PCT / 100)) - needed(BEST_LOSS)) / depth
    coefficients = size * shape
    top = float(_columns(form, at[:1], at[1:])[0] @ coefficients)
    constant = needed(BEST_LOSS) - top - EXPONENTS[link] * float(np.log(TOKENS[-1]))
    return Truth(form, link, coefficients, float(at[0]), float(at[1]), constant)


def simulated(truth: Truth, places: FloatArray, run_noise: float, point_noise: float, seed: int) -> Observations:
    """Runs at places [r, 2], measured at all TOKENS; run i has the same noise whatever the places."""
    count, points = len(places), len(TOKENS)
    offsets = np.array([np.random.default_rng([seed, run]).standard_normal(points + 1) for run in range(count)])
    mu, sigma = np.repeat(places, points, axis=0).T
    tokens = np.tile(TOKENS, count)
    noise = run_noise * offsets[:, :1] + point_noise * offsets[:, 1:]
    loss = truth.loss(mu, sigma, tokens) * np.exp(noise.ravel())
    base = BASE_LOSS if truth.link == "anchored" else max(BASE_LOSS, 1.02 * float(loss.max()))
    regime = np.unique(places, axis=0, return_inverse=True)[1].reshape(-1)
    run = np.repeat(np.arange(count), points)
    return Observations(mu, sigma, tokens, loss, run, base, regime[run])
