"""Weights of steps: effective sample size, advantage normalization (numpy, float64)."""

import math

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

EPSILON = 1e-8
LOG_RATIO_SHOWN = 80.0  # exp(80) is the largest ratio worth reporting, and finite


def effective_sample_fraction(log_ratio_n: Float64) -> float:
    """(Σρ)² / (n Σρ²) of ρ = exp(log_ratio), at most 1 (Kish 1965).

    The largest ρ is divided out first: this is exp(2 lse(l) - lse(2l)) / n without its rounding. 1 for no
    ratios; NaN when a log-ratio is NaN or +inf, so gate with ``not (fraction >= minimum)``.
    """
    if log_ratio_n.dtype != np.float64:
        raise ValueError(f"log-ratios are {log_ratio_n.dtype}; accepted: float64, because float32 overflows")
    if log_ratio_n.size == 0:
        return 1.0
    top = float(log_ratio_n.max())
    if not math.isfinite(top):
        return math.nan
    rho = np.exp(log_ratio_n - top)
    return min(float(np.add.reduce(rho) ** 2 / (rho.size * (rho @ rho))), 1.0)


def largest_ratio(log_ratio_n: Float64) -> float:
    """Return the largest ρ, at most exp(80); 1 for no ratios."""
    if log_ratio_n.size == 0:
        return 1.0
    return math.exp(min(float(log_ratio_n.max()), LOG_RATIO_SHOWN))


def normalized(advantage_n: Float64) -> Float64:
    """(A - mean) / (std + 1e-8), with population moments."""
    if len(advantage_n) == 0:
        return advantage_n
    result: Float64 = advantage_n - np.add.reduce(advantage_n) / len(advantage_n)
    result /= math.sqrt(float(result @ result) / len(result)) + EPSILON
    return result
