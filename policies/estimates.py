"""Estimates: what is known of a batch before training, held fixed for the update (numpy)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experience.batch import Batch
from policies.returns import gae
from policies.settings import LearnerSettings

Float64 = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Estimates:
    """Values and returns of N steps in E episodes.

    Attributes:
        value: [N] of each observation; 0 where no value network is trained.
        bootstrap: [E] value of the observation after the last step; 0 where terminated.
        returns: [N] discounted returns to go, with the bootstrap value at the end.
        average_return: moving average of the mean return, before this batch.
    """

    value: Float64
    bootstrap: Float64
    returns: Float64
    average_return: float


def generalized_advantages(batch: Batch, estimates: Estimates, settings: LearnerSettings) -> Float64:
    """Return GAE on the current value [N] (Schulman et al. 2016, eq. 16)."""
    return gae(
        batch.reward,
        estimates.value,
        batch.offsets,
        bootstrap_e=estimates.bootstrap,
        gamma=settings.gamma,
        gae_lambda=settings.gae_lambda,
    )
