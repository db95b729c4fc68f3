"""Consistent weighted per-decision importance sampling: the default."""

from policies.evaluation.bootstrap import Statistic, weighted_means
from policies.evaluation.logged import Logged, weights_of


def statistic(logged: Logged) -> Statistic:
    """Σ_t γ^t (Σ_e ρ_{e,0:t} r_et / Σ_e ρ_{e,0:t}), both sums over all episodes.

    Thomas 2015, "Safe reinforcement learning", section 3.10 (CWPDIS). An episode that has ended goes on with
    reward 0 and ratio 1, so that its weight stays in the sum below: dividing by the episodes still alive
    would count a policy's early ends as if they had not happened.
    """
    return weighted_means(weights_of(logged.log_weights), logged.discounted)


def ess_fraction(logged: Logged) -> float:
    """Mean over the steps, by the ratio up to each."""
    return logged.ess_mean
