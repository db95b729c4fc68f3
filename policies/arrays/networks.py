"""Networks in training (numpy): those that take steps as one block of weights, and the proximal policy."""

import math

import numpy as np
from torch import Tensor, from_numpy

from policies.arrays.perceptrons import Block, Perceptrons, Workspace, tail_of
from policies.arrays.rows import Float32
from policies.arrays.steps import block_optimizer, clip_to_norm, norms_of
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
        policy_gradient: [P] as a tensor on the same memory; of the first network, if the policy is none.
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
        self._block = Block([network.layout for network in self.networks])
        self.weights = self._block.pack([network.flat for network in self.networks])
        self._perceptrons = Perceptrons(self._block, self.weights, activation)
        self.log_std = self._block.tail(self.weights) if state.policy.log_std is not None else None
        self._gradient, self._part = np.zeros((2, *self._block.shape), np.float32)
        self._matrices = [self._block.matrices(self._gradient), self._block.matrices(self._part)]
        self.policy_gradient: Tensor = from_numpy(self._gradient[0])
        self._optimizer = block_optimizer([optimizers[network] for network in self.networks], self._block)
        bounds = {state.policy: settings.max_grad_norm, state.value: settings.value_max_grad_norm}
        self._bounds = [bounds[network] for network in self.networks]
        self._joint_bound = settings.max_grad_norm if settings.joint_clip else None
        self._pull = 2.0 * settings.l2_init
        if self._pull:
            self._anchors = self._block.pack([remedies.anchor(network) for network in self.networks])

    def forward(self, inputs_nd: Float32) -> Workspace:
        """Outputs [S, k, n] of inputs [n, D + 1]; their gradient is to be written beside them."""
        return self._perceptrons.forward(inputs_nd)

    def backward(
        self, inputs_nd: Float32, work: Workspace, log_std_gradient: Float32 | None, *, accumulate: bool
    ) -> None:
        """Set the gradient from ``work.delta``, or add to it."""
        gradient = self._part if accumulate else self._gradient
        self._perceptrons.backward(inputs_nd, work, self._matrices[accumulate])
        if log_std_gradient is not None:
            self._block.tail(gradient)[:] = log_std_gradient
        if accumulate:
            self._gradient += self._part

    def pull(self) -> None:
        """Add the gradient of λ ‖θ - θ₀‖²; see ``policies.remedies.pull_``."""
        if self._pull:
            n = self._block.weights
            self._gradient[:, :n] += self._pull * (self.weights - self._anchors)[:, :n]

    def clip(self) -> list[float]:
        """Cut the gradients to their bounds; return the norm of each before, or the common one for each."""
        norms = norms_of(self._gradient)
        if self._joint_bound is not None:
            common = math.hypot(*norms)
            clip_to_norm(self._gradient, common, self._joint_bound)
            return [common for _ in norms]
        for row, norm, bound in zip(self._gradient, norms, self._bounds, strict=True):
            clip_to_norm(row, norm, bound)
        return norms

    def step(self) -> None:
        """Take one step along the gradient, which is used up."""
        self._optimizer.step(self.weights, self._gradient, self._rates)

    def finish(self) -> None:
        """Write weights and optimizers back."""
        self._block.unpack(self.weights, [network.flat for network in self.networks])
        self._optimizer.finish()


class ProximalNetwork:
    """The moving average of the policy's weights as a block of one network.

    Args:
        average: moves with ``finish``, its counters with every step.
        layout: of the policy.
        activation: of the perceptron.
    """

    def __init__(self, average: ProximalAverage, layout: Layout, activation: Activation) -> None:
        self._average, self._block = average, Block([layout])
        self._weights = self._block.pack([average.flat])
        self._perceptrons = Perceptrons(self._block, self._weights, activation)
        self._scratch = np.empty_like(self._weights[0])
        self.log_std = self._block.tail(self._weights) if tail_of(layout) else None

    def outputs(self, inputs_nd: Float32) -> Float32:
        """Outputs [k, n] of inputs [n, D + 1]; the next call overwrites them."""
        outputs: Float32 = self._perceptrons.forward(inputs_nd).outputs[0]
        return outputs

    def follow(self, policy: Float32) -> None:
        """Take in the policy's weights [P] after one of its steps."""
        np.subtract(policy, self._weights[0], out=self._scratch)
        self._scratch *= self._average.advance()
        self._weights[0] += self._scratch

    def finish(self) -> None:
        """Write the average back."""
        self._block.unpack(self._weights, [self._average.flat])
