"""REINFORCE (Williams 1992) with a choice of baselines; for episodes of the current policy only."""

from torch import Tensor

from experience.batch import Batch
from policies.arrays.rows import ArrayRows, Float32
from policies.arrays.slopes import reinforce_slope
from policies.baselines import BASELINES
from policies.estimates import Estimates, Float64, generalized_advantages
from policies.losses import reinforce_loss
from policies.networks import Evaluation
from policies.rows import Rows
from policies.settings import LearnerSettings


class Reinforce:
    """Discounted returns minus a baseline; with the "value" baseline, GAE."""

    scales_by_ess = False
    needs_reference = False
    reuses_episodes = False

    def __init__(self, settings: LearnerSettings) -> None:
        self._settings = settings
        self.trains_value = settings.baseline == "value"

    def advantages(self, batch: Batch, estimates: Estimates) -> Float64:
        """Return to go minus the baseline, or GAE."""
        if not self.trains_value:
            baseline = BASELINES[self._settings.baseline]
            return estimates.returns - baseline(estimates.returns, batch.offsets, estimates.average_return)
        return generalized_advantages(batch, estimates, self._settings)

    def policy_loss(self, rows: Rows, now: Evaluation, reference_logp: Tensor | None) -> Tensor:
        """Loss of each step [n]."""
        del reference_logp
        return reinforce_loss(now.logp, rows.advantage)

    def policy_slope(
        self, rows: ArrayRows, logp: Float32, reference_logp: Float32 | None
    ) -> tuple[Float32, Float32]:
        """Loss and slope of each step [n]."""
        del reference_logp
        return reinforce_slope(logp, rows.advantage)
