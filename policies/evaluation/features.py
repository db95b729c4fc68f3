"""Features: a fixed, seeded basis of observations and actions, for fitted-Q evaluation (numpy, float64)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experience.batch import Batch
from policies.evaluation.logged import Target

Float64 = NDArray[np.float64]

RANDOM_UNITS = 48
"""tanh units beside the linear part; with 48 the ranking of CartPole policies no longer improved."""
CLIP = 5.0
"""Standard deviations: a tanh unit tells nothing apart further out, and the linear part must not explode."""
CONSTANT_BELOW = 1e-8


@dataclass(frozen=True, kw_only=True)
class Features:
    """φ(s, a) = [1, x, tanh(x A + c)], x the standardized observation; a random-feature network.

    Discrete actions have a copy of it each, so that Q(s, ·) shares nothing between them. Continuous actions
    are appended to the observation. A and c are drawn once and never trained (Rahimi & Recht 2008): the fit
    is linear.

    Attributes:
        mean, scale: [p] of the inputs.
        matrix, shift: [p, units] and [units].
        n_actions: of a discrete space; None: continuous.
    """

    mean: Float64
    scale: Float64
    matrix: Float64
    shift: Float64
    n_actions: int | None

    @classmethod
    def fit(cls, batch: Batch, target: Target, *, units: int = RANDOM_UNITS, seed: int = 0) -> "Features":
        """Standardize by the log's observations; discrete actions are counted as the target knows them."""
        discrete = batch.action.dtype.kind == "i"
        inputs = _rows(batch.obs) if discrete else np.hstack([_rows(batch.obs), _rows(batch.action)])
        scale = inputs.std(axis=0)
        rng = np.random.default_rng(seed)
        width = inputs.shape[1]
        first_mask = None if batch.mask is None else batch.mask[:1]
        n_actions = target.choices(batch.obs[:1], first_mask)[1].shape[1] if discrete else None
        return cls(
            mean=inputs.mean(axis=0),
            scale=np.where(scale > CONSTANT_BELOW, scale, 1.0),
            matrix=rng.standard_normal((width, units)) / np.sqrt(width),
            shift=rng.standard_normal(units),
            n_actions=n_actions,
        )

    @property
    def size(self) -> int:
        """D, the length of φ(s, a)."""
        return (1 + len(self.mean) + len(self.shift)) * (self.n_actions or 1)

    def of(self, obs: NDArray[Any], action: NDArray[Any]) -> Float64:
        """φ(s, a), [N, D]."""
        if self.n_actions is None:
            return self._basis(np.hstack([_rows(obs), _rows(action)]))
        return self._spread(_rows(obs), np.eye(self.n_actions)[action])

    def expected(self, obs: NDArray[Any], target: Target, mask: NDArray[np.bool_] | None) -> Float64:
        """Σ_a π(a | s) φ(s, a), [N, D]."""
        actions, probabilities = target.choices(obs, mask)
        if self.n_actions is not None:
            return self._spread(_rows(obs), probabilities)
        every = [weight[:, None] * self.of(obs, actions[:, k]) for k, weight in enumerate(probabilities.T)]
        result: Float64 = np.sum(every, axis=0)
        return result

    def _spread(self, rows: Float64, share_na: Float64) -> Float64:
        """The basis in each action's columns, times that action's share."""
        spread: Float64 = share_na[:, :, None] * self._basis(rows)[:, None, :]
        return spread.reshape(len(rows), self.size)

    def _basis(self, rows: Float64) -> Float64:
        scaled = np.clip((rows - self.mean) / self.scale, -CLIP, CLIP)
        return np.hstack([np.ones((len(rows), 1)), scaled, np.tanh(scaled @ self.matrix + self.shift)])


def _rows(values: NDArray[Any]) -> Float64:
    return values.reshape(len(values), -1).astype(np.float64)
