"""Networks in training (torch, without autograd): one block of those that take steps; the proximal policy."""

import math

import torch
from torch import Tensor

from policies.arrays.arena import enter, leave
from policies.arrays.perceptrons import Inputs, Workspace, tail_of
from policies.arrays.rows import Float32
from policies.arrays.steps import BlockOptimizer, clip_to_norm, norms_of
from policies.learner_state import LearnerState
from policies.networks import Layout, Network
from policies.proximal import ProximalAverage
from policies.remedies import Remedies
from policies.settings import LearnerSettings
from policies.spec import Activation


class TrainedNetworks:
    """Policy, value or both, with their gradient and their optimizers' state.

    Args:
        state: read here, written by ``finish`` only.
        settings: clipping, and the pull to the initial weights.
        remedies: where that pull goes to.
        activation: of the perceptrons.
        policy_rate: the policy's learning rate; None: it is not trained.
        value_rate: the value network's.

    Attributes:
        networks: which they are: the rows of the block, the policy first.
        weights: [S, P].
        log_std: [A] view of the policy's; None for a categorical policy.
        policy_weights, policy_gradient: [P] views; of the first network, if the policy is none.
    """

    def __init__(
        self,
        state: LearnerState,
        settings: LearnerSettings,
        remedies: Remedies,
        *,
        activation: Activation,
        policy_rate: float | None,
        value_rate: float | None,
    ) -> None:
        rates = {state.policy: policy_rate, state.value: value_rate}
        optimizers = {state.policy: state.policy_optimizer, state.value: state.value_optimizer}
        self.networks: list[Network] = [network for network, rate in rates.items() if rate is not None]
        self._rates = [rate for rate in rates.values() if rate is not None]
        self._room = room = enter([network.layout for network in self.networks], activation)
        self._block, self.weights, self._gradient = room.block, room.weights, room.gradient
        self._block.pack([network.flat for network in self.networks], self.weights)
        self.log_std = self._block.tail(self.weights) if state.policy.log_std is not None else None
        self._gradient_array = self._gradient.numpy()
        self.policy_weights, self.policy_gradient, _, _ = room.rows[0]
        self._optimizer = BlockOptimizer([optimizers[network] for network in self.networks], room)
        bounds = {state.policy: settings.max_grad_norm, state.value: settings.value_max_grad_norm}
        self._bounds = [bounds[network] for network in self.networks]
        self._joint_bound = settings.max_grad_norm if settings.joint_clip else None
        self._pull = 2.0 * settings.l2_init
        if self._pull:
            self._anchors = torch.empty(self._block.shape)
            self._block.pack([remedies.anchor(network) for network in self.networks], self._anchors)

    def forward(self, inputs: Inputs) -> Workspace:
        """Outputs [S, k, n] for n steps; their gradient is to be written beside them."""
        return self._room.perceptrons.forward(inputs)

    def backward(
        self, inputs: Inputs, work: Workspace, log_std_gradient: Float32 | None, *, accumulate: bool
    ) -> None:
        """Set the gradient from ``work.delta``, or add to it."""
        room = self._room
        room.perceptrons.backward(inputs, work, room.gradients, accumulate=accumulate)
        if log_std_gradient is not None:
            tail = self._block.tail(self._gradient)
            tail[:] = tail + log_std_gradient if accumulate else log_std_gradient

    def pull(self) -> None:
        """Add the gradient of λ ‖θ - θ₀‖²; see ``policies.remedies.pull_``."""
        if self._pull:
            n = self._block.weights
            self._gradient[:, :n] += self._pull * (self.weights - self._anchors)[:, :n]

    def clip(self) -> list[float]:
        """Cut the gradients to their bounds; return the norm of each before, or the common one for each."""
        gradient = self._gradient_array
        norms = norms_of(gradient)
        if self._joint_bound is not None:
            common = math.hypot(*norms)
            clip_to_norm(gradient, common, self._joint_bound)
            return [common for _ in norms]
        for row, norm, bound in zip(gradient, norms, self._bounds, strict=True):
            clip_to_norm(row, norm, bound)
        return norms

    def step(self) -> None:
        """Take one step along the gradient."""
        self._optimizer.step(self._rates)

    def finish(self) -> None:
        """Write weights and optimizers back."""
        self._block.unpack(self.weights, [network.flat for network in self.networks])
        self._optimizer.finish()

    def leave(self) -> None:
        """Let the next training have the memory; nothing of this is to be used afterwards."""
        leave(self._room)


class ProximalNetwork:
    """The moving average of the policy's weights as a block of one network.

    Args:
        average: moves with ``finish``, its counters with every step.
        layout: of the policy.
        activation: of the perceptron.
    """

    def __init__(self, average: ProximalAverage, layout: Layout, activation: Activation) -> None:
        self._average, self._room = average, enter([layout], activation)
        self._block, self._weights = self._room.block, self._room.weights
        self._block.pack([average.flat], self._weights)
        self._row = self._weights[0]
        self.log_std = self._block.tail(self._weights) if tail_of(layout) else None

    def outputs(self, inputs: Inputs) -> Float32:
        """Outputs [k, n] for n steps; the next call overwrites them."""
        outputs: Float32 = self._room.perceptrons.forward(inputs.single).outputs[0]
        return outputs

    def follow(self, policy: Tensor) -> None:
        """Take in the policy's weights [P] after one of its steps."""
        self._row.lerp_(policy, self._average.advance())

    def finish(self) -> None:
        """Write the average back."""
        self._block.unpack(self._weights, [self._average.flat])

    def leave(self) -> None:
        """Let the next training have the memory."""
        leave(self._room)
