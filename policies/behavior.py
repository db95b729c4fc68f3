"""Log-probabilities under the behavior policy, computed again from the version that acted."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from policies.checkpoint import Arrays
from policies.distributions import categorical_log_prob, gaussian_log_prob
from policies.factored import factored_log_prob
from policies.forward import policy_outputs
from policies.normalizer import RunningStatistics
from policies.spec import ContinuousSpace, DiscreteSpace, PolicySpec

CHUNK_ROWS = 512  # activations of a 64-wide network stay in the second-level cache


class ActingPolicy(Protocol):
    """What is needed to act like a version; a Checkpoint is one."""

    @property
    def spec(self) -> PolicySpec:
        """Shapes and spaces."""

    @property
    def weights(self) -> Arrays:
        """Named as ``spec.shapes()``."""

    @property
    def normalizer(self) -> RunningStatistics:
        """Observation statistics of that version, not of a later one."""


def log_probs(
    policy: ActingPolicy,
    obs: NDArray[Any],
    action: NDArray[Any],
    mask: NDArray[np.bool_] | None = None,
    *,
    chunk_rows: int = CHUNK_ROWS,
) -> NDArray[np.float64]:
    """Log-probability of each action under ``policy``, float64 [N].

    Args:
        policy: the version that acted.
        obs: [N, *observation_shape].
        action: [N] integers (discrete), [N, choices] integers (multi_discrete, multi_binary), or [N, A]
            floats as sampled, before any clipping (continuous).
        mask: [N, outputs] bool, or None; not read for continuous actions.
        chunk_rows: how many rows go through the network at once.

    Raises:
        ValueError: shapes that do not fit the policy or each other.
    """
    if len(obs) != len(action) or (mask is not None and len(mask) != len(obs)):
        raise ValueError(f"{len(obs)} observations, {len(action)} actions; accepted: as many of each")
    result = np.empty(len(action), np.float64)
    for begin in range(0, len(action), chunk_rows):
        rows = slice(begin, begin + chunk_rows)
        chunk_mask = None if mask is None else mask[rows]
        result[rows] = _chunk(policy, obs[rows], action[rows], chunk_mask)
    return result


def _chunk(
    policy: ActingPolicy, obs: NDArray[Any], action: NDArray[Any], mask: NDArray[np.bool_] | None
) -> NDArray[np.float64]:
    outputs = policy_outputs(policy.weights, policy.spec, policy.normalizer, obs)
    space = policy.spec.action
    if isinstance(space, DiscreteSpace):
        return categorical_log_prob(outputs, action, mask)
    if isinstance(space, ContinuousSpace):
        return gaussian_log_prob(outputs, policy.weights["log_std"], action)
    return factored_log_prob(outputs, space, action, mask)
