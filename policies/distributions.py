"""Action distributions in numpy: categorical with a mask, and a Gaussian with a diagonal covariance.

Logits and means come as float32 from the network; everything after them is float64, so that a log-probability
does not depend on whether one action or a whole batch was asked for.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

LOG_2_PI = math.log(2.0 * math.pi)

Float64 = NDArray[np.float64]
Mask = NDArray[np.bool_]


def categorical_log_probs(logits_bn: NDArray[np.floating], mask_bn: Mask | None = None) -> Float64:
    """Log-softmax over the allowed actions, float64 [B, N]; -inf where an action is not allowed.

    Raises:
        ValueError: wrong ranks or shapes, or a row where nothing is allowed.
    """
    logits = _allowed_logits(logits_bn, mask_bn)
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: Float64 = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def _allowed_logits(logits_bn: NDArray[np.floating], mask_bn: Mask | None) -> Float64:
    """Logits in float64 [B, N]; -inf where an action is not allowed."""
    if logits_bn.ndim != 2:  # noqa: PLR2004 - [B, N]
        raise ValueError(f"logits have shape {logits_bn.shape}; accepted: [B, N]")
    logits = logits_bn.astype(np.float64)
    if mask_bn is None:
        return logits
    _check_mask(mask_bn, logits.shape)
    return np.where(mask_bn, logits, -np.inf)


def _check_mask(mask: Mask, shape: tuple[int, ...]) -> None:
    if mask.shape != shape or mask.dtype != np.bool_:
        raise ValueError(f"mask has shape {mask.shape} of {mask.dtype}; accepted: {shape} of bool")
    if not mask.any(axis=-1).all():
        raise ValueError("mask allows no action at all; accepted: at least one True in every row")


def categorical_log_prob(
    logits_bn: NDArray[np.floating], action_b: NDArray[np.integer], mask_bn: Mask | None = None
) -> Float64:
    """Log-probability of each row's action, float64 [B]; -inf where the mask does not allow it."""
    logits = _allowed_logits(logits_bn, mask_bn)
    if action_b.shape != logits.shape[:1] or action_b.dtype.kind not in "iu":
        found = f"shape {action_b.shape} of {action_b.dtype}"
        raise ValueError(f"actions have {found}; accepted: ({len(logits)},) of integers")
    n = logits.shape[1]
    if action_b.size and (action_b.min() < 0 or action_b.max() >= n):
        raise ValueError(f"actions reach from {action_b.min()} to {action_b.max()}; accepted: 0 to {n - 1}")
    shifted = np.ascontiguousarray(logits.T)  # a row an action: few actions make slow sums along a row
    shifted -= shifted.max(axis=0)
    result: Float64 = shifted[action_b, np.arange(len(action_b))] - np.log(np.exp(shifted).sum(axis=0))
    return result


def categorical_entropy(logits_bn: NDArray[np.floating], mask_bn: Mask | None = None) -> Float64:
    """-Σ p log p over the allowed actions, float64 [B]."""
    log_probs = categorical_log_probs(logits_bn, mask_bn)
    finite = np.where(np.isfinite(log_probs), log_probs, 0.0)
    result: Float64 = -(np.exp(log_probs) * finite).sum(axis=1)
    return result


def categorical_sample(
    logits_bn: NDArray[np.floating], rng: np.random.Generator, mask_bn: Mask | None = None
) -> NDArray[np.int64]:
    """Draw one action a row, int64 [B]."""
    return sample_log_probs(categorical_log_probs(logits_bn, mask_bn), rng)


def sample_log_probs(log_probs_bn: Float64, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw one action a row, int64 [B], by inverting the cumulative distribution."""
    cumulative = np.exp(log_probs_bn).cumsum(axis=1)
    total = cumulative[:, -1]
    drawn = np.minimum(rng.random(len(total)) * total, np.nextafter(total, 0.0))
    actions: NDArray[np.int64] = (cumulative <= drawn[:, None]).sum(axis=1, dtype=np.int64)
    return actions


def draw_categorical(logits: Sequence[float], uniform: float) -> tuple[int, float]:
    """Draw one action and its log-probability from a few logits, by ``uniform`` in [0, 1).

    Plain Python: for a handful of actions that is several times faster than numpy's cost per call. Logits of
    -inf are never drawn.

    Raises:
        ValueError: a logit is NaN or +inf, or all are -inf.
    """
    top = max(logits)
    cumulative = list(accumulate([math.exp(logit - top) for logit in logits]))
    total = cumulative[-1]
    if not total > 0.0:
        raise ValueError(f"logits are {logits}; accepted: at least one allowed action, and no NaN")
    drawn = min(uniform * total, math.nextafter(total, 0.0))
    action = bisect_right(cumulative, drawn)
    return action, logits[action] - top - math.log(total)


def gaussian_log_prob(
    mean_ba: NDArray[np.floating], log_std_a: NDArray[np.floating], action_ba: NDArray[np.floating]
) -> Float64:
    """Log-density of each row's action, summed over the dimensions, float64 [B].

    -½ Σ ((a - mean) / std)² - Σ log std - ½ A log 2π
    """
    if mean_ba.ndim != 2 or action_ba.shape != mean_ba.shape or log_std_a.shape != mean_ba.shape[1:]:  # noqa: PLR2004 - [B, A]
        raise ValueError(
            f"mean {mean_ba.shape}, log_std {log_std_a.shape}, action {action_ba.shape}; "
            "accepted: [B, A], [A], [B, A]"
        )
    log_std = log_std_a.astype(np.float64)
    standardized = (action_ba.astype(np.float64) - mean_ba) * np.exp(-log_std)
    constant = log_std.sum() + 0.5 * LOG_2_PI * len(log_std)
    result: Float64 = -0.5 * (standardized**2).sum(axis=1) - constant
    return result


def gaussian_entropy(log_std_a: NDArray[np.floating]) -> float:
    """Σ log std + ½ A (1 + log 2π): the same for every observation."""
    return float(log_std_a.astype(np.float64).sum() + 0.5 * (1.0 + LOG_2_PI) * len(log_std_a))


class DiagonalGaussian:
    """A Gaussian with a fixed log standard deviation, for one action at a time.

    Args:
        log_std_a: [A].
    """

    def __init__(self, log_std_a: NDArray[np.floating]) -> None:
        log_std = log_std_a.astype(np.float64)
        self._std = np.exp(log_std).astype(np.float32)
        self._inverse_std = np.exp(-log_std)
        self._constant = float(log_std.sum()) + 0.5 * LOG_2_PI * len(log_std)
        self._difference = np.empty_like(log_std)

    def draw(
        self, mean_a: NDArray[np.float32], rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], float]:
        """Draw one action, float32 [A], and the log-density of exactly these float32 numbers.

        Raises:
            ValueError: a mean is not finite.
        """
        action = rng.standard_normal(len(mean_a), dtype=np.float32)
        action *= self._std
        action += mean_a
        difference = np.subtract(action, mean_a, out=self._difference, dtype=np.float64)
        difference *= self._inverse_std
        log_prob = -0.5 * float(difference.dot(difference)) - self._constant
        if not math.isfinite(log_prob):
            raise ValueError(f"means are {mean_a.tolist()}; accepted: finite numbers")
        return action, log_prob
