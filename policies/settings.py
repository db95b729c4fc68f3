"""LearnerSettings: how a batch changes the policy. Checked once; loads no torch."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal

AlgorithmName = Literal["ppo", "reinforce"]
ScalingRule = Literal["sqrt", "linear", "none", "sum"]
BaselineName = Literal["value", "ema", "batch_mean", "leave_one_out"]
OptimizerName = Literal["adam", "sgd"]
AdvantageNormalization = Literal["batch", "minibatch", "none"]

PROX_DECAY, PROX_STEPS = 0.889, 16
"""Decay by policy step of the proximal policy, and the steps of an update for which it was measured."""


class InvalidSetting(ValueError):  # noqa: N818 - it names the key that is invalid
    """A setting outside of what is accepted.

    Attributes:
        key: its name in ``[learner]``.
        value: what was given.
        accepted: what would be accepted, as text.
    """

    def __init__(self, *, key: str, value: object, accepted: str) -> None:
        super().__init__(f"learner.{key} is {value!r}; accepted: {accepted}")
        self.key = key
        self.value = value
        self.accepted = accepted


@dataclass(frozen=True, kw_only=True)
class LearnerSettings:
    """The learning rule. Defaults are the ones that stayed stable on stale episodes.

    Attributes:
        algorithm: "ppo" corrects for episodes of older versions; "reinforce" is for fresh episodes.
        learning_rate: step size for a batch of ``reference_batch_episodes``.
        lr_scaling: how it follows the episodes really in the batch; "sum" sums the REINFORCE loss over steps
            and divides the learning rate by the number of episodes.
        reference_batch_episodes: the batch for which ``learning_rate`` is meant.
        gamma: discount per step.
        gae_lambda: trace of generalized advantage estimation.
        epochs: passes over a batch.
        minibatches: optimizer steps in a pass; 1 epoch of 1 minibatch is textbook REINFORCE.
        baseline: what is subtracted from the return; ppo needs "value".
        clip_range: ε of the clipped ratio.
        ratio_cap: largest weight of a step, c; a low cap lets an error of the baseline leak into the policy.
        prox_decay: memory of the proximal policy, a decay by policy step; "auto": see ``proximal_decay``; 0:
            the policy at the start of the update.
        decoupled: whether ratio and clip are against the proximal policy, not the behavior policy.
        ess_scaling: whether the policy's step is multiplied by the effective sample size.
        ess_min: a batch with a smaller effective share is split by version; see ``policies.trust``.
        awr_weight_max: largest weight of a step without a behavior log-probability.
        entropy_bonus: weight of the entropy in the policy's loss.
        value_coefficient: weight of the squared value error.
        advantage_normalization: over the "batch" once (population moments), per "minibatch" (unbiased
            standard deviation, as other libraries do) or "none".
        optimizer: "adam" or "sgd".
        adam_beta1: decay of Adam's mean of gradients.
        adam_beta2: decay of Adam's mean of squared gradients.
        adam_epsilon: Adam's ε, added after the square root.
        max_grad_norm: longer policy gradients are cut to this norm.
        value_max_grad_norm: the same for the value network.
        joint_clip: cut both gradients together at ``max_grad_norm``, as one optimizer would.
        target_kl: end the epochs when mean KL(proximal, policy) passes it, in nats; 0: off.
        popart_rate: how fast the value network's scale follows the returns; 0: no rescaling.
        popart_std_min: smallest standard deviation of a batch's returns that is believed.
        ema_rate: how fast the "ema" baseline follows the mean return.
        l2_init: how hard the weights are pulled to the initial ones, λ of λ ‖θ - θ₀‖² in both losses.
        shrink_perturb: share of fresh initial weights that is mixed in after each update, 0 to below 1.
        noise_scale: whether to estimate the gradient noise scale.
    """

    algorithm: AlgorithmName = "ppo"
    learning_rate: float = 5e-4
    lr_scaling: ScalingRule = "sqrt"
    reference_batch_episodes: int = 8
    gamma: float = 0.99
    gae_lambda: float = 0.95
    epochs: int = 4
    minibatches: int = 4
    baseline: BaselineName = "value"
    clip_range: float = 0.2
    ratio_cap: float = 10.0
    prox_decay: float | Literal["auto"] = PROX_DECAY
    decoupled: bool = True
    ess_scaling: bool = True
    ess_min: float = 0.3
    awr_weight_max: float = 20.0
    entropy_bonus: float = 0.01
    value_coefficient: float = 0.5
    advantage_normalization: AdvantageNormalization = "batch"
    optimizer: OptimizerName = "adam"
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-5
    max_grad_norm: float = 0.5
    value_max_grad_norm: float = 10.0
    joint_clip: bool = False
    target_kl: float = 0.05
    popart_rate: float = 0.1
    popart_std_min: float = 0.01
    ema_rate: float = 0.05
    l2_init: float = 0.0
    shrink_perturb: float = 0.0
    noise_scale: bool = False

    def __post_init__(self) -> None:
        """Check each value, then the combinations; raises InvalidSetting."""
        for entry in fields(self):
            value = getattr(self, entry.name)
            accepts, accepted = _RULES[entry.name]
            if not accepts(value):
                raise InvalidSetting(key=entry.name, value=value, accepted=accepted)
        if self.algorithm == "ppo" and self.baseline != "value":
            raise InvalidSetting(key="baseline", value=self.baseline, accepted='"value" with algorithm "ppo"')
        if self.algorithm == "ppo" and self.lr_scaling == "sum":
            accepted = '"sqrt", "linear" or "none" with algorithm "ppo"'
            raise InvalidSetting(key="lr_scaling", value=self.lr_scaling, accepted=accepted)

    @property
    def averages_proximal(self) -> bool:
        """Whether a moving average of the policy's weights is kept."""
        return self.algorithm == "ppo" and self.decoupled and self.proximal_decay > 0

    @property
    def proximal_decay(self) -> float:
        """Decay by policy step of the moving average; "auto": 0.889^(16 / k), k the steps of an update.

        0.889 is what Hilton, Cobbe & Schulman 2021 have; this keeps as much of the average over an update of
        any number of steps as that does over one of 16. With a memory that does not grow with k neither the
        clip nor ``target_kl`` would bound an update of many steps: both are measured from the proximal
        policy, which would follow at its heels.
        """
        if self.prox_decay != "auto":
            return self.prox_decay
        return float(PROX_DECAY ** (PROX_STEPS / (self.epochs * self.minibatches)))


