"""Plasticity: whether a network can still learn something new: dormant units, effective rank, weight norm."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.behavior import ActingPolicy
from policies.forward import Rows, hidden_activations

SAMPLE_ROWS = 512
"""Observations that are looked at: enough to know a mean |h| to a few percent. A rank is at most as many."""

DORMANT_BELOW = 0.025
"""τ of Sokar et al. 2023."""

RANK_DELTA = 0.01
"""δ of Kumar et al. 2021."""


@dataclass(frozen=True, kw_only=True)
class Plasticity:
    """Of one network, over a sample of observations.

    Attributes:
        dormant_fraction: share of the hidden units, over all layers, that are dormant.
        effective_rank: of the last hidden layer's outputs, at most its width.
        weight_norm: Euclidean, over weights and biases.
    """

    dormant_fraction: float
    effective_rank: int
    weight_norm: float


def sample(obs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Copy at most ``SAMPLE_ROWS`` rows of ``obs`` [N, ...], evenly spread."""
    return obs[:: max(1, math.ceil(len(obs) / SAMPLE_ROWS))].copy()


def plasticity(policy: ActingPolicy, obs: NDArray[np.float32], *, network: str = "policy") -> Plasticity:
    """Measure "policy" or "value" on observations [B, *shape]; about a millisecond for 64 units."""
    layers = hidden_activations(policy.weights, policy.spec, policy.normalizer, obs, network=network)
    own = [array for name, array in policy.weights.items() if name.startswith(f"{network}.")]
    return Plasticity(
        dormant_fraction=dormant_fraction(layers),
        effective_rank=effective_rank(layers[-1]),
        weight_norm=math.sqrt(sum(float(np.vdot(array, array)) for array in own)),
    )


def dormant_fraction(layers: Sequence[Rows]) -> float:
    """Share of units whose mean |h| is at most τ times the mean over their layer, τ = 0.025.

    Sokar et al. 2023, "The dormant neuron phenomenon in deep reinforcement learning", definition 3.1. A layer
    that gives nothing but zeros is dormant as a whole.

    Args:
        layers: [B, width] each, after the activation.
    """
    scores = [np.abs(rows).mean(axis=0) for rows in layers]
    dormant = np.concatenate([score <= DORMANT_BELOW * score.mean() for score in scores])
    return float(dormant.mean())


def effective_rank(rows_bw: Rows) -> int:
    """srank: the smallest k whose k largest singular values sum up to 1 - δ of all of them, δ = 0.01.

    Kumar et al. 2021, "Implicit under-parameterization inhibits data-efficient deep reinforcement learning",
    section 3. Taken from the eigenvalues of the smaller Gram matrix in float64: several times faster than a
    singular value decomposition, and exact to about 1e-8 of the largest singular value. 0 for outputs that
    are all zero, or not finite.

    Args:
        rows_bw: [B, width], features of B observations; not centered.
    """
    wide = rows_bw.astype(np.float64)
    gram = wide.T @ wide if len(wide) >= wide.shape[1] else wide @ wide.T
    if not np.isfinite(gram).all() or not gram.any():
        return 0
    singular = np.sqrt(np.maximum(np.linalg.eigvalsh(gram)[::-1], 0.0))
    cumulative = singular.cumsum()
    return 1 + int(np.searchsorted(cumulative, (1.0 - RANK_DELTA) * cumulative[-1]))
