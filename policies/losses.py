"""Losses (torch): pure functions of one row per step; every result is [n], for the caller to average.

No gradient flows through advantages, targets, or the log-probabilities of the behavior and proximal policies.
"""

import torch
from torch import Tensor

LOG_RATIO_MAX = 20.0  # e^20 is far outside of any clip range; e^89 is inf in float32 and its gradient NaN


def reinforce_loss(logp_n: Tensor, advantage_n: Tensor) -> Tensor:
    """-A log π (Williams 1992)."""
    _check(logp_n, advantage_n)
    return -advantage_n * logp_n


def truncated_ratio(logp_n: Tensor, behavior_logp_n: Tensor, *, cap: float) -> Tensor:
    """min(c, π / μ): an importance ratio whose variance is bounded, for some bias (Ionides 2008, eq. 3)."""
    _check(logp_n, behavior_logp_n)
    return torch.exp(logp_n - behavior_logp_n).clamp(max=cap)


def clipped_loss(
    logp_n: Tensor, reference_logp_n: Tensor, advantage_n: Tensor, *, clip_range: float
) -> Tensor:
    """-min(r A, clip(r, 1 - ε, 1 + ε) A), r = π / reference (Schulman et al. 2017, eq. 7)."""
    _check(logp_n, reference_logp_n, advantage_n)
    ratio = torch.exp(torch.clamp(logp_n - reference_logp_n, max=LOG_RATIO_MAX))
    clipped = torch.clamp(ratio, 1.0 - clip_range, 1.0 + clip_range)
    return -torch.minimum(ratio * advantage_n, clipped * advantage_n)


def decoupled_loss(
    logp_n: Tensor,
    proximal_logp_n: Tensor,
    behavior_logp_n: Tensor,
    advantage_n: Tensor,
    *,
    clip_range: float,
    ratio_cap: float,
) -> Tensor:
    """-min(c, π_prox / μ) · min(r A, clip(r, 1 ± ε) A), r = π / π_prox.

    Hilton, Cobbe & Schulman 2021, eq. 2, with the weight capped at c.
    """
    _check(logp_n, proximal_logp_n, behavior_logp_n, advantage_n)
    weight = truncated_ratio(proximal_logp_n, behavior_logp_n, cap=ratio_cap)
    return weight * clipped_loss(logp_n, proximal_logp_n, advantage_n, clip_range=clip_range)


def awr_loss(logp_n: Tensor, advantage_n: Tensor, *, weight_max: float) -> Tensor:
    """-w log π, w = min(exp A, weight_max): needs no behavior policy (Peng et al. 2019, eq. 9)."""
    _check(logp_n, advantage_n)
    return -torch.exp(advantage_n).clamp(max=weight_max) * logp_n


def value_loss(output_n: Tensor, target_n: Tensor, *, coefficient: float) -> Tensor:
    """Coefficient · (h - target)², both in the network's own scale."""
    _check(output_n, target_n)
    return coefficient * (output_n - target_n).square()


def _check(*tensors_n: Tensor) -> None:
    shape = tensors_n[0].shape
    if len(shape) != 1 or any(tensor.shape != shape for tensor in tensors_n):
        raise ValueError(f"shapes are {[tuple(tensor.shape) for tensor in tensors_n]}; accepted: [n] each")
