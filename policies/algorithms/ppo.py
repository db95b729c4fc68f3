"""PPO, decoupled: the clip is against a proximal policy, the weight against the behavior policy."""

import numpy as np
import torch
from torch import Tensor

from experience.batch import Batch
from policies.arrays.rows import ArrayRows, Float32
from policies.arrays.slopes import awr_slope, clipped_slope, decoupled_slope
from policies.estimates import Estimates, Float64, generalized_advantages
from policies.losses import awr_loss, clipped_loss, decoupled_loss
from policies.networks import Evaluation
from policies.rows import Rows
from policies.settings import LearnerSettings


class PPO:
    """Hilton, Cobbe & Schulman 2021; steps without a behavior log-probability are learned by AWR instead."""

    trains_value = True

    def __init__(self, settings: LearnerSettings) -> None:
        self._settings = settings
        self.scales_by_ess = settings.ess_scaling
        self.needs_reference = settings.decoupled
        self.reuses_episodes = settings.decoupled

    def advantages(self, batch: Batch, estimates: Estimates) -> Float64:
        """Return GAE on the current value; V-trace's were worse on stale episodes."""
        return generalized_advantages(batch, estimates, self._settings)

    def policy_loss(self, rows: Rows, now: Evaluation, reference_logp: Tensor | None) -> Tensor:
        """Loss of each step [n]."""
        loss = self._corrected_loss(rows, now, reference_logp)
        if rows.logged is None:
            return loss
        fallback = awr_loss(now.logp, rows.advantage, weight_max=self._settings.awr_weight_max)
        return torch.where(rows.logged, loss, fallback)

    def _corrected_loss(self, rows: Rows, now: Evaluation, reference_logp: Tensor | None) -> Tensor:
        clip_range = self._settings.clip_range
        if reference_logp is None:
            return clipped_loss(now.logp, rows.behavior_logp, rows.advantage, clip_range=clip_range)
        return decoupled_loss(
            now.logp,
            reference_logp,
            rows.behavior_logp,
            rows.advantage,
            clip_range=clip_range,
            ratio_cap=self._settings.ratio_cap,
        )

    def policy_slope(
        self, rows: ArrayRows, logp: Float32, reference_logp: Float32 | None
    ) -> tuple[Float32, Float32]:
        """Loss and slope of each step [n]."""
        loss, slope = self._corrected_slope(rows, logp, reference_logp)
        if rows.logged is None:
            return loss, slope
        fallback = awr_slope(logp, rows.advantage, weight_max=self._settings.awr_weight_max)
        return np.where(rows.logged, loss, fallback[0]), np.where(rows.logged, slope, fallback[1])

    def _corrected_slope(
        self, rows: ArrayRows, logp: Float32, reference_logp: Float32 | None
    ) -> tuple[Float32, Float32]:
        clip_range = self._settings.clip_range
        if reference_logp is None:
            return clipped_slope(logp, rows.behavior_logp, rows.advantage, clip_range=clip_range)
        return decoupled_slope(
            logp,
            reference_logp,
            rows.behavior_logp,
            rows.advantage,
            clip_range=clip_range,
            ratio_cap=self._settings.ratio_cap,
        )
