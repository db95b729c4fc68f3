"""Doubly robust evaluation."""

import numpy as np

from policies.evaluation.bootstrap import Statistic, weighted_means
from policies.evaluation.corrections import corrections
from policies.evaluation.logged import Logged
from policies.evaluation.pdis import LARGEST


def statistic(logged: Logged) -> Statistic:
    """Σ_e V̂(s_0) + Σ_t γ^t ρ_{0:t} (r_t + γ V̂(s_{t+1}) - Q̂(s_t, a_t)), the mean over episodes.

    Jiang & Li 2016, "Doubly robust off-policy value evaluation for reinforcement learning", eq. 10, unrolled.
    Unbiased when the ratios are exact, whatever Q̂ is; the better Q̂, the smaller its variance, which else
    grows with the horizon as that of ``pdis``. Q̂ is cross-fitted; the bootstrap takes it as given.
    """
    found = corrections(logged)
    powers = logged.gamma ** np.arange(logged.horizon)
    weights = np.exp(np.minimum(logged.log_weights, LARGEST))
    surprise = logged.discounted + powers * (logged.gamma * found.v[:, 1:] - found.q)
    value = found.v[:, :1] + (weights * surprise).sum(axis=1, keepdims=True)
    return weighted_means(np.ones_like(value), value)


def ess_fraction(logged: Logged) -> float:
    """Mean over the steps, by the ratio up to each."""
    return logged.ess_mean
