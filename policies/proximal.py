"""ProximalAverage (torch): a moving average of the policy's weights.

Hilton, Cobbe & Schulman 2021, "Batch size-invariance for policy optimization", section 3.2: e₀ = θ₀, w₀ = 1;
after each step of the policy w' = d · w + 1 and e <- e · d · w / w' + θ / w'.
"""

from torch import Tensor


class ProximalAverage:
    """The average, its weight, and how much of where it started is left.

    Attributes:
        flat: [P] the averaged weights.
        weight: w, the decayed number of policies in the average.
        retained: product of d · w / w' since it was constructed.
        taken: how many steps since it was constructed.
    """

    def __init__(self, flat: Tensor, *, weight: float, decay: float) -> None:
        self.flat = flat
        self.weight = weight
        self.retained = 1.0
        self.taken = 0
        self.decay = decay

    def follow(self, weights: Tensor) -> None:
        """Take in the policy's weights after one of its steps."""
        self.flat.lerp_(weights, self.advance())

    @property
    def counters(self) -> tuple[float, float, int]:
        """(weight, retained, taken); set them to those of an earlier time when its ``flat`` is restored."""
        return self.weight, self.retained, self.taken

    @counters.setter
    def counters(self, counters: tuple[float, float, int]) -> None:
        self.weight, self.retained, self.taken = counters

    def advance(self) -> float:
        """Count one more step of the policy; the share of its weights in the average, 1 / w'."""
        weight = self.decay * self.weight + 1.0
        self.retained *= self.decay * self.weight / weight
        self.weight = weight
        self.taken += 1
        return 1.0 / weight
