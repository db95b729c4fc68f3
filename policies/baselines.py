"""Baselines: what REINFORCE subtracts from a return, to make its gradient less noisy (numpy, float64).

A baseline that does not depend on the episode's own actions leaves the expected gradient unchanged
(Williams 1992).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Offsets = NDArray[np.int64]
Baseline = Callable[[Float64, Offsets, float], Float64]
"""(returns [N], offsets [E + 1], moving average of the mean return) -> baseline [N]."""


def ema(returns_n: Float64, offsets: Offsets, average: float) -> Float64:
    """Return the moving average as it was before this batch: unbiased, because it knows nothing of it."""
    del offsets
    return np.full_like(returns_n, average)


def batch_mean(returns_n: Float64, offsets: Offsets, average: float) -> Float64:
    """Mean of the batch's returns at the same time in the episode; 0 counts for episodes that ended before.

    An episode's own return is part of it, which scales the expected gradient by (n - 1) / n.
    """
    del average
    sums = _sums_by_time(returns_n, offsets)
    return sums / (len(offsets) - 1)


def leave_one_out(returns_n: Float64, offsets: Offsets, average: float) -> Float64:
    """The same mean over the other episodes only: unbiased; with one episode the moving average."""
    others = len(offsets) - 2
    if others < 1:
        return ema(returns_n, offsets, average)
    sums = _sums_by_time(returns_n, offsets)
    return (sums - returns_n) / others


BASELINES: dict[str, Baseline] = {"ema": ema, "batch_mean": batch_mean, "leave_one_out": leave_one_out}
"""By name; "value" is no function of returns: it is the value network, with GAE."""


def moved_average(average: float | None, returns_n: Float64, *, rate: float) -> float:
    """Return (1 - rate) b + rate · mean return; the first mean as it is."""
    mean = float(returns_n.mean())
    return mean if average is None else (1.0 - rate) * average + rate * mean


def _sums_by_time(returns_n: Float64, offsets: Offsets) -> Float64:
    time = np.arange(len(returns_n)) - np.repeat(offsets[:-1], np.diff(offsets))
    sums: Float64 = np.bincount(time, weights=returns_n).astype(np.float64)
    return sums[time]
