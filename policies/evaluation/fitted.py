"""Fitted-Q evaluation with linear features, for any weighting of the episodes at once (numpy, float64).

Le, Voloshin & Yue 2019, "Batch policy learning under constraints", algorithm 3 (FQE), with least squares on
fixed features: Q_k = argmin Σ (r + γ Σ_a π(a | s') Q_{k-1}(s', a) - Q_k(s, a))², Q_0 = 0. Q_k is the value
of k more steps, so that every transition serves every k, also those of truncated episodes, whose final
observation is gone on from.

With w_k the weights of Q_k this is w_k = (G + λI)⁻¹ (b + γ C w_{k-1}), G = Σ φφᵀ, C = Σ φ φ'ᵀ, b = Σ φr: sums
over episodes, so that a replicate of the bootstrap, or a fold left out, only weights them differently.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from policies.evaluation.features import Features
from policies.evaluation.logged import Logged

Float64 = NDArray[np.float64]

RIDGE = 1e-4
"""λ as a share of G's mean diagonal: little bias, and G has an inverse."""
BLOCK_STEPS = 8192


@dataclass(frozen=True, kw_only=True)
class Block:
    """Some whole episodes.

    Attributes:
        episodes, rows: which ones, and their steps.
        phi: [n, D] φ(s, a) of each step.
        now: [n, D] Σ_a π(a | s) φ(s, a).
        following: [n, D] the same of the next observation; 0 where the episode terminated.
        last: [e, D] of the observation after each episode's last step, likewise.
        starts: [e + 1] where each episode begins within the block.
    """

    episodes: slice
    rows: slice
    phi: Float64
    now: Float64
    following: Float64
    last: Float64
    starts: NDArray[np.int64]


class FittedQ:
    """Fits Q of a target policy to logged episodes.

    Args:
        logged: the episodes and the target.
        seed: of the random features.
    """

    def __init__(self, logged: Logged, *, seed: int = 0) -> None:
        self._logged = logged
        self.features = Features.fit(logged.batch, logged.target, seed=seed)

    def blocks(self) -> Iterator[Block]:
        """All episodes, some at a time, so that memory stays bounded."""
        offsets, first = self._logged.batch.offsets, 0
        while first < self._logged.n_episodes:
            end = int(np.searchsorted(offsets, offsets[first] + BLOCK_STEPS, side="right")) - 1
            end = max(end, first + 1)
            yield self._block(slice(first, end))
            first = end

    def _block(self, episodes: slice) -> Block:
        batch, features, target = self._logged.batch, self.features, self._logged.target
        bounds = batch.offsets[episodes.start : episodes.stop + 1]
        rows, starts = slice(int(bounds[0]), int(bounds[-1])), bounds - bounds[0]
        mask = None if batch.mask is None else batch.mask[rows]
        now = features.expected(batch.obs[rows], target, mask)
        last = features.expected(batch.final_obs[episodes], target, None)
        last[batch.terminated[episodes]] = 0.0
        following = np.roll(now, -1, axis=0)
        following[starts[1:] - 1] = last
        return Block(
            episodes=episodes,
            rows=rows,
            phi=features.of(batch.obs[rows], batch.action[rows]),
            now=now,
            following=following,
            last=last,
            starts=starts,
        )

    def weights(self, counts_be: Float64) -> Iterator[Float64]:
        """w_0 … w_T as [B, D] each, one fit for each weighting [B, E] of the episodes."""
        size = self.features.size
        gram, cross, reward = self._moments(counts_be)
        gram += RIDGE * np.trace(gram, axis1=1, axis2=2)[:, None, None] / size * np.eye(size)
        step = np.linalg.solve(gram, np.concatenate([cross, reward[:, :, None]], axis=2))
        matrix, constant = self._logged.gamma * step[:, :, :-1], step[:, :, -1]
        weights = np.zeros_like(constant)
        yield weights
        for _ in range(self._logged.horizon):
            weights = constant + np.einsum("bij,bj->bi", matrix, weights)
            yield weights

    def _moments(self, counts_be: Float64) -> tuple[Float64, Float64, Float64]:
        size = self.features.size
        shape = (len(counts_be), size, size)
        gram, cross, reward = np.zeros(shape), np.zeros(shape), np.zeros(shape[:2])
        for block in self.blocks():
            sums = [self._sums(block, i) for i in range(len(block.starts) - 1)]
            share = counts_be[:, block.episodes]
            gram += (share @ np.stack([one[0].ravel() for one in sums])).reshape(shape)
            cross += (share @ np.stack([one[1].ravel() for one in sums])).reshape(shape)
            reward += share @ np.stack([one[2] for one in sums])
        return gram, cross, reward

    def _sums(self, block: Block, i: int) -> tuple[Float64, Float64, Float64]:
        rows = slice(int(block.starts[i]), int(block.starts[i + 1]))
        phi = block.phi[rows]
        return phi.T @ phi, phi.T @ block.following[rows], phi.T @ self._logged.batch.reward[block.rows][rows]

    @cached_property
    def initial(self) -> Float64:
        """[E, D] Σ_a π(a | s_0) φ(s_0, a)."""
        return np.concatenate([block.now[block.starts[:-1]] for block in self.blocks()])
