"""Stability: whether an update kept to its limits, and whether a policy still tries things. No torch here."""

import math
from dataclasses import dataclass

from policies.report import UpdateReport
from policies.spec import ActionSpace, ContinuousSpace

TABLE = "[stability]"


@dataclass(frozen=True, kw_only=True)
class StabilityLimits:
    """What an update may do; 0 switches a limit off.

    Healthy learning was measured on CartPole, Acrobot, Pendulum and on trading, from fresh episodes and from
    ones that were 64 updates old: each default lies far outside of that.

    Attributes:
        max_kl: mean KL(proximal policy, policy) over the last epoch, in nats.
        max_value_loss: ½ · squared error in the value network's own scale, where returns have a spread of 1.
        grad_norm_limit: of the policy's and of the value network's gradient, before clipping.
        max_ratio: largest importance ratio π/μ. Old episodes legitimately have large ones, which the learner
            caps; beyond the default the logged probabilities are no probabilities.
        min_entropy_fraction: mean entropy, as a share of log(n) summed over the choices, below which a
            discrete policy has collapsed.
        min_entropy_nats: the same per dimension of a Gaussian, in nats; -3.2 is a deviation of 0.01,
            and -1000 is off.
        refuses_collapse: whether an update that takes the entropy below its minimum is one too many.
    """

    max_kl: float = 1.0
    max_value_loss: float = 1e8
    grad_norm_limit: float = 1e6
    max_ratio: float = 1e30
    min_entropy_fraction: float = 0.01
    min_entropy_nats: float = -3.2
    refuses_collapse: bool = False


@dataclass(frozen=True, kw_only=True)
class Breach:
    """A quantity beyond its limit.

    Attributes:
        what: the quantity.
        value: what it was.
        accepted: what would have been accepted, naming the key that says so.
    """

    what: str
    value: float
    accepted: str


def breach(report: UpdateReport, limits: StabilityLimits, action: ActionSpace) -> Breach | None:
    """Judge an update: the first quantity beyond its limit, None when it may be published."""
    bounded = (
        ("kl", report.kl, "max_kl", limits.max_kl),
        ("value_loss", report.value_loss, "max_value_loss", limits.max_value_loss),
        ("grad_norm", report.grad_norm, "grad_norm_limit", limits.grad_norm_limit),
        ("value_grad_norm", report.value_grad_norm, "grad_norm_limit", limits.grad_norm_limit),
        ("ratio_max", report.ratio_max, "max_ratio", limits.max_ratio),
    )
    for what, value, key, limit in bounded:
        if limit > 0 and not value <= limit:  # NaN is beyond every limit
            return Breach(what=what, value=value, accepted=f"at most {limit:g}, {TABLE} {key}")
    if limits.refuses_collapse and report.policy_steps and collapse(report.entropy, limits, action) is None:
        return collapse(report.entropy_end, limits, action)
    return None


def collapse(entropy: float, limits: StabilityLimits, action: ActionSpace) -> Breach | None:
    """Judge a policy's mean entropy, in nats: below its minimum nothing new is tried; None when it is not."""
    if isinstance(action, ContinuousSpace):
        key, least = "min_entropy_nats", limits.min_entropy_nats * action.size
    else:
        most = sum(math.log(factor) for factor in action.factors)
        key, least = "min_entropy_fraction", limits.min_entropy_fraction * most
        least = least or -math.inf
    if entropy >= least:
        return None
    return Breach(what="entropy", value=entropy, accepted=f"at least {least:.3g} nats, {TABLE} {key}")
