"""Trajectory-weighted importance sampling."""

from policies.evaluation.bootstrap import Statistic, weighted_means
from policies.evaluation.logged import Logged, weights_of


def statistic(logged: Logged) -> Statistic:
    """Σ_e ρ_e G_e / Σ_e ρ_e, ρ_e the ratio of a whole episode, G_e its discounted return.

    Precup, Sutton & Singh 2000, "Eligibility traces for off-policy policy evaluation", eq. 4; Thomas 2015,
    "Safe reinforcement learning", section 3.9 (WIS). Consistent, biased toward the behavior's value while few
    episodes carry the weight, which after some updates is the rule.
    """
    weights = weights_of(logged.log_weights[:, -1:])
    return weighted_means(weights, logged.discounted.sum(axis=1, keepdims=True))


def ess_fraction(logged: Logged) -> float:
    """By the ratio of whole episodes."""
    return logged.ess_trajectory
