"""Corrections: what the doubly robust estimators take from a fitted Q (numpy, float64)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.evaluation.fitted import Block, FittedQ
from policies.evaluation.logged import Logged

Float64 = NDArray[np.float64]

FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class Corrections:
    """Q and V of the target along the log, each from a fit that has not seen the episode (cross-fitting).

    Attributes:
        q: [E, T] Q̂(s_t, a_t) for the steps left of the horizon; 0 after an episode's end.
        v: [E, T + 1] V̂(s_t) likewise; in the column after a truncated episode's last step V̂ of its final
            observation.
    """

    q: Float64
    v: Float64


def corrections(logged: Logged) -> Corrections:
    """Fit Q ``FOLDS`` times, each time without a fold of the episodes, and look at that fold.

    Cross-fitting keeps the estimate unbiased where the ratios are exact: an episode's own noise is not in its
    Q (Kallus & Uehara 2020, "Double reinforcement learning", section 4).
    """
    folds = min(FOLDS, logged.n_episodes)
    fold = np.arange(logged.n_episodes) % folds
    fitted = FittedQ(logged)
    left_out = (fold[None] != np.arange(folds)[:, None]).astype(np.float64)
    weights = np.stack(list(fitted.weights(left_out)))  # [T + 1, folds, D]
    result = Corrections(
        q=np.zeros((logged.n_episodes, logged.horizon)),
        v=np.zeros((logged.n_episodes, logged.horizon + 1)),
    )
    for block in fitted.blocks():
        _fill(result, logged, block, weights, fold)
    return result


def _fill(
    result: Corrections, logged: Logged, block: Block, weights: Float64, fold: NDArray[np.int64]
) -> None:
    episode, step = logged.episode[block.rows], logged.step[block.rows]
    used = weights[logged.horizon - step, fold[episode]]
    result.q[episode, step] = np.einsum("nd,nd->n", block.phi, used)
    result.v[episode, step] = np.einsum("nd,nd->n", block.now, used)
    ended = np.arange(block.episodes.start, block.episodes.stop)
    length = logged.lengths[ended]
    after = weights[logged.horizon - length, fold[ended]]
    result.v[ended, length] = np.einsum("nd,nd->n", block.last, after)
