"""Collate: lay admitted episodes end to end as one Batch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experience.batch import Batch
from experience.episode import Episode

_Pair = tuple[Episode, int]
"""An episode, and how many of its steps are learned from."""


def collate(episodes: Sequence[Episode], *, observation_shape: tuple[int, ...]) -> Batch:
    """Lay ``episodes`` end to end; narrower observation vectors are filled with zeros.

    An incomplete episode without a final observation gives its last observation as the one to bootstrap from,
    and loses the step that it has no successor for.

    Args:
        episodes: admitted ones, at least one, all discrete or all continuous.
        observation_shape: the policy's. Bytes stay bytes where every episode has them.
    """
    lengths = [usable_steps(episode) for episode in episodes]
    pairs = list(zip(episodes, lengths, strict=True))
    rewards = [e.reward[:n] for e, n in pairs]
    return Batch(
        obs=np.concatenate([widen(e.obs[:n], observation_shape) for e, n in pairs]),
        final_obs=np.concatenate([_final(e, n, observation_shape) for e, n in pairs]),
        action=np.concatenate([e.action[:n] for e, n in pairs]),
        reward=np.concatenate(rewards),
        logp=np.concatenate([_logp(e, n) for e, n in pairs]),
        mask=_masks(pairs),
        policy_version=_versions(pairs),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        terminated=np.array([e.terminated for e in episodes]),
        total_reward=np.array([np.add.reduce(each) for each in rewards]),
    )


def usable_steps(episode: Episode) -> int:
    """How many steps of ``episode`` have a successor to learn from."""
    lacks_final = len(episode.obs) == episode.n_steps and not episode.terminated
    return episode.n_steps - int(lacks_final)


def widen(rows: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Observations as float32 [N, *shape], or uint8 as they are; narrower vectors are filled with zeros."""
    if rows.shape[1:] == shape:
        return rows if rows.dtype == np.uint8 else np.asarray(rows, np.float32)
    wide = np.zeros((len(rows), *shape), np.float32)
    wide[:, : rows.shape[1]] = rows
    return wide


def _final(episode: Episode, steps: int, shape: tuple[int, ...]) -> NDArray[Any]:
    """One row."""
    if episode.terminated:
        return np.zeros((1, *shape), episode.obs.dtype)
    return widen(episode.obs[steps : steps + 1], shape)


def _logp(episode: Episode, steps: int) -> NDArray[np.float64]:
    return np.full(steps, np.nan) if episode.logp is None else episode.logp[:steps]


def _versions(pairs: Sequence[_Pair]) -> NDArray[np.int64]:
    if all(e.policy_version_step is None for e, _ in pairs):
        return np.repeat(np.array([e.policy_version or 0 for e, _ in pairs], np.int64), [n for _, n in pairs])
    return np.concatenate([_versions_of(e, n) for e, n in pairs])


def _versions_of(episode: Episode, steps: int) -> NDArray[np.int64]:
    if episode.policy_version_step is not None:
        return episode.policy_version_step[:steps]
    return np.full(steps, episode.policy_version or 0, np.int64)


def _masks(pairs: Sequence[_Pair]) -> NDArray[np.bool_] | None:
    widths = {e.mask.shape[1] for e, _ in pairs if e.mask is not None}
    if not widths:
        return None
    width = widths.pop()
    free = [np.ones((n, width), bool) if e.mask is None else e.mask[:n] for e, n in pairs]
    return np.concatenate(free)
