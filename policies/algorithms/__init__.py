"""Algorithms: one module each, found by name. Importing this package loads no torch."""

import importlib
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from experience.batch import Batch

if TYPE_CHECKING:
    from torch import Tensor

    from policies.arrays.rows import ArrayRows, Float32
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


@runtime_checkable
class SlopedAlgorithm(Algorithm, Protocol):
    """An algorithm that brings its derivative, so that small networks can be trained without autograd."""

    def policy_slope(
        self, rows: "ArrayRows", logp: "Float32", reference_logp: "Float32 | None"
    ) -> "tuple[Float32, Float32]":
        """Loss of each step and its derivative in log π, [n] each, new arrays; else as ``policy_loss``."""


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
