"""Preparation (torch): what is fixed for an update, before training: value scale, advantages, ratios."""

from dataclasses import dataclass
from typing import Any

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
from policies.transfer import to_device
from policies.trust import ALL, Trust, trust_by_ess
from policies.weighting import effective_sample_fraction, largest_ratio, normalized

Float64 = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Ratios:
    """How the policy at the start of an update relates to those that acted.

    Attributes:
        entropy: mean over the steps, in nats.
        ess_fraction: effective sample size over the steps with a behavior log-probability.
        ratio_max: largest importance ratio.
        unlogged_steps: how many have no behavior log-probability.
    """

    entropy: float
    ess_fraction: float
    ratio_max: float
    unlogged_steps: int


@dataclass(frozen=True, kw_only=True)
class Start:
    """A batch made ready.

    Attributes:
        rows: its steps on the device.
        ratios: None where the update's own pass is the first to evaluate the policy.
        trust: which steps move the policy, and how far.
    """

    rows: Rows
    ratios: Ratios | None
    trust: Trust


@dataclass(frozen=True, kw_only=True)
class _Inputs:
    obs: Tensor
    final_obs: Tensor
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

    def prepare(self, batch: Batch, *, evaluate_policy: bool = True) -> Start:
        """Fix ratios under the policy as it is, then values and advantages.

        Args:
            batch: what to learn from.
            evaluate_policy: False leaves ratios and the policy at the start to an update of a single step,
                whose own pass is over that policy; only for algorithms that do not scale by the ratios.
        """
        check_batch(batch, self._base)
        if self._base.spec.normalize and self.statistics.count == 0:
            # Nobody has acted with statistics yet: train under those that the next version will act with.
            self.statistics = RunningStatistics.of(real_numbers(self._base.spec, batch.obs))
        inputs = self._inputs(batch)
        logged = np.isfinite(batch.logp)
        now, ratios, trust = None, None, ALL
        if evaluate_policy:
            now = self._evaluate(inputs)
            logp = now.logp.cpu().numpy().astype(np.float64)
            ratios = ratios_of(batch, logp, entropy=float(now.entropy.mean()))
            trust = self._trust(batch, logp, logged)
        advantage, target = self._advantages(batch, inputs)
        fixed = {"advantage": advantage, "target": target, "behavior_logp": np.where(logged, batch.logp, 0.0)}
        if trust.kept is not None:
            fixed["weight"] = trust.kept / trust.kept.mean()
        with np.errstate(over="ignore"):  # what is not finite is found in training
            arrays: dict[str, NDArray[Any]] = {name: one.astype(np.float32) for name, one in fixed.items()}
        if not logged.all():
            arrays["logged"] = logged
        rows = Rows(
            obs=inputs.obs,
            action=inputs.action,
            mask=inputs.mask,
            start_logp=torch.empty(batch.n_steps) if now is None else now.logp,
            start_parameters=None if now is None else now.parameters,
            **to_device(arrays, self._device),
        )
        return Start(rows=rows, ratios=ratios, trust=trust)

    def log_probs(self, batch: Batch) -> NDArray[np.float32]:
        """Log-probability of each action, [N], under the policy as it is."""
        check_batch(batch, self._base)
        logp: NDArray[np.float32] = self._evaluate(self._inputs(batch)).logp.cpu().numpy()
        return logp

    def _trust(self, batch: Batch, logp: Float64, logged: NDArray[np.bool_]) -> Trust:
        if not self._algorithm.scales_by_ess:
            return ALL
        log_ratio = logp - np.where(logged, batch.logp, 0.0)
        return trust_by_ess(log_ratio, logged, batch.policy_version, minimum=self._settings.ess_min)

    def _inputs(self, batch: Batch) -> _Inputs:
        space = self._base.spec.action
        whole = not isinstance(space, ContinuousSpace)
        arrays: dict[str, NDArray[Any]] = {
            "obs": network_inputs(self._base.spec, self.statistics, batch.obs),
            "final_obs": network_inputs(self._base.spec, self.statistics, batch.final_obs),
            "action": batch.action.astype(np.int64, copy=False) if whole else batch.action,
        }
        if batch.mask is not None:
            arrays["mask"] = allowing(space, batch.mask, batch.action)
        moved = to_device(arrays, self._device)
        return _Inputs(
            obs=moved["obs"], final_obs=moved["final_obs"], action=moved["action"], mask=moved.get("mask")
        )

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

    def _advantages(self, batch: Batch, inputs: _Inputs) -> tuple[Float64, Float64]:
        """(advantages, targets in the value network's own scale), [N] each."""
        estimates = self._valued(batch, inputs) if self._algorithm.trains_value else self._averaged(batch)
        advantage = self._algorithm.advantages(batch, estimates)
        scale = self._state.value_scale or UNSCALED
        target = scale.normalized(estimates.value + advantage)
        if self._settings.advantage_normalization == "batch":
            advantage = normalized(advantage)
        check_finite({"advantage": np.add.reduce(advantage), "value target": np.add.reduce(target)})
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

    def _valued(self, batch: Batch, inputs: _Inputs) -> Estimates:
        """Values under the scale that this batch's returns have moved."""
        output, final_output = self._value_outputs(inputs.obs), self._value_outputs(inputs.final_obs)
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


def ratios_of(batch: Batch, logp_n: NDArray[np.floating], *, entropy: float) -> Ratios:
    """Compare log-probabilities of the policy [N] with those that were logged.

    Raises:
        UpdateDiverged: one of them is not finite.
    """
    check_finite({"entropy": entropy, "log-probability": float(logp_n.sum(dtype=np.float64))})
    logged = np.isfinite(batch.logp)
    log_ratio = logp_n - batch.logp
    if not logged.all():
        log_ratio = log_ratio[logged]
    return Ratios(
        entropy=entropy,
        ess_fraction=effective_sample_fraction(log_ratio),
        ratio_max=largest_ratio(log_ratio),
        unlogged_steps=len(logged) - len(log_ratio),
    )


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
