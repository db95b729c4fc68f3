"""PopArt: the value network's output is kept normalized while the scale of the returns moves.

van Hasselt et al. 2016, "Learning values across many orders of magnitude": the value is std · h + mean, h the
network's output; when the statistics move, the last layer is rescaled so that no value changes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ValueScale:
    """Mean and standard deviation of returns, as exponential averages."""

    mean: float
    std: float

    @classmethod
    def of(cls, returns_n: Float64, *, std_min: float) -> "ValueScale":
        """Population moments of a batch's returns, the standard deviation at least ``std_min``."""
        return cls(mean=float(returns_n.mean()), std=max(float(returns_n.std()), std_min))

    def moved(self, batch: "ValueScale", *, rate: float) -> "ValueScale":
        """Moved towards ``batch`` by ``rate``."""
        return ValueScale(
            mean=(1.0 - rate) * self.mean + rate * batch.mean,
            std=(1.0 - rate) * self.std + rate * batch.std,
        )

    def denormalized(self, output_n: Float64) -> Float64:
        """Values from the network's outputs."""
        return self.std * output_n + self.mean

    def normalized(self, value_n: Float64) -> Float64:
        """What the network should have put out for these values."""
        return (value_n - self.mean) / self.std


UNSCALED = ValueScale(mean=0.0, std=1.0)


def head_change(old: ValueScale, new: ValueScale) -> tuple[float, float]:
    """(factor, shift) such that weight · factor and bias · factor + shift keep every value (eq. 9)."""
    return old.std / new.std, (old.mean - new.mean) / new.std
