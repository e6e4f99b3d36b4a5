"""The forms of the law: which columns the strength surface g(mu, sigma) has, and how g and D make a loss.

Every form is linear given the floor E: y = X c with X = [constant | surface columns | ln D]. The link says what y is,
so one engine (``profile.py``) fits all of them. Source: Liu et al., arXiv 2512.21515 (form "paper", link "paper").
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ppl_assets.law.observations import FloatArray

SigmaKind = Literal["deviation", "variance"]
LinkName = Literal["paper", "anchored"]
Columns = Callable[[FloatArray, FloatArray], list[FloatArray]]


@dataclass(frozen=True)
class Form:
    """A strength surface g(mu, s), linear in its coefficients; s is sigma or its square.

    Attributes:
        name: its key in :data:`FORMS`.
        names: [k] names of its coefficients.
        sentence: what it says, in words.
    """

    name: str
    names: tuple[str, ...]
    sentence: str
    _columns: Columns

    def columns(self, mu: FloatArray, sigma: FloatArray, sigma_kind: SigmaKind = "deviation") -> FloatArray:
        """[n, k] columns whose weighted sum is g at mu [n] and standard deviation sigma [n]."""
        spread = sigma if sigma_kind == "deviation" else np.square(sigma)
        columns = self._columns(mu, spread)
        return np.stack(columns, axis=-1) if columns else np.zeros((*np.shape(mu), 0))


def _paper(mu: FloatArray, s: FloatArray) -> list[FloatArray]:
    """The paper's exponents: (a0 + a1 s) ln mu + (b0 + b1 mu) ln s."""
    return [np.log(mu), s * np.log(mu), np.log(s), mu * np.log(s)]


def _scale_free(mu: FloatArray, s: FloatArray) -> list[FloatArray]:
    """The paper's columns with plain mu and s: k s ln(k mu) = k s ln mu + k ln k s stays inside the set."""
    return [*_paper(mu, s), mu, s]


def _quadratic(mu: FloatArray, s: FloatArray) -> list[FloatArray]:
    u, v = np.log(mu), np.log(s)
    return [u, v, u * u, u * v, v * v]


FORMS: dict[str, Form] = {
    form.name: form
    for form in (
        Form("d_only", (), "the loss depends on the number of tokens only", lambda _mu, _s: []),
        Form("no_interaction", ("a0", "b0"), "powers of mu and sigma", lambda mu, s: [np.log(mu), np.log(s)]),
        Form("paper", ("a0", "a1", "b0", "b1"), "the paper's interacting exponents", _paper),
        Form(
            "scale_free",
            ("a0", "a1", "b0", "b1", "m1", "s1"),
            "the paper's exponents closed under a change of unit",
            _scale_free,
        ),
        Form("quadratic", ("u", "v", "uu", "uv", "vv"), "quadratic in ln mu and ln sigma", _quadratic),
    )
}
"""All forms by name, in order of growing freedom."""


@dataclass(frozen=True)
class Link:
    """How y = constant + g + a ln D becomes a loss: L = E + scale(E) h(y), h falling in y.

    Attributes:
        name: paper or anchored.
        intercept: name of the constant's coefficient.
        intercept_sign: its column, -1 where it counts as ln Dc.
        anchored: whether L starts at the base model's loss L0, so that points with L >= L0 have no y.
    """

    name: LinkName
    intercept: str
    intercept_sign: float
    anchored: bool

    def response(self, loss: FloatArray, floor: FloatArray, base_loss: float) -> FloatArray:
        """Response y of a loss: -ln(L - E), or ln((L0 - L) / (L - E)). Shapes broadcast."""
        gap = np.log(loss - floor)
        return np.log(base_loss - loss) - gap if self.anchored else -gap

    def share(self, y: FloatArray) -> FloatArray:
        """Falling part h of the loss: exp(-y), or 1 / (1 + exp(y))."""
        bounded = np.clip(y, -300.0, 300.0)
        return 1.0 / (1.0 + np.exp(bounded)) if self.anchored else np.exp(-bounded)

    def scale(self, floor: FloatArray, base_loss: float) -> FloatArray:
        """What h is multiplied by: 1, or L0 - E."""
        return base_loss - floor if self.anchored else np.ones_like(floor)

    def loss(self, y: FloatArray, floor: FloatArray, base_loss: float) -> FloatArray:
        """L of y and E, nats a token. Shapes broadcast."""
        return floor + self.scale(floor, base_loss) * self.share(y)

    def loss_and_slope(self, y: FloatArray, floor: FloatArray, base_loss: float) -> tuple[FloatArray, FloatArray]:
        """L and dL/dy with h computed once: the inner problem spends its time there."""
        h, scale = self.share(y), self.scale(floor, base_loss)
        return floor + scale * h, -scale * h * (1.0 - h) if self.anchored else -h

    def slopes(self, y: FloatArray, floor: FloatArray, base_loss: float) -> tuple[FloatArray, FloatArray]:
        """dL/dy and dL/dE at y and E: (-h, 1), or (-(L0 - E) h (1 - h), 1 - h)."""
        h = self.share(y)
        if self.anchored:
            return -self.scale(floor, base_loss) * h * (1.0 - h), 1.0 - h
        return -h, np.ones_like(h)


LINKS: dict[LinkName, Link] = {
    "paper": Link("paper", "ln_Dc", -1.0, anchored=False),
    "anchored": Link("anchored", "ln_q", 1.0, anchored=True),
}
"""Both links. paper: ln(L - E) = ln Dc - g - aD ln D. anchored: ln((L0 - L)/(L - E)) = ln_q + g + aD ln D, where
ln_q + g = a ln q(mu, sigma) and aD = a in L = E + (L0 - E) / (1 + (D q)^a)."""


def design(
    form: Form, link: Link, mu: FloatArray, sigma: FloatArray, tokens: FloatArray, sigma_kind: SigmaKind
) -> FloatArray:
    """[n, k + 2] the columns of y: constant, surface, ln D."""
    surface = form.columns(mu, sigma, sigma_kind)
    constant = np.full((*np.shape(mu), 1), link.intercept_sign)
    return np.concatenate([constant, surface, np.log(tokens)[..., None]], axis=-1)


def coefficient_names(form: Form, link: Link) -> tuple[str, ...]:
    """Names of the columns of :func:`design`."""
    return (link.intercept, *form.names, "aD")
