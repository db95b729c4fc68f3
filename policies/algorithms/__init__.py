"""Algorithms: one module each, found by name. Importing this package loads no torch."""

import importlib
from typing import TYPE_CHECKING, Protocol

from experience.batch import Batch

if TYPE_CHECKING:
    from torch import Tensor

    from policies.estimates import Estimates, Float64
    from policies.networks import Evaluation
    from policies.rows import Rows
    from policies.settings import LearnerSettings


class Algorithm(Protocol):
    """What distinguishes one learning rule from another; the loop over a batch is the learner's.

    Attributes:
        trains_value: whether a value network is trained, with value + advantage as its target.
        scales_by_ess: whether the policy's step follows the effective sample size.
        needs_reference: whether ``policy_loss`` compares with a proximal policy.
        reuses_episodes: whether it corrects for the policy that acted, so that old episodes do no harm.
    """

    @property
    def trains_value(self) -> bool: ...  # noqa: D102 - see above

    @property
    def scales_by_ess(self) -> bool: ...  # noqa: D102

    @property
    def needs_reference(self) -> bool: ...  # noqa: D102

    @property
    def reuses_episodes(self) -> bool: ...  # noqa: D102

    def advantages(self, batch: Batch, estimates: "Estimates") -> "Float64":
        """Return an advantage for every step [N], held fixed for the update."""

    def policy_loss(self, rows: "Rows", now: "Evaluation", reference_logp: "Tensor | None") -> "Tensor":
        """Loss of each step [n], without the entropy bonus."""


ALGORITHMS = {
    "ppo": "policies.algorithms.ppo:PPO",
    "reinforce": "policies.algorithms.reinforce:Reinforce",
}
"""Name -> "module:class"; the class takes the settings."""


def create_algorithm(settings: "LearnerSettings") -> Algorithm:
    """Build the algorithm that the settings name."""
    module, _, name = ALGORITHMS[settings.algorithm].partition(":")
    algorithm: Algorithm = getattr(importlib.import_module(module), name)(settings)
    return algorithm
