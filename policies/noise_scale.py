"""Gradient noise scale: how large a batch could be before larger ones stop helping.

McCandlish, Kaplan & Amodei 2018, "An empirical model of large-batch training", appendix A.1: with gradients
at two batch sizes b < B, |G|² = (B |G_B|² - b |G_b|²) / (B - b) and S = (|G_b|² - |G_B|²) / (1/b - 1/B)
estimate the squared norm of the true gradient and the trace of its covariance without bias; their ratio
S / |G|² is the noise scale, in steps. Ratios of noisy numbers are biased: average both over updates first.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class GradientNoise:
    """Both estimates of one update; either may be negative by chance.

    Attributes:
        signal: |G|².
        trace: S, times one step.
    """

    signal: float
    trace: float

    @property
    def scale(self) -> float:
        """S / |G|² in steps; infinite where no signal is left."""
        return self.trace / self.signal if self.signal > 0 else float("inf")


def gradient_noise(*, small_sq: float, small: float, large_sq: float, large: float) -> GradientNoise:
    """Estimate from mean squared norms of gradients of ``small`` and of ``large`` > ``small`` steps."""
    return GradientNoise(
        signal=(large * large_sq - small * small_sq) / (large - small),
        trace=(small_sq - large_sq) / (1.0 / small - 1.0 / large),
    )


class NoiseProbe:
    """Collects the gradients of one epoch's minibatches, as if no step were taken between them."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._squares: list[Tensor] = []

    def add(self, gradient: "Tensor") -> None:
        """Take in a minibatch's gradient [P], before it is clipped; nothing is read back from the device."""
        self._squares.append(gradient.square().sum())
        self._sum = gradient.clone() if self._sum is None else self._sum.add_(gradient)

    def estimate(self, n_steps: int) -> GradientNoise | None:
        """Return the estimate for an epoch of ``n_steps``; None with fewer than two minibatches."""
        squares = self.squares()
        return None if squares is None else self.estimate_from([float(each) for each in squares], n_steps)

    def squares(self) -> "tuple[Tensor, Tensor] | None":
        """Squared norms, still on the device: of the minibatches, summed; of their mean."""
        count = len(self._squares)
        if self._sum is None or count < 2:  # noqa: PLR2004 - two batch sizes are needed
            return None
        return sum(self._squares[1:], self._squares[0]), (self._sum / count).square().sum()

    def estimate_from(self, squares: "Sequence[float]", n_steps: int) -> GradientNoise:
        """Return the estimate for an epoch of ``n_steps`` from what ``squares`` gave."""
        count = len(self._squares)
        return gradient_noise(
            small_sq=squares[0] / count,
            small=n_steps / count,
            large_sq=squares[1],
            large=float(n_steps),
        )
