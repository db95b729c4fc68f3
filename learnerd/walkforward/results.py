"""Results: the estimates of all walks added up: values, and differences from the configuration as it is.

A setting's value is the mean over seeds and parts. Its error has two sources: which episodes the parts happen
to have, and the seeds. Both are crossed: every seed is judged by the same episodes. Each has a margin by
Student's distribution, and the squares of the margins add up to that of the whole (as Graybill & Wang 1980,
"Confidence intervals on nonnegative linear combinations of variances", and Zou & Donner 2008, "Construction
of confidence limits about effect measures", Statistics in Medicine 27, combine limits):

- the episodes': for the mean over the seeds, by the estimators' own deviations. Errors of different parts are
  uncorrelated, as given the weights that it judges a part's has mean zero, whatever they were learned from
  before. Degrees of freedom: Satterthwaite 1946, with one for each episode's squared deviation, so that one
  episode with most of the weight gives a wide interval.
- the seeds': by the values' variance between them, over their number. What seeds and episodes do together is
  in both: on average the interval is no narrower than it should be (Owen 2007, "The pigeonhole bootstrap").

What it covers was measured: ``tests/learnerd/test_what_if.py``.

A difference is that of the same seeds on the same episodes, so that what two settings share cancels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from learnerd.comparison import student_tail
from learnerd.walkforward.task import Walked

LEVEL = 0.95

Verdict = Literal["better", "worse", "cannot tell"]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value and its bounds."""

    value: float
    low: float
    high: float

    def __format__(self, sign: str) -> str:
        """For people; ``sign`` is "" or "+"."""
        return f"{self.value:{sign}.4g} ± {self.high - self.value:.2g}"


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How one setting did.

    Attributes:
        value: mean discounted return of an episode, over the judged parts and the seeds.
        by_part: the same, one a judged part.
        by_seed: the value of each seed.
        difference: from the configuration as it is, with an interval that is wider the more settings there
            are, so that all of them hold together; None for that itself.
        ess_fraction: mean effective share over parts and seeds.
        ess_by_part: mean over the seeds.
        verdict: on the difference; None for the configuration as it is.
        updates: mean over the seeds.
        unpublished: batches, of all seeds together, that could not be learned.
    """

    value: Interval
    by_part: tuple[Interval, ...]
    by_seed: tuple[float, ...]
    difference: Interval | None
    ess_fraction: float
    ess_by_part: tuple[float, ...]
    verdict: Verdict | None
    updates: float
    unpublished: int


@dataclass(frozen=True, kw_only=True)
class Estimates:
    """What the seeds of one setting gave, in arrays; they subtract.

    Attributes:
        values: [S, P]
        deviations: one [S, M] a part.
    """

    values: NDArray[np.float64]
    deviations: tuple[NDArray[np.float64], ...]

    @classmethod
    def of(cls, walks: Sequence[Walked]) -> "Estimates":
        """Of all seeds and their judged parts, which are the same."""
        values = np.array([[one.value for one in walked.judged] for walked in walks])
        by_part = zip(*(walked.judged for walked in walks), strict=True)
        stacked = (np.stack([one.deviations for one in some]) for some in by_part)
        return cls(values=values, deviations=tuple(stacked))

    def __sub__(self, other: "Estimates") -> "Estimates":
        """The differences, seed by seed and episode by episode."""
        pairs = zip(self.deviations, other.deviations, strict=True)
        return Estimates(
            values=self.values - other.values, deviations=tuple(one - another for one, another in pairs)
        )

    def part(self, position: int) -> "Estimates":
        """One part alone."""
        return Estimates(
            values=self.values[:, position : position + 1], deviations=(self.deviations[position],)
        )

    def interval(self, level: float = LEVEL) -> Interval:
        """The mean over seeds and parts, with an interval; see this module."""
        seeds, parts = self.values.shape
        value = float(self.values.mean())
        tail = (1.0 - level) / 2.0
        squares = np.concatenate([np.square(one.mean(axis=0) / parts) for one in self.deviations])
        margins = [_margin(float(squares.sum()), float(np.square(squares).sum()), tail)]
        if seeds > 1:
            between = float(self.values.mean(axis=1).var(ddof=1)) / seeds
            margins.append(_margin(between, between**2 / (seeds - 1), tail))
        half = math.hypot(*margins)
        return Interval(value=value, low=value - half, high=value + half)


def _margin(variance: float, spread: float, tail: float) -> float:
    """Half an interval; ``variance``² / ``spread`` is the degrees of freedom."""
    return student_quantile(tail, variance**2 / spread) * math.sqrt(variance) if spread > 0.0 else 0.0


def student_quantile(tail: float, freedom: float) -> float:
    """The t > 0 with P(T > t) = ``tail`` < 1/2, by bisection."""
    low, high = 0.0, 1.0
    while student_tail(high, freedom) > tail:
        high *= 2.0
    for _ in range(40):
        middle = (low + high) / 2.0
        low, high = (middle, high) if student_tail(middle, freedom) > tail else (low, middle)
    return high


def standings(walks: Sequence[Sequence[Walked]], *, min_ess: float) -> list[Standing]:
    """Add up.

    Args:
        walks: for each setting, the configuration as it is first, those of the seeds in the same order.
        min_ess: effective share below which an estimate is a guess, and no verdict is given.
    """
    shared = 1.0 - (1.0 - LEVEL) / max(1, len(walks) - 1)
    baseline, *others = (Estimates.of(some) for some in walks)
    differences = [None, *((one - baseline).interval(shared) for one in others)]
    shares = [np.array([[one.ess_fraction for one in walked.judged] for walked in some]) for some in walks]
    found = []
    for some, own, difference, ess in zip(walks, (baseline, *others), differences, shares, strict=True):
        told = min(float(ess.mean()), float(shares[0].mean())) >= min_ess
        found.append(
            Standing(
                value=own.interval(),
                by_part=tuple(own.part(i).interval() for i in range(len(own.deviations))),
                by_seed=tuple(own.values.mean(axis=1).tolist()),
                difference=difference,
                ess_fraction=float(ess.mean()),
                ess_by_part=tuple(ess.mean(axis=0).tolist()),
                verdict=None if difference is None else verdict(difference) if told else "cannot tell",
                updates=float(np.mean([walked.updates for walked in some])),
                unpublished=sum(walked.unpublished for walked in some),
            )
        )
    return found


def verdict(difference: Interval) -> Verdict:
    """What an interval says."""
    if difference.low > 0.0:
        return "better"
    return "worse" if difference.high < 0.0 else "cannot tell"