Rule = tuple[Callable[[Any], bool], str]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _number(low: float, high: float = math.inf, *, open_low: bool = False, open_high: bool = False) -> Rule:
    def accepts(value: Any) -> bool:
        if not _is_number(value):
            return False
        above = value > low if open_low else value >= low
        return bool(above and (value < high if open_high else value <= high))

    lower = f"a number {'>' if open_low else '>='} {low:g}"
    upper = "" if math.isinf(high) else f" and {'<' if open_high else '<='} {high:g}"
    return accepts, lower + upper


def _count() -> Rule:
    return (lambda value: isinstance(value, int) and value is not True and value >= 1), "an integer >= 1"


def _one_of(*names: str) -> Rule:
    return (lambda value: value in names), " or ".join(f'"{name}"' for name in names)


_SWITCH: Rule = ((lambda value: isinstance(value, bool)), "true or false")
_POSITIVE = _number(0, open_low=True)
_FRACTION = _number(0, 1)
_DECAY = _number(0, 1, open_high=True)
_DECAY_OR_AUTO: Rule = ((lambda value: value == "auto" or _DECAY[0](value)), f'"auto" or {_DECAY[1]}')

_RULES: dict[str, Rule] = {
    "algorithm": _one_of("ppo", "reinforce"),
    "learning_rate": _POSITIVE,
    "lr_scaling": _one_of("sqrt", "linear", "none", "sum"),
    "reference_batch_episodes": _count(),
    "gamma": _FRACTION,
    "gae_lambda": _FRACTION,
    "epochs": _count(),
    "minibatches": _count(),
    "baseline": _one_of("value", "ema", "batch_mean", "leave_one_out"),
    "clip_range": _number(0, 1, open_low=True, open_high=True),
    "ratio_cap": _number(1),
    "prox_decay": _DECAY_OR_AUTO,
    "decoupled": _SWITCH,
    "ess_scaling": _SWITCH,
    "ess_min": _FRACTION,
    "awr_weight_max": _POSITIVE,
    "entropy_bonus": _number(0),
    "value_coefficient": _number(0),
    "advantage_normalization": _one_of("batch", "minibatch", "none"),
    "optimizer": _one_of("adam", "sgd"),
    "adam_beta1": _DECAY,
    "adam_beta2": _DECAY,
    "adam_epsilon": _POSITIVE,
    "max_grad_norm": _POSITIVE,
    "value_max_grad_norm": _POSITIVE,
    "joint_clip": _SWITCH,
    "target_kl": _number(0),
    "popart_rate": _FRACTION,
    "popart_std_min": _POSITIVE,
    "ema_rate": _number(0, 1, open_low=True),
    "l2_init": _number(0),
    "shrink_perturb": _DECAY,
    "noise_scale": _SWITCH,
}
