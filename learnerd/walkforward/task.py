"""Task: what one walk is given, and what it gives back; both travel between processes. Loads no torch."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from learnerd.config import Config
from learnerd.walkforward.parts import Part
from policies.spec import PolicySpec


@dataclass(frozen=True, kw_only=True)
class Judge:
    """How parts are judged, the same for every setting.

    Attributes:
        method: one of ``policies.evaluation.ESTIMATORS``.
        gamma: discount.
        most_steps: of a part with more steps, every second, third, … episode is looked at.
    """

    method: str
    gamma: float
    most_steps: int


@dataclass(frozen=True, kw_only=True)
class Task:
    """What one walk needs.

    Attributes:
        name: of the setting, for errors.
        config: the setting.
        spec: its policy.
        seed: of the initial weights and of the shuffling.
        parts: the history.
        judged: positions of the parts that are judged.
        judge: how.
        rebatched: whether the batches of a part are joined, and cut anew.
        tells: whether it warns of episodes that are missing: they are for all walks, and one says so.
    """

    name: str
    config: Config
    spec: PolicySpec
    seed: int
    parts: tuple[Part, ...]
    judged: tuple[int, ...]
    judge: Judge
    rebatched: bool = False
    tells: bool = False


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What the weights before a part would have earned in it.

    Attributes:
        part: its position.
        value: estimated mean discounted return.
        deviations: [M], see ``policies.evaluation.bootstrap.deviations``.
        ess_fraction: effective share of its episodes for the estimate.
        played: mean discounted return of those who really acted.
        spread: standard deviation of the episodes' discounted returns.
        episodes: that the estimate rests on.
        sources: where their log-probabilities are from, see ``learnerd.evidence``.
    """

    part: int
    value: float
    deviations: NDArray[np.float64]
    ess_fraction: float
    played: float
    spread: float
    episodes: int
    sources: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Walked:
    """One walk.

    Attributes:
        judged: the parts that could be judged, in order.
        updates: made.
        unpublished: batches whose update diverged, or went beyond ``[stability]``: they were not learned.
    """

    judged: tuple[Judged, ...]
    updates: int
    unpublished: int
