"""Batch: episodes laid end to end, with the offsets at which each begins."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Batch:
    """E episodes with N steps in all; the steps of episode e are rows offsets[e]:offsets[e + 1].

    Attributes:
        obs: [N, *observation_shape] float32 or uint8, the observation before each action, not scaled.
        final_obs: [E, *observation_shape] likewise, the one after the last action; zeros where terminated.
        action: [N] int64 (discrete), [N, F] int64 (several choices at once) or [N, A] float32 (continuous).
        reward: [N] float64.
        logp: [N] float64 under the behavior policy; NaN where neither logged nor recovered.
        mask: [N, n] bool or None; True where an action was allowed.
        policy_version: [N] int64, the version that acted; 0: none of ours, or unknown.
        offsets: [E + 1] int64, offsets[0] = 0, offsets[E] = N.
        terminated: [E] bool; False means bootstrap from final_obs.
        total_reward: [E] float64, each episode's undiscounted return.
    """

    obs: NDArray[Any]
    final_obs: NDArray[Any]
    action: NDArray[Any]
    reward: NDArray[np.float64]
    logp: NDArray[np.float64]
    mask: NDArray[np.bool_] | None
    policy_version: NDArray[np.int64]
    offsets: NDArray[np.int64]
    terminated: NDArray[np.bool_]
    total_reward: NDArray[np.float64]

    @property
    def n_steps(self) -> int:
        """N."""
        return len(self.reward)

    @property
    def n_episodes(self) -> int:
        """E."""
        return len(self.terminated)
