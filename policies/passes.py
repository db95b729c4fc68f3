"""Passes: which code trains the networks, numpy or torch; both end at the same numbers but for rounding."""

from typing import Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from policies.algorithms import Algorithm, SlopedAlgorithm
from policies.arrays.epochs import ArrayEpochs
from policies.epochs import Epochs
from policies.learner_state import LearnerState
from policies.networks import Network
from policies.noise_scale import GradientNoise
from policies.remedies import Remedies
from policies.rows import Rows
from policies.settings import LearnerSettings
from policies.spec import ContinuousSpace, DiscreteSpace, PolicySpec

Path = Literal["auto", "numpy", "torch"]

ARRAY_WIDTH_MAX = 512
"""Widest layer, inputs and outputs among them, that "auto" trains in numpy.

Measured with one thread, autograd's time over numpy's at minibatches of 64 and of 1,024 steps: 64 units 4.0
and 1.7, 256 units 2.0 and 1.1, 512 units 1.3 and 1.1. Wider ones were not measured: there the products of
matrices are all that counts, and both have them from the same library.
"""


class Passes(Protocol):
    """The passes over one prepared batch; see ``Epochs``."""

    trained: list[Network]
    noise: GradientNoise | None

    @property
    def policy_steps(self) -> int: ...  # noqa: D102 - see ``Epochs``

    @property
    def value_steps(self) -> int: ...  # noqa: D102

    def run(self, rows: Rows, orders: NDArray[np.int64]) -> dict[str, float]:
        """Train once through ``orders`` [epochs, n]; return the means of the trace."""


def chosen_path(spec: PolicySpec, algorithm: Algorithm, *, device: str, path: Path) -> Path:
    """Return "numpy" or "torch": a function of what is trained and where, never of the load.

    Args:
        spec: the networks.
        algorithm: numpy needs its slopes.
        device: numpy needs "cpu".
        path: "auto" to choose; else what is asked for.

    Raises:
        ValueError: "numpy" was asked for where it cannot serve, or there is no such path.
    """
    plain = spec.observation is None and isinstance(spec.action, DiscreteSpace | ContinuousSpace)
    serves = plain and device == "cpu" and not spec.layer_norm and isinstance(algorithm, SlopedAlgorithm)
    if path == "auto":
        small = max(spec.inputs, *spec.hidden, spec.action.outputs) <= ARRAY_WIDTH_MAX
        return "numpy" if serves and small else "torch"
    if path not in {"numpy", "torch"} or (path == "numpy" and not serves):
        raise ValueError(
            f'path is {path!r}; accepted: "auto", "torch", and "numpy" on "cpu", without layer_norm, for '
            "boxes, one discrete or continuous action, and an algorithm with a policy_slope"
        )
    return path


def create_passes(
    state: LearnerState,
    settings: LearnerSettings,
    algorithm: Algorithm,
    remedies: Remedies,
    *,
    spec: PolicySpec,
    path: Path,
    policy_rate: float | None,
    value_rate: float | None,
) -> Passes:
    """Return what trains the networks of ``state`` on one batch.

    Args:
        state: changed in place.
        settings: the learning rule.
        algorithm: the policy's loss, and its slope for "numpy".
        remedies: what is done for plasticity.
        spec: of the networks.
        path: as ``chosen_path`` returned it.
        policy_rate: the policy's learning rate; None: no policy steps.
        value_rate: the value network's; None: no value steps.
    """
    if path == "numpy":
        return ArrayEpochs(
            state,
            settings,
            cast(SlopedAlgorithm, algorithm),  # as ``chosen_path`` found
            remedies,
            activation=spec.activation,
            policy_rate=policy_rate,
            value_rate=value_rate,
        )
    return Epochs(state, settings, algorithm, remedies, policy_rate=policy_rate, value_rate=value_rate)
