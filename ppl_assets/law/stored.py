"""A law as the lake keeps it: its numbers, and the predictions they make."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ppl_assets.law.forms import FORMS, LINKS, LinkName, SigmaKind, design
from ppl_assets.law.observations import FloatArray


@dataclass(frozen=True)
class StoredLaw:
    """Form, link, and fitted numbers of one row of ``fitted_law``.

    Attributes:
        form: name of the form.
        link: paper or anchored.
        sigma_kind: how the form reads sigma.
        floor: E, nats a token.
        coefficients: the linear coefficients in the order of the form's columns.
        base_loss: L0, nats a token.
    """

    form: str
    link: LinkName
    sigma_kind: SigmaKind
    floor: float
    coefficients: tuple[float, ...]
    base_loss: float

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "StoredLaw | None":
        """The law of a row of ``fitted_law``; None where the fit was refused."""
        if row["floor_loss"] is None or row["base_loss"] is None:
            return None
        return cls(
            row["form"], row["link"], row["sigma_kind"], row["floor_loss"], tuple(row["coefficients"]), row["base_loss"]
        )

    def predict(self, mu: ArrayLike, sigma: ArrayLike, tokens: ArrayLike) -> FloatArray:
        """Test loss, nats a token, at mean mu, deviation sigma and tokens; shapes broadcast.

        NaN where there is no spread (a single chunk, say): the law has its logarithm.
        """
        m, s, d = np.broadcast_arrays(*(np.asarray(value, dtype=float) for value in (mu, sigma, tokens)))
        s = np.where(s > 0, s, np.nan)
        link = LINKS[self.link]
        y = design(FORMS[self.form], link, m, s, d, self.sigma_kind) @ np.array(self.coefficients)
        return link.loss(y, np.asarray(self.floor), self.base_loss)
