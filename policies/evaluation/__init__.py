"""Evaluation: what a policy would earn, estimated from episodes in which others acted. Loads no torch.

Every estimator is a module with ``statistic(logged)``, the value as a function of how often each episode
counts (see ``policies.evaluation.bootstrap``), and ``ess_fraction(logged)``, the effective share of the log
for it.
"""

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.errors import NotEvaluable
from policies.evaluation.bootstrap import Bootstrap, Statistic, deviations, difference, interval
from policies.evaluation.estimate import Estimate
from policies.evaluation.logged import Logged

ESTIMATORS = {
    "cwpdis": "policies.evaluation.cwpdis",
    "wis": "policies.evaluation.wis",
    "pdis": "policies.evaluation.pdis",
    "dr": "policies.evaluation.dr",
    "wdr": "policies.evaluation.wdr",
    "fqe": "policies.evaluation.fqe",
}
"""Name -> module; the first is the default."""

DEFAULT = "cwpdis"


@dataclass(frozen=True, kw_only=True)
class Linear:
    """An estimate that can be added to others of the same episodes, and subtracted, with what its error is.

    Attributes:
        value: estimated mean return of an episode.
        deviations: [M] whose squares sum to its squared error, see ``bootstrap.deviations``.
        ess_fraction: effective share of the episodes for this method, 0 … 1.
    """

    value: float
    deviations: NDArray[np.float64]
    ess_fraction: float


def linearize(logged: Logged, *, method: str = DEFAULT) -> Linear:
    """Estimate the target's value, to be combined with others.

    Args:
        logged: the episodes, as the target sees them.
        method: one of ``ESTIMATORS``.

    Raises:
        NotEvaluable: there is no such method.
    """
    module = _module(method)
    value, found = deviations(module.statistic(logged), logged.n_episodes)
    return Linear(value=value, deviations=found, ess_fraction=module.ess_fraction(logged))


def evaluate(logged: Logged, *, method: str = DEFAULT, bootstrap: Bootstrap | None = None) -> Estimate:
    """Estimate the target's value.

    Args:
        logged: the episodes, as the target sees them.
        method: one of ``ESTIMATORS``.
        bootstrap: how the interval is found.

    Raises:
        NotEvaluable: there is no such method, or the level is none.
    """
    return _estimate(logged, _module(method).statistic(logged), method, bootstrap or Bootstrap())


def compare(
    logged: Logged, other: Logged, *, method: str = DEFAULT, bootstrap: Bootstrap | None = None
) -> Estimate:
    """Estimate the first target's value minus the second's, on the same episodes and the same draws.

    Args:
        logged: the episodes, as the first target sees them; the effective shares are those of this one.
        other: the same episodes, as the second one does.
        method: one of ``ESTIMATORS``.
        bootstrap: how the interval is found.

    Raises:
        NotEvaluable: as ``evaluate``.
    """
    module = _module(method)
    statistic = difference(module.statistic(logged), module.statistic(other))
    return _estimate(logged, statistic, method, bootstrap or Bootstrap())


def _estimate(logged: Logged, statistic: Statistic, method: str, bootstrap: Bootstrap) -> Estimate:
    found = interval(statistic, logged.n_episodes, bootstrap)
    return Estimate(
        value=found.value,
        low=found.low,
        high=found.high,
        level=bootstrap.level,
        method=method,
        interval=found.how,
        n_episodes=logged.n_episodes,
        n_steps=logged.batch.n_steps,
        ess_fraction=_module(method).ess_fraction(logged),
        ess_steps=logged.ess_steps,
        ess_trajectory=logged.ess_trajectory,
        ess_per_step=logged.ess_per_step,
        probabilities=logged.probabilities,
    )


def _module(method: str) -> Any:
    if method not in ESTIMATORS:
        raise NotEvaluable("method", method, ", ".join(ESTIMATORS))
    return importlib.import_module(ESTIMATORS[method])
