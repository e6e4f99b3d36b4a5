"""How far the corpora have moved from what the trials measured, and when new trials are worth their price."""

from dataclasses import dataclass

import numpy as np

from ppl_assets.law.checks import BEYOND
from ppl_assets.law.observations import Observations
from ppl_assets.law.region import SearchRegion

Moments = tuple[float, float]


@dataclass(frozen=True)
class Drift:
    """The candidates' own (mean, deviation) beside the trials.

    Attributes:
        now: of the landscape.
        designed: of the landscape for which the trials were designed; None where the lake no longer says.
        outside: distance of ``now`` from the hull of the measured trials, log units; 0 inside.
        runs: trials measured.
    """

    now: Moments
    designed: Moments | None
    outside: float
    runs: int

    @property
    def is_covered(self) -> bool:
        """Whether the law still speaks of this corpus: it lies in the hull, or no more than BEYOND outside."""
        return self.outside <= BEYOND

    @property
    def outside_pct(self) -> float:
        """Distance from the hull, %."""
        return float(100.0 * np.expm1(self.outside))

    @property
    def moved_pct(self) -> float | None:
        """Distance from the landscape of the design, %."""
        if self.designed is None:
            return None
        shift = np.log(self.now) - np.log(self.designed)
        return float(100.0 * np.expm1(np.hypot(*shift)))

    def sentence(self, cost: str, option: str) -> str:
        """Where the corpora are, whether new trials are worth their price, what that is and how to run them.

        Args:
            cost: of the present design's trials, one sentence without its stop.
            option: what ``make demo`` needs for this study.
        """
        place = f"The candidates have mean {self.now[0]:.4g} and deviation {self.now[1]:.4g}"
        since = (
            "" if self.moved_pct is None else f", {self.moved_pct:.1f} % from where they were when trials were designed"
        )
        if self.is_covered:
            where = f"{self.outside_pct:.1f} % outside" if self.outside else "inside"
            return (
                f"{place}{since}; that is {where} what {self.runs} trials measured, so the law holds there and new "
                "trials are not worth their price."
            )
        return (
            f"{place}{since}; that is {self.outside_pct:.0f} % outside what {self.runs} trials measured, where the law "
            f"is a guess even for a random subset. New trials are worth their price: as many as now cost, {cost}. They "
            "wait for a person: materialize regime_partitions, the trials that it registers, and fitted_law in the UI, "
            f"or run make demo{option}."
        )


def drift_of(obs: Observations, now: Moments, designed: Moments | None) -> Drift:
    """Compare the landscape with the measurements.

    Args:
        obs: the measurements under the present setting; runs that ended no better than the base model are left out
            where there are others, as in the search for the optimum.
        now: mean and deviation of the candidates.
        designed: those of the landscape of the design.
    """
    is_all_harmful = len(obs.harmful_runs) == len(obs.runs)
    region = SearchRegion(*obs.run_means()) if is_all_harmful else SearchRegion.of(obs)
    return Drift(now, designed, region.distance(*now), len(obs.runs))
