"""ArrayEpochs (numpy): the passes of ``policies.epochs``; the package says how its parts fit."""

import itertools
import math

import numpy as np
from numpy.typing import NDArray

from policies.algorithms import SlopedAlgorithm
from policies.arrays.actions import Actions, Categorical, Gaussian
from policies.arrays.networks import ProximalNetwork, TrainedNetworks
from policies.arrays.perceptrons import Inputs, Workspace
from policies.arrays.rows import ArrayRows, Float32
from policies.epochs import ADVANTAGE_EPSILON, check_finite
from policies.learner_state import LearnerState
from policies.networks import Network
from policies.noise_scale import GradientNoise, NoiseProbe
from policies.remedies import Remedies
from policies.rows import Rows
from policies.settings import LearnerSettings
from policies.spec import Activation

CHUNK_ROWS = 2048
"""Rows through one network at once, half of them through two. With 32 to 512 units a layer it was the fastest
of 256 to 4096, or as fast: half as many took 5 to 25 % longer, as calls cost more than what leaves the cache.
"""

Chunk = tuple[ArrayRows, Inputs]

TRACED = ("policy_loss", "value_loss", "grad_norm", "value_grad_norm", "kl", "entropy_end")


class ArrayEpochs:
    """Trains the networks of ``state`` on ``rows`` on the CPU; see ``Epochs`` for the other arguments.

    Args:
        state: changed when the run ends.
        activation: of the perceptrons, which have no layer normalization.

    Attributes:
        trained: the networks that take steps.
        noise: of the policy's gradient in the first epoch, when the settings ask for it.
    """

    def __init__(
        self,
        state: LearnerState,
        settings: LearnerSettings,
        algorithm: SlopedAlgorithm,
        remedies: Remedies,
        *,
        activation: Activation,
        policy_rate: float | None,
        value_rate: float | None,
    ) -> None:
        self._settings, self._algorithm = settings, algorithm
        self._trains_policy, self._trains_value = policy_rate is not None, value_rate is not None
        self._networks = TrainedNetworks(
            state, settings, remedies, activation=activation, policy_rate=policy_rate, value_rate=value_rate
        )
        self.trained: list[Network] = self._networks.networks
        self._outputs = state.policy.head()[1].numel()
        log_std = state.policy.log_std
        self._start_log_std = None if log_std is None else log_std.detach().numpy().copy()
        self._proximal: ProximalNetwork | None = None
        if state.proximal is not None and self._trains_policy:
            self._proximal = ProximalNetwork(state.proximal, state.policy.layout, activation)
        self._trace = dict.fromkeys(TRACED, 0.0)
        self._watches_kl = False
        self._minibatches = 0
        self._probe = NoiseProbe() if settings.noise_scale and self._trains_policy else None
        self.noise: GradientNoise | None = None

    @property
    def policy_steps(self) -> int:
        """Optimizer steps of the policy so far."""
        return self._minibatches if self._trains_policy else 0

    @property
    def value_steps(self) -> int:
        """Optimizer steps of the value network so far."""
        return self._minibatches if self._trains_value else 0

    def run(self, rows: Rows, orders: NDArray[np.int64]) -> dict[str, float]:
        """Train once through ``orders`` [epochs, n]; return the means of the trace.

        Raises:
            UpdateDiverged: a loss, a gradient or a weight is not finite; the state is spoiled.
        """
        with np.errstate(all="ignore"):  # what is not finite is found at the end
            in_last = self._epochs(rows, orders)
            self._networks.finish()
            if self._proximal is not None:
                self._proximal.finish()
            means = {name: total / self._minibatches for name, total in self._trace.items()}
            means |= {name: self._trace[name] / in_last for name in ("kl", "entropy_end")}
            check_finite({name.replace("_", " "): number for name, number in means.items()})
            self._check_weights()
        self._networks.leave()
        if self._proximal is not None:
            self._proximal.leave()
        return means

    def _epochs(self, rows: Rows, orders: NDArray[np.int64]) -> int:
        """Take every step; return how many there were in the last epoch."""
        with_parameters = self._trains_policy and self._proximal is None
        source = ArrayRows.of(rows, outputs=self._outputs, with_parameters=with_parameters)
        # The order of a minibatch that is the whole batch does not matter.
        whole = self._settings.minibatches == 1 and self._settings.advantage_normalization != "minibatch"
        shuffled = source if whole else source.empty()
        minibatches = [(part, self._chunks(part)) for part in self._parts(shuffled)]
        for epoch, order in enumerate(orders):
            last = epoch == len(orders) - 1
            self._watches_kl = self._trains_policy and (self._settings.target_kl > 0 or last)
            self._trace["kl"] = self._trace["entropy_end"] = 0.0
            if not whole:
                source.shuffle_into(shuffled, order)
            for part, chunks in minibatches:
                self._minibatch(part, chunks)
            if self._probe is not None:
                self.noise, self._probe = self._probe.estimate(len(rows)), None
            if self._watches_kl and self._trace["kl"] / len(minibatches) > self._settings.target_kl > 0:
                break
        return len(minibatches)

    def _parts(self, rows: ArrayRows) -> list[ArrayRows]:
        """Cut an epoch into its minibatches; empty ones are left out."""
        parts = self._settings.minibatches
        cuts = [len(rows) * i // parts for i in range(parts + 1)]
        return [rows.part(start, stop) for start, stop in itertools.pairwise(cuts) if stop > start]

    def _chunks(self, rows: ArrayRows) -> list[Chunk]:
        networks = len(self.trained)
        return [(chunk, Inputs(chunk.inputs, networks)) for chunk in rows.chunks(CHUNK_ROWS // networks)]

    def _minibatch(self, rows: ArrayRows, chunks: list[Chunk]) -> None:
        if self._settings.advantage_normalization == "minibatch":
            normalize_unbiased_(rows.advantage)
        networks = self._networks
        for i, (chunk, inputs) in enumerate(chunks):
            work, log_std_gradient = networks.forward(inputs), None
            if self._trains_policy:
                log_std_gradient = self._policy(chunk, inputs, work, len(rows))
            if self._trains_value:
                self._value(chunk, work, len(rows))
            networks.backward(inputs, work, log_std_gradient, accumulate=i > 0)
        self._step()
        self._minibatches += 1

    def _policy(self, rows: ArrayRows, inputs: Inputs, work: Workspace, n: int) -> Float32 | None:
        """Gradient of the policy's loss over a chunk of a minibatch of n rows, in the outputs.

        Returns:
            That in the log standard deviations [A], if there are any.
        """
        now = self._actions(work.outputs[0], self._networks.log_std, rows)
        reference_logp = self._compare(now, rows, inputs, n)
        loss, slope = self._algorithm.policy_slope(rows, now.logp, reference_logp)
        bonus = self._settings.entropy_bonus
        if bonus > 0:
            loss -= bonus * now.entropy()
        scale = 1.0 if self._settings.lr_scaling == "sum" else 1.0 / n
        weight = scale if rows.weight is None else scale * rows.weight
        loss *= weight
        self._trace["policy_loss"] += float(np.add.reduce(loss))
        slope *= weight
        return now.gradient(slope, bonus * weight, work.delta[0, : self._outputs])

    def _value(self, rows: ArrayRows, work: Workspace, n: int) -> None:
        """Gradient of c (h - target)² over a chunk, in the outputs: 2 c (h - target) / n."""
        coefficient = self._settings.value_coefficient / n
        error = work.outputs[-1, 0] - rows.target
        self._trace["value_loss"] += coefficient * float(error @ error)
        np.multiply(error, 2.0 * coefficient, out=work.delta[-1, 0])

    def _compare(self, now: Actions, rows: ArrayRows, inputs: Inputs, n: int) -> Float32 | None:
        """Trace KL(reference ‖ now) where it is watched; return log π of the reference if it is needed."""
        needed = self._algorithm.needs_reference
        if not (needed or self._watches_kl):
            return None
        reference = self._reference(now, rows, inputs)
        if self._watches_kl:
            divergence = 0.0 if reference is now else float(np.add.reduce(reference.divergence(now)))
            self._trace["kl"] += divergence / n
            self._trace["entropy_end"] += _mean(now.entropy()) * (len(rows) / n)
        return reference.logp if needed else None

    def _reference(self, now: Actions, rows: ArrayRows, inputs: Inputs) -> Actions:
        """Return the proximal policy: the moving average as it is now, or the policy at the start."""
        if self._proximal is not None:
            return self._actions(self._proximal.outputs(inputs), self._proximal.log_std, rows)
        if rows.start_parameters is None:  # the only step of the update: this is the start
            rows.start_logp[:] = now.logp
            return now
        if self._start_log_std is None:
            return Categorical(rows.start_parameters, rows.start_logp, rows.action)
        return Gaussian(rows.start_parameters, self._start_log_std, rows.action, logp_n=rows.start_logp)

    def _actions(self, outputs_kn: Float32, log_std: Float32 | None, rows: ArrayRows) -> Actions:
        outputs = outputs_kn[: self._outputs]
        return Categorical.of(outputs, rows) if log_std is None else Gaussian(outputs, log_std, rows.action)

    def _step(self) -> None:
        networks = self._networks
        if self._probe is not None:
            self._probe.add(networks.policy_gradient)
        networks.pull()
        norms = networks.clip()
        if self._trains_policy:
            self._trace["grad_norm"] += norms[0]
        if self._trains_value or self._settings.joint_clip:
            self._trace["value_grad_norm"] += norms[-1]
        networks.step()
        if self._proximal is not None:
            self._proximal.follow(networks.policy_weights)

    def _check_weights(self) -> None:
        names = ["policy weights"] * self._trains_policy + ["value weights"] * self._trains_value
        sums = np.add.reduce(self._networks.weights.numpy(), axis=1).tolist()
        check_finite(dict(zip(names, sums, strict=True)))


def _mean(numbers: Float32) -> float:
    """Of an array [n] or []."""
    return float(np.add.reduce(numbers, axis=None)) / numbers.size


def normalize_unbiased_(advantage_n: Float32) -> None:
    """(A - mean) / (std + 1e-8) with the unbiased deviation, in place; a single one as it is."""
    n = len(advantage_n)
    if n > 1:
        advantage_n -= np.add.reduce(advantage_n) / n
        advantage_n /= math.sqrt(float(advantage_n @ advantage_n) / (n - 1)) + ADVANTAGE_EPSILON
