"""How few trial tokens any design could need, had it known the law beforehand: a floor under ``sequential``'s ratio.

    python -m benchmarks.sequential_bound --json

Of the same made-up laws (``truths.py``) and noise. Near its optimum a law gives away, to second order, the expected
regret tr(W S): S = (sum of X^T V^-1 X over runs)^-1 is the covariance of its constants, X the slopes of ln L at a run's
token counts, V the noise of a run; W = G^T H^-1 G / 2 with H the Hessian of ln L and G the slopes of its gradient in
the constants, at the optimum. The design that makes tr(W S) least for a number of runs is found by the multiplicative
algorithm (Silvey, Titterington & Torsney 1978) over a 21 x 21 grid, fractions of a run allowed. ``free`` chooses every
run; ``after_first`` starts from the 3 x 3 grid, as the sequential design must. A ratio is its runs over the 36 of the
space-filling design at that design's own tr(W S). No real design knows the law, so none can reach these.
"""

import argparse
import json
from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq

from benchmarks.sequential import FACES, POINT_NOISE, REFERENCE_RUNS, RUN_NOISE, grid, maximin
from benchmarks.truths import BASE_LOSS, EXPONENTS, FAMILIES, FLOOR, TOKENS, Truth, draw_truth
from ppl_assets.law.forms import FORMS, LINKS, design
from ppl_assets.law.observations import FloatArray

PLACES = grid(21)
STEP = 1e-3
"""Of the central differences, log units."""

ITERATIONS = 400
WITHIN = {name: form for name, (form, _) in FAMILIES.items() if form in FORMS}
RIVALS: dict[str, FloatArray] = {"grid": grid(6), "maximin": maximin(REFERENCE_RUNS)}


def slopes(truth: Truth, mu: FloatArray, sigma: FloatArray, tokens: FloatArray) -> tuple[FloatArray, FloatArray]:
    """[n, q] slopes of ln L in (E, constants), and ln L."""
    link, floor = LINKS[truth.link], np.asarray(FLOOR)
    columns = design(FORMS[truth.form], link, mu, sigma, tokens, "deviation")
    constants = [truth.constant * link.intercept_sign, *truth.coefficients, EXPONENTS[truth.link]]
    y = columns @ np.array(constants)
    by_y, by_floor = link.slopes(y, floor, BASE_LOSS)
    loss = link.loss(y, floor, BASE_LOSS)
    return np.concatenate([(by_floor / loss)[:, None], (by_y / loss)[:, None] * columns], axis=1), np.log(loss)


def information(truth: Truth, places: FloatArray) -> FloatArray:
    """[r, q, q] what a run at each place tells: X^T V^-1 X."""
    points = len(TOKENS)
    precision = np.linalg.inv(POINT_NOISE**2 * np.eye(points) + RUN_NOISE**2)
    mu, sigma = np.repeat(places, points, axis=0).T
    rows = slopes(truth, mu, sigma, np.tile(TOKENS, len(places)))[0].reshape(len(places), points, -1)
    return rows.transpose(0, 2, 1) @ precision @ rows


def regret_weight(truth: Truth) -> FloatArray:
    """[q, q] W, so that tr(W S) is the expected regret of the fitted optimum in ln L."""
    at = np.log([truth.mu, truth.sigma])
    rows, values = np.empty((3, 3), dtype=object), np.empty((3, 3))
    for i, j in np.ndindex(3, 3):
        mu, sigma = np.exp(at + STEP * (np.array([i, j]) - 1))
        row, value = slopes(truth, np.array([mu]), np.array([sigma]), TOKENS[-1:])
        rows[i, j], values[i, j] = row[0], value[0]
    gradient = np.stack([rows[2, 1] - rows[0, 1], rows[1, 2] - rows[1, 0]]) / (2 * STEP)
    cross = (values[2, 2] - values[2, 0] - values[0, 2] + values[0, 0]) / 4
    own = values[2, 1] + values[0, 1] - 2 * values[1, 1], values[1, 2] + values[1, 0] - 2 * values[1, 1]
    hessian = np.array([[own[0], cross], [cross, own[1]]]) / STEP**2
    return 0.5 * gradient.T @ np.linalg.solve(hessian, gradient)


def least(weight: FloatArray, told: FloatArray, known: FloatArray, runs: float) -> float:
    """Least tr(W S) of ``runs`` further runs anywhere, after what is known."""
    share = np.full(len(told), 1.0 / len(told))
    for _ in range(ITERATIONS):
        covariance = np.linalg.inv(known + runs * np.einsum("i,ijk->jk", share, told))
        gain = np.einsum("ijk,kj->i", told, covariance @ weight @ covariance)
        share *= np.sqrt(np.maximum(gain, 0.0))
        share /= share.sum()
    return float(np.trace(weight @ np.linalg.inv(known + runs * np.einsum("i,ijk->jk", share, told))))


def runs_for(wanted: float, regret_of: Callable[[float], float]) -> float:
    """Runs at which a falling curve of regret reaches ``wanted``."""
    return float(brentq(lambda runs: np.log(regret_of(runs) / wanted), 0.05, 2.0 * REFERENCE_RUNS, xtol=0.01))


def ratios(truth: Truth) -> dict[str, tuple[float, float]]:
    """By space-filling design: runs of the best design over its 36, free and after the 3 x 3 grid."""
    told, weight = information(truth, PLACES), regret_weight(truth)
    scale = 1.0 / np.sqrt(np.einsum("iqq->q", told))
    told, weight = told * scale[:, None] * scale, weight * scale[:, None] * scale
    first = (information(truth, FACES) * scale[:, None] * scale).sum(axis=0)
    nothing = 1e-9 * np.eye(len(first))
    found = {}
    for name, places in RIVALS.items():
        whole = (information(truth, places) * scale[:, None] * scale).sum(axis=0)
        wanted = float(np.trace(weight @ np.linalg.inv(whole)))
        free = runs_for(wanted, lambda runs: least(weight, told, nothing, runs))
        after = len(FACES) + runs_for(wanted, lambda runs: least(weight, told, first, runs))
        found[name] = (free / REFERENCE_RUNS, after / REFERENCE_RUNS)
    return found


def bounds(replicates: int, seed: int) -> dict[str, object]:
    """Median ratio by law and by space-filling design."""
    by_law: dict[str, dict[str, dict[str, float]]] = {}
    for family in WITHIN:
        number = list(FAMILIES).index(family)
        truths = [draw_truth(family, np.random.default_rng([seed, r, number])) for r in range(replicates)]
        found = [ratios(truth) for truth in truths]
        by_law[family] = {
            name: {
                kind: round(float(np.median([f[name][place] for f in found])), 3)
                for place, kind in enumerate(("free", "after_first"))
            }
            for name in RIVALS
        }
    return {"reference_runs": REFERENCE_RUNS, "replicates": replicates, "seed": seed, "least_ratio": by_law}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="all figures as JSON on stdout")
    options = parser.parse_args()
    found = bounds(options.replicates, options.seed)
    print(json.dumps(found, indent=1) if options.json else found["least_ratio"])


if __name__ == "__main__":
    main()
