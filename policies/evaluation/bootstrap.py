"""Bootstrap over episodes: confidence intervals for whatever an estimator computes (Efron & Tibshirani 1993).

A statistic is a function of how often each episode was drawn, so that all replicates are a few products of
matrices. Intervals are studentized (bootstrap-t, chapter 12.5) where the statistic tells its own standard
error by linearization; else they are percentiles (chapter 13.3). What they cover was measured:
``tests/policies/evaluation/test_coverage.py``, figures in ``learnerd/docs/evaluation.md``.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.errors import NotEvaluable

Float64 = NDArray[np.float64]

Statistic = Callable[[Float64], tuple[Float64, Float64 | None]]
"""counts [B, E] -> (values [B], influence [B, E] or None).

With influence ψ the squared standard error of values[b] is Σ_e counts[b, e] ψ[b, e]².
"""

SMALLEST = 1e-12
"""Smallest sum of weights that counts, the largest weight of a column being about 1."""

REFITS = 200
"""Replicates of a statistic that is fitted anew for each: percentiles are good to a tenth of a deviation."""

CELLS = 2**22
"""Replicates times episodes in one go: 32 MiB a matrix."""


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """How an interval is found.

    Attributes:
        level: chance that it holds the true value, 0 to 1.
        replicates: from which the bounds are taken; 1,000 are enough for a level of 0.95.
        seed: of the drawing.
    """

    level: float = 0.95
    replicates: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the level; raises NotEvaluable."""
        if not 0.0 < self.level < 1.0:
            raise NotEvaluable("level", self.level, "between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value and its bounds; ``how`` is "studentized" or "percentile"."""

    value: float
    low: float
    high: float
    how: str


def interval(statistic: Statistic, n_episodes: int, bootstrap: Bootstrap) -> Interval:
    """The statistic of the episodes as they are, and its bounds.

    Args:
        statistic: see ``Statistic``.
        n_episodes: E.
        bootstrap: how the bounds are found.
    """
    rng = np.random.default_rng(bootstrap.seed)
    value, influence = statistic(np.ones((1, n_episodes)))
    tail = 50.0 * (1.0 - bootstrap.level)
    replicates = min(bootstrap.replicates, REFITS) if influence is None else bootstrap.replicates
    values, errors = _replicate(statistic, n_episodes, replicates, rng)
    if influence is None or errors is None:
        low, high = np.percentile(values, [tail, 100.0 - tail])
        return Interval(value=float(value[0]), low=float(low), high=float(high), how="percentile")
    error = float(np.sqrt(np.square(influence).sum()))
    usable = errors > 0.0
    if error == 0.0 or not usable.any():
        return Interval(value=float(value[0]), low=float(value[0]), high=float(value[0]), how="studentized")
    scaled = (values[usable] - value[0]) / errors[usable]
    below, above = np.percentile(scaled, [tail, 100.0 - tail])
    low, high = float(value[0]) - above * error, float(value[0]) - below * error
    return Interval(value=float(value[0]), low=float(low), high=float(high), how="studentized")


def deviations(statistic: Statistic, n_episodes: int, *, seed: int = 0) -> tuple[float, Float64]:
    """The statistic of the episodes as they are, and deviations [M] whose squares sum to its squared error.

    Those of several statistics of the same episodes add and subtract elementwise, as the statistics do, so
    that a difference has the error that is left when what they share has cancelled. They are the influence of
    each episode (M is E), see ``weighted_means``; without one, those of ``REFITS`` replicates from their
    mean, over √(M - 1): the same draws for each statistic, as long as the seed is.

    Args:
        statistic: see ``Statistic``.
        n_episodes: E.
        seed: of the drawing.
    """
    value, influence = statistic(np.ones((1, n_episodes)))
    if influence is not None:
        return float(value[0]), np.array(influence[0])
    values, _ = _replicate(statistic, n_episodes, REFITS, np.random.default_rng(seed))
    return float(value[0]), (values - values.mean()) / np.sqrt(REFITS - 1)


def _replicate(
    statistic: Statistic, n_episodes: int, replicates: int, rng: np.random.Generator
) -> tuple[Float64, Float64 | None]:
    """Values and standard errors of all replicates, [B] each."""
    values, errors, at_once = [], [], max(1, CELLS // n_episodes)
    for begin in range(0, replicates, at_once):
        counts = _draw(min(at_once, replicates - begin), n_episodes, rng)
        value, influence = statistic(counts)
        values.append(value)
        if influence is not None:
            errors.append(np.sqrt((counts * np.square(influence)).sum(axis=1)))
    return np.concatenate(values), np.concatenate(errors) if errors else None


def _draw(replicates: int, n_episodes: int, rng: np.random.Generator) -> Float64:
    """How often each episode is drawn, [B, E]; every row sums to E."""
    drawn = rng.integers(n_episodes, size=(replicates, n_episodes))
    drawn += np.arange(replicates)[:, None] * n_episodes
    counts = np.bincount(drawn.ravel(), minlength=replicates * n_episodes)
    return counts.reshape(replicates, n_episodes).astype(np.float64)


def weighted_means(weights_ec: Float64, values_ec: Float64) -> Statistic:
    """Σ_c (Σ_e w_ec y_ec / Σ_e w_ec): a sum of self-normalized means, one a column.

    Its influence is ψ_e = Σ_c w_ec (y_ec - mean_c) / Σ_e w_ec, the linearization of a ratio (Owen 2013, eq.
    9.8); for the episodes as they are, without that episode in the sum below: the delete-one jackknife, which
    sees that an episode with most of the weight pulls the mean to itself (Efron & Tibshirani 1993, eq. 11.5).
    A column whose weights are all 0 gives 0. With one column of ones it is the plain mean.
    """
    products = weights_ec * values_ec

    def statistic(counts: Float64) -> tuple[Float64, Float64]:
        total = counts @ weights_ec
        inverse = _inverse(total)
        means = (counts @ products) * inverse
        if np.all(counts == 1.0):
            moved = (products - weights_ec * means[0]) * _inverse(total[0] - weights_ec)
            return means.sum(axis=1), np.broadcast_to(moved.sum(axis=1), counts.shape)
        influence = inverse @ products.T - (means * inverse) @ weights_ec.T
        return means.sum(axis=1), influence

    return statistic


def _inverse(totals: Float64) -> Float64:
    """1 / x; 0 where x is 0 but for rounding."""
    return np.divide(1.0, totals, out=np.zeros_like(totals), where=totals > SMALLEST)


def difference(one: Statistic, other: Statistic) -> Statistic:
    """``one`` minus ``other`` on the same draws: what they share cancels."""

    def statistic(counts: Float64) -> tuple[Float64, Float64 | None]:
        (value, influence), (other_value, other_influence) = one(counts), other(counts)
        if influence is None or other_influence is None:
            return value - other_value, None
        return value - other_value, influence - other_influence

    return statistic
