"""Fitted-Q evaluation, for any weighting of the episodes at once (numpy, float64).

Le, Voloshin & Yue 2019, "Batch policy learning under constraints", algorithm 3 (FQE): Q_k is fitted to
r + γ Σ_a π(a | s') Q_{k-1}(s', a), with Q_0 = 0. Q_k is the value of k more steps, so that every transition
serves every k, also those of truncated episodes, whose final observation is gone on from.

The fit is a mean in soft cells (``policies.evaluation.features``): Q_k = φ·w_k, w_k = (b + γ C w_{k-1}) / m
with m = Σ ψ, C = Σ ψ φ'ᵀ, b = Σ ψ r, ψ what a step tells of the cells and φ' = Σ_a π(a | s') φ(s', a). These
are sums over episodes, so that a replicate of the bootstrap, or a fold left out, only weights them
differently.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from policies.evaluation.features import Features
from policies.evaluation.logged import Logged

Float64 = NDArray[np.float64]

SMALLEST = 1e-12
BLOCK_CELLS = 2**22
"""Steps times the wider of inputs and features that are in memory at once."""


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
    """

    def __init__(self, logged: Logged) -> None:
        self._logged = logged
        self.features = Features.fit(logged.batch, logged.target)

    def blocks(self) -> Iterator[Block]:
        """All episodes, some at a time, so that memory stays bounded."""
        offsets, first = self._logged.batch.offsets, 0
        steps = max(1, BLOCK_CELLS // max(self.features.size, len(self.features.mean)))
        while first < self._logged.n_episodes:
            end = int(np.searchsorted(offsets, offsets[first] + steps, side="right")) - 1
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
        mass, cross, reward = self._moments(counts_be)
        inverse = np.divide(1.0, mass, out=np.zeros_like(mass), where=mass > SMALLEST)
        matrix, constant = self._logged.gamma * cross * inverse[:, :, None], reward * inverse
        weights = np.zeros_like(constant)
        yield weights
        for _ in range(self._logged.horizon):
            weights = constant + (matrix @ weights[:, :, None])[:, :, 0]
            yield weights

    def _moments(self, counts_be: Float64) -> tuple[Float64, Float64, Float64]:
        size = self.features.size
        shape = (len(counts_be), size, size)
        mass, cross, reward = np.zeros(shape[:2]), np.zeros(shape), np.zeros(shape[:2])
        for block in self.blocks():
            told = self.features.told(block.phi)
            sums = [self._sums(block, told, i) for i in range(len(block.starts) - 1)]
            share = counts_be[:, block.episodes]
            mass += share @ np.stack([one[0] for one in sums])
            cross += (share @ np.stack([one[1].ravel() for one in sums])).reshape(shape)
            reward += share @ np.stack([one[2] for one in sums])
        return mass, cross, reward

    def _sums(self, block: Block, told: Float64, i: int) -> tuple[Float64, Float64, Float64]:
        rows = slice(int(block.starts[i]), int(block.starts[i + 1]))
        own, rewards = told[rows], self._logged.batch.reward[block.rows][rows]
        return own.sum(axis=0), own.T @ block.following[rows], own.T @ rewards

    @cached_property
    def initial(self) -> Float64:
        """[E, D] Σ_a π(a | s_0) φ(s_0, a)."""
        return np.concatenate([block.now[block.starts[:-1]] for block in self.blocks()])
