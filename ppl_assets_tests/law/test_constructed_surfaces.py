"""Thirteen constructed surfaces: what the law must say of each, and nothing else.

The noise of each is the residual of a fit, laid on the truth: so the fit is the truth itself while the refits still
see the noise, and the outcome follows from the construction, not from luck.
"""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from ppl_assets.law.checks import checks
from ppl_assets.law.choice import FormResult
from ppl_assets.law.fit import fit
from ppl_assets.law.forms import FORMS, LINKS, LinkName, design
from ppl_assets.law.leave_out import held_out_largest, leave_one_regime_out, leave_one_run_out
from ppl_assets.law.observations import FloatArray, Observations, measured_noise
from ppl_assets.law.optimum import find_optimum
from ppl_assets.law.region import SearchRegion
from ppl_assets.law.uncertainty import bootstrap
from ppl_assets_tests.law.synthetic import CENTRES, GRID, TOKENS

PLACES = GRID + CENTRES
SMALL = [(m, s) for m in (4.0, 6.0, 8.0) for s in (2.0, 3.0, 5.0)] + [(6.0, 3.0)] * 3
CORPUS = (210.0, 120.0)


def quadratic(top: tuple[float, float], uu: float, uv: float, vv: float) -> tuple[float, ...]:
    """Coefficients of uu du^2 + uv du dv + vv dv^2 about a place, du and dv log distances; ln_q and aD around them."""
    u, v = np.log(top)
    constant = uu * u * u + uv * u * v + vv * v * v
    return (constant - 5.2, -2 * uu * u - uv * v, -2 * vv * v - uv * u, uu, uv, vv, 0.5)


@dataclass(frozen=True)
class Surface:
    """A truth, where it was tried, and what must come: the optimum's kind, the fit's status, the checks that fail."""

    coefficients: tuple[float, ...]
    kind: str
    failed: tuple[str, ...] = ()
    form: str = "quadratic"
    link: LinkName = "anchored"
    status: str = "converged"
    places: tuple[tuple[float, float], ...] = tuple(PLACES)
    tokens: tuple[float, ...] = tuple(TOKENS)
    floor: float = 3.5
    noise: float = 0.001
    corpus: tuple[float, float] = CORPUS


SURFACES = {
    "a bowl inside": Surface(quadratic((200, 110), -0.6, 0.25, -0.5), "interior_bowl"),
    # The noise moves the top by about as much as it lies inside the largest mean: two of three refits keep it there.
    "a bowl at the rim": Surface(quadratic((340, 110), -0.3, 0.0, -0.5), "weak_bowl", noise=0.006),
    "an edge": Surface((-2.0, -0.3, -0.2, 0.5), "boundary", ("optimum_inside", "bowl_possible"), "no_interaction"),
    "a saddle": Surface(quadratic((200, 110), 0.0, 0.4, 0.0), "saddle", ("optimum_inside",)),
    "an effect below the noise": Surface(
        quadratic((200, 110), -0.01, 0.0, -0.01),
        "flat",
        ("optimum_inside", "surface_beyond_noise", "surface_significant", "better_than_tokens_alone"),
        noise=0.01,
    ),
    "no effect at all": Surface(
        (-5.2, 0.0, 0.0, 0.5),
        "flat",
        ("optimum_inside", "surface_beyond_noise", "surface_significant", "better_than_tokens_alone", "bowl_possible"),
        "no_interaction",
    ),
    "units without a bowl": Surface(
        (-4.0, -0.5, 0.02, 0.3, 0.02, 0.5),
        "boundary",
        ("optimum_inside", "bowl_possible"),
        "paper",
        places=tuple(SMALL),
        corpus=(6.0, 3.0),
    ),
    "regimes that cannot be told apart": Surface(
        (-5.2, 0.1, 0.0, 0.1, 0.0, 0.5),
        "refused",
        ("well_conditioned", "optimum_inside", "better_than_tokens_alone"),
        "paper",
        status="ill_conditioned",
        places=((200.0, 110.0),) * 12,
        corpus=(200.0, 110.0),
    ),
    "few runs": Surface(
        (-2.0, -0.3, -0.2, 0.5),
        "boundary",
        ("enough_runs", "optimum_inside", "bowl_possible"),
        "no_interaction",
        places=(*GRID[:3], *GRID[6:], GRID[0]),
    ),
    "a short span of tokens": Surface(
        quadratic((200, 110), -0.6, 0.25, -0.5),
        "interior_bowl",
        ("token_span",),
        tokens=tuple(np.geomspace(1e4, 6e4, 7)),
    ),
    # The loss heads for -1, below the least floor there can be.
    "a floor at zero": Surface(
        (3.3, -0.1, -0.05, 0.3),
        "boundary",
        ("floor_identified", "optimum_inside", "bowl_possible"),
        "no_interaction",
        "paper",
        "e_at_bound",
        floor=-1.0,
    ),
    # So long a run at so great an exponent that the last losses are the floor's to within a hundredth of the range.
    "a floor at the least loss": Surface(
        (-24.0, -0.3, -0.2, 3.0),
        "flat",
        ("floor_identified", "optimum_inside", "surface_beyond_noise", "bowl_possible"),
        "no_interaction",
        status="e_near_min",
    ),
    "a corpus that has moved": Surface(
        quadratic((200, 110), -0.6, 0.25, -0.5), "interior_bowl", ("covers_landscape",), corpus=(900.0, 1200.0)
    ),
}


