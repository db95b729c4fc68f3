"""ReturnDrift: notices that episodes return less than they used to.

Page-Hinkley on the standardized negative return: with z the return in standard deviations from its mean,

    g <- max(0, g - z - delta);   a drop when g > threshold.

This is the recursive form of m_t - min m_s > threshold, m_t the sum of (-z - delta): Page 1954, "Continuous
inspection schemes", Biometrika 41; Hinkley 1971, "Inference about the change-point from cumulative sum
tests", Biometrika 58. ``delta`` is the drop that does not matter, in standard deviations; one of s of them is
found after about threshold / (s - delta) episodes.

A return is judged by those before it, of which the last thousand or so count. A policy that improves lies
above them, and only makes g smaller. After a drop the reference starts afresh.
"""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

REFERENCE_EPISODES = 1000
"""Memory of the reference: long against the episodes that a drop takes to be found, so that it hides none."""

WARM_UP_EPISODES = 30
"""Episodes before anything is judged by them: their mean is then known to a fifth of a deviation."""

Z_MAX = 3.0
"""Larger deviations count as this: no few episodes, such as one batch of a strange client, make a drop."""

SPREAD_MIN = 0.01
"""Smallest standard deviation, as a share of the mean: a policy that always returned 500 may return 499."""

RECENT_EPISODES = 16
"""Memory of the moving mean by which a recovery is noticed."""

_SETTINGS = ("delta", "threshold")


@dataclass(kw_only=True)
class Drop:
    """A drop that was found.

    Attributes:
        before, spread: mean and standard deviation of the returns before it.
        after: their mean since it began, when it was found.
        found_in: episodes from its beginning until it was found.
        recent: moving mean of the returns since.
        episodes: how many since.
    """

    before: float
    spread: float
    after: float
    found_in: float
    recent: float
    episodes: float = 0.0

    def follow(self, value: float) -> None:
        """Take in one more return."""
        self.recent += (value - self.recent) / RECENT_EPISODES
        self.episodes += 1

    def __str__(self) -> str:
        """One sentence with its numbers."""
        return (
            f"episodes returned {self.before:.4g} (standard deviation {self.spread:.3g}), "
            f"then {self.after:.4g} over {self.found_in:.0f} episodes; now {self.recent:.4g}"
        )


@dataclass(kw_only=True)
class ReturnDrift:
    """The test's state: a dozen numbers, however many episodes there were.

    Attributes:
        delta: in standard deviations.
        threshold: in standard deviations, summed over episodes.
        count, mean, variance: the reference.
        excess: g.
        run, run_sum: number and sum of the returns since g was 0 last.
        drop: the last one that was found, None once it is over: the returns recovered to within ``delta``, or
            have been low for so long that the reference has come to know nothing else.
    """

    delta: float = 0.25
    threshold: float = 20.0
    count: float = 0.0
    mean: float = 0.0
    variance: float = 0.0
    excess: float = 0.0
    run: float = 0.0
    run_sum: float = 0.0
    drop: Drop | None = None

    def update(self, value: float) -> bool:
        """Take in an episode's return, in the order of learning; True when a drop is found by it."""
        if self.drop is not None:
            self.drop.follow(value)
            self.drop = None if self._is_over(self.drop) else self.drop
        found = self.count >= WARM_UP_EPISODES and self._judge(value)
        if found:
            self.drop = Drop(
                before=self.mean,
                spread=self._spread(),
                after=self.run_sum / self.run,
                found_in=self.run,
                recent=self.run_sum / self.run,
            )
            self.count = self.mean = self.variance = self.excess = self.run = self.run_sum = 0.0
        self._absorb(value)
        return found

    def state(self) -> dict[str, Any]:
        """Return everything but the settings, as plain JSON."""
        return {name: value for name, value in asdict(self).items() if name not in _SETTINGS}

    def restore(self, state: Any) -> None:
        """Take up what ``state`` gave; what is no such thing leaves the test as it is."""
        try:
            names = [field.name for field in fields(self) if field.name not in (*_SETTINGS, "drop")]
            numbers = {name: float(state[name]) for name in names}
            drop = state["drop"] and Drop(**{name: float(number) for name, number in state["drop"].items()})
        except (TypeError, KeyError, ValueError, AttributeError):
            return
        vars(self).update(numbers, drop=drop)

    def _is_over(self, drop: Drop) -> bool:
        recovered = drop.recent >= drop.before - self.delta * drop.spread
        return recovered or drop.episodes >= REFERENCE_EPISODES

    def _judge(self, value: float) -> bool:
        z = (value - self.mean) / self._spread()
        self.excess = max(0.0, self.excess - min(max(z, -Z_MAX), Z_MAX) - self.delta)
        self.run, self.run_sum = (self.run + 1, self.run_sum + value) if self.excess else (0.0, 0.0)
        return self.excess > self.threshold

    def _absorb(self, value: float) -> None:
        """Take ``value`` into the mean and the variance: exponential ones, plain until the memory is full."""
        self.count = min(self.count + 1, REFERENCE_EPISODES)
        distance, rate = value - self.mean, 1.0 / self.count
        self.mean += rate * distance
        self.variance = (1.0 - rate) * (self.variance + rate * distance**2)

    def _spread(self) -> float:
        return max(math.sqrt(self.variance), SPREAD_MIN * abs(self.mean), 1e-12)
