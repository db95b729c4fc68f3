"""Estimate: what an evaluation says, as plain numbers."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The value of a policy, or a difference of two, from logged episodes.

    Attributes:
        value: estimated mean return of an episode, discounted as the estimator was asked to.
        low, high: bounds of the confidence interval.
        level: of the interval, such as 0.95.
        method: the estimator's name.
        interval: how the bounds were found: "studentized" or "percentile" bootstrap.
        n_episodes, n_steps: what it rests on.
        ess_fraction: effective share of them for this method, 0 … 1.
        ess_steps: of the steps, by each step's own ratio.
        ess_trajectory: of the episodes, by the ratio of whole episodes.
        ess_per_step: of the episodes, by the ratio up to each step.
        probabilities: "logged", "recovered" (from the versions that acted) or "mixed".
    """

    value: float
    low: float
    high: float
    level: float
    method: str
    interval: str
    n_episodes: int
    n_steps: int
    ess_fraction: float
    ess_steps: float
    ess_trajectory: float
    ess_per_step: tuple[float, ...]
    probabilities: str

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "ess_per_step": list(self.ess_per_step)}