def measure(surface: Surface) -> Observations:
    """Trials of this surface whose best fit is the surface itself."""
    rng = np.random.default_rng(0)
    count = len(surface.tokens)
    mu, sigma = np.repeat(np.array(surface.places), count, axis=0).T
    run, tokens = np.repeat(np.arange(len(surface.places)), count), np.tile(surface.tokens, len(surface.places))
    form, link = FORMS[surface.form], LINKS[surface.link]
    y = design(form, link, mu, sigma, tokens, "deviation") @ np.array(surface.coefficients)
    truth: FloatArray = link.loss(y, np.array(surface.floor), 5.0)
    noise = surface.noise * (rng.standard_normal(len(surface.places))[run] + rng.standard_normal(len(run)))
    base = 5.0 if link.anchored else 2 * float(truth.max())
    regime = np.array([f"{m:g}-{s:g}" for m, s in zip(mu, sigma, strict=True)])
    noisy = Observations(mu, sigma, tokens, truth * np.exp(noise), run, base, regime)
    return replace(noisy, loss=truth * np.exp(fit(noisy, surface.form, surface.link).residuals))


def result(obs: Observations, form: str, link: LinkName, region: SearchRegion) -> FormResult:
    law = fit(obs, form, link)
    refits = bootstrap(obs, law, replicates=100) if law.is_usable else None
    return FormResult(
        fit=law,
        left_out=leave_one_run_out(obs, form, link),
        left_regimes=leave_one_regime_out(obs, form, link),
        largest=held_out_largest(obs, form, link),
        bootstrap=refits,
        optimum=find_optimum(law, region, refits, measured_noise(obs)),
    )


@pytest.mark.parametrize("name", SURFACES)
def test_each_surface_gets_its_own_verdict_and_no_other(name):
    surface = SURFACES[name]
    obs = measure(surface)
    region = SearchRegion.of(obs)
    results = [result(obs, form, surface.link, region) for form in ("d_only", surface.form)]
    findings = checks(results, results[1], obs, region, measured_noise(obs), surface.corpus)
    assert results[1].optimum.kind == surface.kind, results[1].optimum
    assert results[1].fit.status == surface.status
    assert {f.name for f in findings if not f.passed} == set(surface.failed)
    assert all(f.sentence.endswith(".") and len(f.sentence) > 20 for f in findings)


def test_every_status_of_a_fit_but_refused_is_constructed():
    assert {s.status for s in SURFACES.values()} == {"converged", "e_at_bound", "e_near_min", "ill_conditioned"}
