"""Learning rate for the batch that was really assembled."""

import math

from policies.settings import ScalingRule

SQRT_FACTOR_MIN = 0.25
SQRT_FACTOR_MAX = 4.0


def scaled_learning_rate(
    rule: ScalingRule, *, learning_rate: float, episodes: int, reference_episodes: int
) -> float:
    """Learning rate for a batch of ``episodes``, where ``learning_rate`` is meant for ``reference_episodes``.

    - sqrt: · √(B / B₀), between a quarter and four times: suits Adam (Malladi et al. 2022, without their
      change of the decays).
    - linear: · B / B₀: suits SGD (Goyal et al. 2017).
    - sum: / B: for a loss that is summed over the episodes, it gives the step of their mean.
    - none: as it is.
    """
    match rule:
        case "sqrt":
            factor = math.sqrt(episodes / reference_episodes)
            return learning_rate * min(max(factor, SQRT_FACTOR_MIN), SQRT_FACTOR_MAX)
        case "linear":
            return learning_rate * episodes / reference_episodes
        case "sum":
            return learning_rate / episodes
        case "none":
            return learning_rate
