"""Per-decision importance sampling."""

import numpy as np

from policies.evaluation.bootstrap import Statistic, weighted_means
from policies.evaluation.logged import Logged

LARGEST = 600.0
"""Largest log-weight: beyond it squares overflow, and the estimate has long been noise."""


def statistic(logged: Logged) -> Statistic:
    """Σ_e Σ_t γ^t ρ_{e,0:t} r_et / E.

    Precup, Sutton & Singh 2000, eq. 6; Thomas 2015, section 3.5 (PDIS). Unbiased, and of a variance that
    grows exponentially with the horizon.
    """
    weights = np.exp(np.minimum(logged.log_weights, LARGEST))
    returns = (weights * logged.discounted).sum(axis=1, keepdims=True)
    return weighted_means(np.ones_like(returns), returns)


def ess_fraction(logged: Logged) -> float:
    """Mean over the steps, by the ratio up to each."""
    return logged.ess_mean
