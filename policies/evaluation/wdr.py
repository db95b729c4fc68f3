"""Weighted doubly robust evaluation."""

import numpy as np

from policies.evaluation.bootstrap import Statistic, weighted_means
from policies.evaluation.corrections import corrections
from policies.evaluation.logged import Logged, weights_of


def statistic(logged: Logged) -> Statistic:
    """As ``dr``, with the ratios normalized per time step over all episodes, as in ``cwpdis``.

    Thomas & Brunskill 2016, "Data-efficient off-policy policy evaluation for reinforcement learning", section
    5 (WDR): Σ_t γ^t Σ_e (w_t (r_t - Q̂(s_t, a_t)) + w_{t-1} V̂(s_t)), w_{-1} = 1 / E.
    """
    found = corrections(logged)
    powers = logged.gamma ** np.arange(logged.horizon + 1)
    weights = weights_of(logged.log_weights)
    before = np.hstack([np.ones((logged.n_episodes, 1)), weights])
    surprise = logged.discounted - powers[:-1] * found.q
    return weighted_means(np.hstack([before, weights]), np.hstack([powers * found.v, surprise]))


def ess_fraction(logged: Logged) -> float:
    """Mean over the steps, by the ratio up to each."""
    return logged.ess_mean
