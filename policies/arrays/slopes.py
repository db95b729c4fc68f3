"""Losses with their slopes (numpy): those of ``policies.losses``, and d loss / d log π beside each.

Every function returns (loss [n], slope [n]), new arrays of the dtype that it was given. Nothing else of a
step depends on the weights: advantages and the other policies' log-probabilities are held fixed, so that the
slope is all that a gradient needs.
"""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from policies.losses import LOG_RATIO_MAX

Number = TypeVar("Number", np.float32, np.float64)


def reinforce_slope(
    logp_n: NDArray[Number], advantage_n: NDArray[Number]
) -> tuple[NDArray[Number], NDArray[Number]]:
    """-A log π (Williams 1992); its slope is -A."""
    _check(logp_n, advantage_n)
    slope = np.negative(advantage_n)
    return slope * logp_n, slope


def clipped_slope(
    logp_n: NDArray[Number],
    reference_logp_n: NDArray[Number],
    advantage_n: NDArray[Number],
    *,
    clip_range: float,
) -> tuple[NDArray[Number], NDArray[Number]]:
    """-min(r A, clip(r, 1 ± ε) A), r = π / reference (Schulman et al. 2017, eq. 7).

    The slope is -r A where r A is the smaller one, as d r / d log π = r, and 0 where the clip holds.
    """
    _check(logp_n, reference_logp_n, advantage_n)
    log_ratio = logp_n - reference_logp_n
    bounded = np.minimum(log_ratio, LOG_RATIO_MAX)
    free = np.exp(bounded)
    clipped = np.minimum(np.maximum(free, 1.0 - clip_range), 1.0 + clip_range)
    cost = np.negative(advantage_n)
    free *= cost
    clipped *= cost
    loss = np.maximum(free, clipped)
    moves = free >= clipped
    moves &= log_ratio == bounded
    free *= moves
    return loss, free


def decoupled_slope(
    logp_n: NDArray[Number],
    proximal_logp_n: NDArray[Number],
    behavior_logp_n: NDArray[Number],
    advantage_n: NDArray[Number],
    *,
    clip_range: float,
    ratio_cap: float,
) -> tuple[NDArray[Number], NDArray[Number]]:
    """min(c, π_prox / μ) times the clipped loss and slope against π_prox.

    Hilton, Cobbe & Schulman 2021, eq. 2, with the weight capped at c.
    """
    _check(logp_n, proximal_logp_n, behavior_logp_n)
    loss, slope = clipped_slope(logp_n, proximal_logp_n, advantage_n, clip_range=clip_range)
    weight = np.minimum(np.exp(proximal_logp_n - behavior_logp_n), ratio_cap)
    loss *= weight
    slope *= weight
    return loss, slope


def awr_slope(
    logp_n: NDArray[Number], advantage_n: NDArray[Number], *, weight_max: float
) -> tuple[NDArray[Number], NDArray[Number]]:
    """-w log π, w = min(exp A, weight_max) (Peng et al. 2019, eq. 9); its slope is -w."""
    _check(logp_n, advantage_n)
    slope = np.negative(np.minimum(np.exp(advantage_n), weight_max))
    return slope * logp_n, slope


def _check(*arrays_n: NDArray[Number]) -> None:
    shape = arrays_n[0].shape
    if len(shape) != 1 or [array.shape for array in arrays_n] != [shape] * len(arrays_n):
        raise ValueError(f"shapes are {[array.shape for array in arrays_n]}; accepted: [n] each")
