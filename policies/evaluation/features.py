"""Features: soft cells of observations and actions, for fitted-Q evaluation (numpy, float64)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experience.batch import Batch
from policies.errors import NotEvaluable
from policies.evaluation.logged import Target

Float64 = NDArray[np.float64]

CELLS = 96
"""Of the observations; more cost their square, for little."""
SHARPNESS = 8.0
"""At the usual distance between neighboring cells a cell's share is e^-8 of its neighbor's."""
OTHER_ACTIONS = 1e-4
"""Share of a step that also tells of the other actions in its cell: all there is where none was tried."""
CONSTANT_BELOW = 1e-8
FIT_ROWS = 2048
"""Steps from which the cells are taken, evenly over the log."""
MOST_FEATURES = 1024
"""A fit costs memory for their square, for each replicate."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """φ(s, a): to which cells an observation belongs, in the columns of its action; shares that add up to 1.

    Cells lie around observations of the log, chosen one after the other as far apart as possible (Gonzalez
    1985). Discrete actions have the cells each to themselves; other actions lie beside the observation.

    A fit of shares takes means of what was seen, so that it cannot run away however often it is repeated: an
    averager (Gordon 1995, "Stable function approximation in dynamic programming"). Free linear features did
    on logs of CartPole, by nine orders of magnitude.

    Attributes:
        mean, scale: [p] of the inputs.
        centers: [m, p] standardized.
        width: usual squared distance between neighbors.
        n_actions: of a discrete space; None: of another.
    """

    mean: Float64
    scale: Float64
    centers: Float64
    width: float
    n_actions: int | None

    @classmethod
    def fit(cls, batch: Batch, target: Target) -> "Features":
        """Lay the cells; discrete actions are counted as the target knows them.

        Raises:
            NotEvaluable: there are more features than a fit of them can be paid for.
        """
        rows = np.linspace(0, batch.n_steps - 1, min(batch.n_steps, FIT_ROWS)).astype(np.int64)
        obs, action = _rows(batch.obs[rows]), batch.action[rows]
        discrete = action.ndim == 1
        inputs = obs if discrete else np.hstack([obs, _rows(action)])
        mean, scale = inputs.mean(axis=0), inputs.std(axis=0)
        scale = np.where(scale > CONSTANT_BELOW, scale, 1.0)
        centers, width = _spread_out((inputs - mean) / scale)
        first_mask = None if batch.mask is None else batch.mask[:1]
        n_actions = target.choices(batch.obs[:1], first_mask)[1].shape[1] if discrete else None
        if len(centers) * (n_actions or 1) > MOST_FEATURES:
            raise NotEvaluable("method", f"a fitted Q of {n_actions} actions", "cwpdis, wis or pdis")
        return cls(mean=mean, scale=scale, centers=centers, width=width, n_actions=n_actions)

    @property
    def size(self) -> int:
        """D, the length of φ(s, a)."""
        return len(self.centers) * (self.n_actions or 1)

    def of(self, obs: NDArray[Any], action: NDArray[Any]) -> Float64:
        """φ(s, a), [N, D]."""
        if self.n_actions is None:
            return self._shares(np.hstack([_rows(obs), _rows(action)]))
        return self._spread(_rows(obs), np.eye(self.n_actions)[action])

    def expected(self, obs: NDArray[Any], target: Target, mask: NDArray[np.bool_] | None) -> Float64:
        """Σ_a π(a | s) φ(s, a), [N, D]."""
        actions, probabilities = target.choices(obs, mask)
        if self.n_actions is not None:
            return self._spread(_rows(obs), probabilities)
        every = [weight[:, None] * self.of(obs, actions[:, k]) for k, weight in enumerate(probabilities.T)]
        result: Float64 = np.sum(every, axis=0)
        return result

    def told(self, phi: Float64) -> Float64:
        """What each step tells of the features, [N, D], from φ(s, a): a little of the other actions too."""
        if self.n_actions is None:
            return phi
        cells = phi.reshape(len(phi), self.n_actions, len(self.centers))
        others = cells.sum(axis=1, keepdims=True) / self.n_actions
        told: Float64 = (1.0 - OTHER_ACTIONS) * cells + OTHER_ACTIONS * others
        return told.reshape(phi.shape)

    def _spread(self, rows: Float64, share_na: Float64) -> Float64:
        """The cells in each action's columns, times that action's share."""
        spread: Float64 = share_na[:, :, None] * self._shares(rows)[:, None, :]
        return spread.reshape(len(rows), self.size)

    def _shares(self, rows: Float64) -> Float64:
        distances = _squared_distances((rows - self.mean) / self.scale, self.centers)
        distances -= distances.min(axis=1, keepdims=True)
        shares = np.exp(-SHARPNESS / self.width * distances)
        result: Float64 = shares / shares.sum(axis=1, keepdims=True)
        return result


def _spread_out(rows: Float64) -> tuple[Float64, float]:
    """Up to ``CELLS`` of the rows, each the farthest from those before, and their usual squared distance."""
    chosen, nearest = [0], _squared_distances(rows, rows[:1])[:, 0]
    while len(chosen) < CELLS and nearest.max() > CONSTANT_BELOW:
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, _squared_distances(rows, rows[chosen[-1:]])[:, 0])
    centers = rows[chosen]
    between = _squared_distances(centers, centers) + np.diag(np.full(len(chosen), np.inf))
    return centers, float(np.median(between.min(axis=1))) if len(chosen) > 1 else 1.0


def _squared_distances(rows: Float64, centers: Float64) -> Float64:
    """[N, m], without the error of the expanded square where rows are centers."""
    squares = (rows**2).sum(axis=1)[:, None] + (centers**2).sum(axis=1) - 2.0 * rows @ centers.T
    result: Float64 = np.maximum(squares, 0.0)
    return result


def _rows(values: NDArray[Any]) -> Float64:
    return values.reshape(len(values), -1).astype(np.float64)
