"""Fitted-Q evaluation."""

import numpy as np

from policies.evaluation.bootstrap import Float64, Statistic
from policies.evaluation.fitted import FittedQ
from policies.evaluation.logged import Logged

REPLICATES_AT_ONCE = 64


def statistic(logged: Logged) -> Statistic:
    """Σ_e V_T(s_{e,0}) / E with V_T fitted anew for each replicate: see ``policies.evaluation.fitted``.

    Bootstrapping whole episodes and fitting again is consistent for FQE (Hao et al. 2021, "Bootstrapping
    fitted Q-evaluation for off-policy inference", algorithm 1). Needs no ratios, so that no horizon is too
    long; what it needs instead is that the cells can express Q.
    """
    fitted = FittedQ(logged)

    def values(counts: Float64) -> tuple[Float64, None]:
        return np.concatenate(
            [_value(fitted, part) for part in np.array_split(counts, -(-len(counts) // REPLICATES_AT_ONCE))]
        ), None

    return values


def _value(fitted: FittedQ, counts: Float64) -> Float64:
    *_, last = fitted.weights(counts)
    share = counts / counts.sum(axis=1, keepdims=True)
    value: Float64 = ((share @ fitted.initial) * last).sum(axis=1)
    return value


def ess_fraction(logged: Logged) -> float:
    """By each step's own ratio: how far the log's actions are from the target's."""
    return logged.ess_steps
