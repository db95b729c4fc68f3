"""Preparation (torch): what is fixed for an update, before training: value scale, advantages, ratios."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experience.batch import Batch
from experience.choices import allowing, choices_problem
from policies.algorithms import Algorithm
from policies.baselines import moved_average
from policies.checkpoint import Checkpoint
from policies.epochs import CHUNK_ROWS, check_finite
from policies.estimates import Estimates
from policies.inputs import network_inputs, real_numbers
from policies.learner_state import LearnerState
from policies.networks import Evaluation, evaluate
from policies.normalizer import RunningStatistics
from policies.popart import UNSCALED, ValueScale, head_change
from policies.returns import discounted_returns
from policies.rows import Rows
from policies.settings import LearnerSettings
from policies.spec import ContinuousSpace
from policies.trust import ALL, Trust, trust_by_ess
from policies.weighting import effective_sample_fraction, largest_ratio, normalized

Float64 = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Start:
    """A batch made ready.

    Attributes:
        rows: its steps on the device.
        entropy: mean over them, in nats.
        ess_fraction: effective sample size over the steps with a behavior log-probability.
        ratio_max: largest importance ratio.
        unlogged_steps: how many have no behavior log-probability.
        trust: which steps move the policy, and how far.
    """

    rows: Rows
    entropy: float
    ess_fraction: float
    ratio_max: float
    unlogged_steps: int
    trust: Trust


@dataclass(frozen=True, kw_only=True)
class _Inputs:
    obs: Tensor
    action: Tensor
    mask: Tensor | None


class Preparation:
    """Makes batches ready for the networks of ``state``.

    Args:
        base: the version whose observation statistics are used; one without any takes the first batch's.
        state: its value scale, value head and baseline move with every batch.
        settings: the learning rule.
        algorithm: its advantages.
        device: where the rows go.

    Attributes:
        statistics: of the observations, as the networks see them.
    """

    def __init__(
        self,
        base: Checkpoint,
        state: LearnerState,
        settings: LearnerSettings,
        algorithm: Algorithm,
        *,
        device: str,
    ) -> None:
        self._base, self._state = base, state
        self._settings, self._algorithm = settings, algorithm
        self._device = device
        self.statistics = base.normalizer

    def prepare(self, batch: Batch) -> Start:
        """Fix ratios under the policy as it is, then values and advantages."""
        check_batch(batch, self._base)
        if self._base.spec.normalize and self.statistics.count == 0:
            # Nobody has acted with statistics yet: train under those that the next version will act with.
            self.statistics = RunningStatistics.of(real_numbers(self._base.spec, batch.obs))
        inputs = self._inputs(batch)
        now = self._evaluate(inputs)
        entropy = float(now.entropy.mean())
        logp = now.logp.cpu().numpy().astype(np.float64)
        check_finite({"entropy": entropy, "log-probability": float(logp.sum())})
        logged = np.isfinite(batch.logp)
        behavior_logp = np.where(logged, batch.logp, 0.0)
        log_ratio = logp - behavior_logp
        trust = self._trust(batch, log_ratio, logged)
        advantage, target = self._advantages(batch, inputs.obs)
        return Start(
            rows=Rows(
                obs=inputs.obs,
                action=inputs.action,
                mask=inputs.mask,
                advantage=self._float32(advantage),
                target=self._float32(target),
                behavior_logp=self._float32(behavior_logp),
                start_logp=now.logp,
                start_parameters=now.parameters,
                logged=None if logged.all() else torch.from_numpy(logged).to(self._device),
                weight=None if trust.kept is None else self._float32(trust.kept / trust.kept.mean()),
            ),
            entropy=entropy,
            ess_fraction=effective_sample_fraction(log_ratio[logged]),
            ratio_max=largest_ratio(log_ratio[logged]),
            unlogged_steps=int((~logged).sum()),
            trust=trust,
        )

    def log_probs(self, batch: Batch) -> NDArray[np.float32]:
        """Log-probability of each action, [N], under the policy as it is."""
        check_batch(batch, self._base)
        logp: NDArray[np.float32] = self._evaluate(self._inputs(batch)).logp.cpu().numpy()
        return logp

    def _trust(self, batch: Batch, log_ratio: Float64, logged: NDArray[np.bool_]) -> Trust:
        if not self._algorithm.scales_by_ess:
            return ALL
        return trust_by_ess(log_ratio, logged, batch.policy_version, minimum=self._settings.ess_min)

    def _inputs(self, batch: Batch) -> _Inputs:
        space = self._base.spec.action
        action = torch.tensor(batch.action)  # copies: an episode's arrays are read-only
        if not isinstance(space, ContinuousSpace):
            action = action.to(torch.int64)
        mask = None
        if batch.mask is not None:
            mask = torch.from_numpy(allowing(space, batch.mask, batch.action))
        return _Inputs(
            obs=self._observations(batch.obs),
            action=action.to(self._device),
            mask=None if mask is None else mask.to(self._device),
        )

    def _observations(self, obs: NDArray[np.float32]) -> Tensor:
        rows = network_inputs(self._base.spec, self.statistics, obs)
        return torch.tensor(rows, device=self._device)

    def _evaluate(self, inputs: _Inputs) -> Evaluation:
        """Evaluate every step under the policy, in chunks."""
        policy = self._state.policy
        most = CHUNK_ROWS[inputs.obs.device.type]
        parts: list[Evaluation] = []
        with torch.no_grad():
            for first in range(0, len(inputs.obs), most):
                rows = slice(first, first + most)
                mask = None if inputs.mask is None else inputs.mask[rows]
                outputs, action = policy(inputs.obs[rows]), inputs.action[rows]
                parts.append(evaluate(outputs, policy.log_std, action, mask, self._base.spec.action))
        return Evaluation(
            logp=torch.cat([part.logp for part in parts]),
            entropy=torch.cat([part.entropy.reshape(-1) for part in parts]),
            parameters=torch.cat([part.parameters for part in parts]),
            log_std=parts[0].log_std,
        )

    def _value_outputs(self, obs: Tensor) -> Float64:
        most = CHUNK_ROWS[obs.device.type]
        with torch.no_grad():
            parts = [self._state.value(rows).squeeze(1) for rows in obs.split(most)]
        outputs: Float64 = torch.cat(parts).cpu().numpy().astype(np.float64)
        return outputs

    def _advantages(self, batch: Batch, obs: Tensor) -> tuple[Float64, Float64]:
        """(advantages, targets in the value network's own scale), [N] each."""
        estimates = self._valued(batch, obs) if self._algorithm.trains_value else self._averaged(batch)
        advantage = self._algorithm.advantages(batch, estimates)
        scale = self._state.value_scale or UNSCALED
        target = scale.normalized(estimates.value + advantage)
        if self._settings.advantage_normalization == "batch":
            advantage = normalized(advantage)
        check_finite({"advantage": np.abs(advantage).sum(), "value target": np.abs(target).sum()})
        return advantage, target

    def _averaged(self, batch: Batch) -> Estimates:
        """Returns and the moving average of their mean as it was; the average then moves."""
        state = self._state
        returns = discounted_returns(batch.reward, batch.offsets, gamma=self._settings.gamma)
        estimates = Estimates(
            value=np.zeros_like(returns),
            bootstrap=np.zeros(batch.n_episodes),
            returns=returns,
            average_return=state.average_return or 0.0,
        )
        state.average_return = moved_average(state.average_return, returns, rate=self._settings.ema_rate)
        state.added["baseline"] += 1
        return estimates

    def _valued(self, batch: Batch, obs: Tensor) -> Estimates:
        """Values under the scale that this batch's returns have moved."""
        output = self._value_outputs(obs)
        final_output = self._value_outputs(self._observations(batch.final_obs))
        if self._settings.popart_rate > 0:
            factor, shift = self._move_scale(self._returns(batch, final_output))
            output, final_output = output * factor + shift, final_output * factor + shift
        scale = self._state.value_scale or UNSCALED
        return Estimates(
            value=scale.denormalized(output),
            bootstrap=np.where(batch.terminated, 0.0, scale.denormalized(final_output)),
            returns=np.zeros(0),
            average_return=0.0,
        )

    def _returns(self, batch: Batch, final_output: Float64) -> Float64:
        """Discounted returns, continued by the value where an episode was cut, once there is a scale."""
        scale = self._state.value_scale
        value = np.zeros_like(final_output) if scale is None else scale.denormalized(final_output)
        return discounted_returns(
            batch.reward,
            batch.offsets,
            gamma=self._settings.gamma,
            bootstrap_e=np.where(batch.terminated, 0.0, value),
        )

    def _move_scale(self, returns: Float64) -> tuple[float, float]:
        """Move the value scale and the value head with it; (factor, shift) of the head's output."""
        state = self._state
        batch_scale = ValueScale.of(returns, std_min=self._settings.popart_std_min)
        state.added["popart"] += 1
        if state.value_scale is None:
            state.value_scale = batch_scale
            return 1.0, 0.0
        moved = state.value_scale.moved(batch_scale, rate=self._settings.popart_rate)
        factor, shift = head_change(state.value_scale, moved)
        weight, bias = state.value.head()
        weight.mul_(factor)
        bias.mul_(factor).add_(shift)
        state.value_scale = moved
        return factor, shift

    def _float32(self, array: Float64) -> Tensor:
        return torch.tensor(array, dtype=torch.float32, device=self._device)


def check_batch(batch: Batch, base: Checkpoint) -> None:
    """Raise ValueError when a batch does not fit the policy."""
    spec = base.spec
    if batch.n_steps == 0:
        raise ValueError("the batch has no steps; accepted: at least one")
    if batch.obs.shape != (batch.n_steps, *spec.observation_shape):
        raise ValueError(f"obs has shape {batch.obs.shape}; accepted: [N, {spec.observation_shape}]")
    if not isinstance(spec.action, ContinuousSpace):
        found = choices_problem(spec.action, batch.action)
        if found is not None:
            raise ValueError(f"action has {found}; accepted: [N] of {spec.action}")
        if batch.mask is not None and batch.mask.shape != (batch.n_steps, spec.action.outputs):
            raise ValueError(f"mask has shape {batch.mask.shape}; accepted: [N, {spec.action.outputs}]")
    elif batch.action.shape != (batch.n_steps, spec.action.size):
        raise ValueError(f"action has shape {batch.action.shape}; accepted: [N, {spec.action.size}]")
