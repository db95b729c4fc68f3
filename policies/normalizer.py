"""RunningStatistics: count, mean and sum of squared deviations of observations, combined exactly."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

EPSILON = 1e-8
CLIP = 10.0
PIECE_NUMBERS = 32_768


@dataclass(frozen=True, kw_only=True)
class RunningStatistics:
    """Statistics of ``count`` observations, float64 (Chan, Golub & LeVeque 1983).

    Attributes:
        count: how many observations.
        mean: [D] their mean.
        m2: [D] their summed squared deviations from the mean.
    """

    count: float
    mean: NDArray[np.float64]
    m2: NDArray[np.float64]

    @classmethod
    def empty(cls, width: int) -> "RunningStatistics":
        """No observations of ``width`` numbers."""
        return cls(count=0.0, mean=np.zeros(width), m2=np.zeros(width))

    @classmethod
    def of(cls, rows: NDArray[np.floating]) -> "RunningStatistics":
        """Statistics of ``rows`` [n, D], taken a few thousand at a time so that copies stay in the cache."""
        most = max(1, PIECE_NUMBERS // max(1, rows.shape[1]))
        total = cls.empty(rows.shape[1])
        for start in range(0, len(rows), most):
            total = total + cls._of_piece(rows[start : start + most].astype(np.float64))
        return total

    @classmethod
    def _of_piece(cls, rows: NDArray[np.float64]) -> "RunningStatistics":
        """Of rows [n, D], which are overwritten; a product with ones adds them up faster than a sum does."""
        ones = np.ones(len(rows))
        mean = (ones @ rows) / len(rows)
        rows -= mean
        np.square(rows, out=rows)
        return cls(count=float(len(rows)), mean=mean, m2=ones @ rows)

    def __add__(self, other: "RunningStatistics") -> "RunningStatistics":
        """Both together, exactly (Chan et al. 1983, eq. 2.1)."""
        if self.count == 0 or other.count == 0:
            return other if self.count == 0 else self
        count = self.count + other.count
        shift = other.mean - self.mean
        mean = self.mean + shift * (other.count / count)
        m2 = self.m2 + other.m2 + shift**2 * (self.count * other.count / count)
        return RunningStatistics(count=count, mean=mean, m2=m2)

    def __sub__(self, other: "RunningStatistics") -> "RunningStatistics":
        """What was added to ``other`` to give this: the inverse of +, with m2 clamped at 0."""
        count = self.count - other.count
        if count <= 0:
            return RunningStatistics.empty(len(self.mean))
        mean = (self.count * self.mean - other.count * other.mean) / count
        shift = other.mean - mean
        m2 = self.m2 - other.m2 - shift**2 * (count * other.count / self.count)
        return RunningStatistics(count=count, mean=mean, m2=np.maximum(m2, 0.0))

    def scale(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(mean, 1 / sqrt(var + 1e-8)), float32 [D] each; (0, 1) before any observation."""
        if self.count == 0:
            return np.zeros_like(self.mean, np.float32), np.ones_like(self.mean, np.float32)
        inverse = 1.0 / np.sqrt(self.m2 / self.count + EPSILON)
        return self.mean.astype(np.float32), inverse.astype(np.float32)

    def normalize(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """x̂ = clip((x - mean) / sqrt(var + 1e-8), ±10) for ``rows`` [..., D]."""
        mean, inverse = self.scale()
        result: NDArray[np.float32] = rows - mean
        result *= inverse
        np.minimum(result, CLIP, out=result)
        return np.maximum(result, -CLIP, out=result)
