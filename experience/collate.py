"""Collate: lay admitted episodes end to end as one Batch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experience.batch import Batch
from experience.episode import Episode


def collate(episodes: Sequence[Episode], *, observation_shape: tuple[int, ...]) -> Batch:
    """Lay ``episodes`` end to end; narrower observation vectors are filled with zeros.

    An incomplete episode without a final observation gives its last observation as the one to bootstrap from,
    and loses the step that it has no successor for.

    Args:
        episodes: admitted ones, at least one, all discrete or all continuous.
        observation_shape: the policy's. Bytes stay bytes where every episode has them.
    """
    steps = np.array([usable_steps(episode) for episode in episodes])
    return Batch(
        obs=np.concatenate(
            [widen(e.obs[:n], observation_shape) for e, n in zip(episodes, steps, strict=True)]
        ),
        final_obs=np.stack([_final(e, n, observation_shape) for e, n in zip(episodes, steps, strict=True)]),
        action=np.concatenate([e.action[:n] for e, n in zip(episodes, steps, strict=True)]),
        reward=np.concatenate([e.reward[:n] for e, n in zip(episodes, steps, strict=True)]),
        logp=np.concatenate([_logp(e, n) for e, n in zip(episodes, steps, strict=True)]),
        mask=_masks(episodes, steps),
        policy_version=np.concatenate([_versions(e, n) for e, n in zip(episodes, steps, strict=True)]),
        offsets=np.concatenate([[0], np.cumsum(steps)]).astype(np.int64),
        terminated=np.array([e.terminated for e in episodes]),
        total_reward=np.array([float(e.reward[:n].sum()) for e, n in zip(episodes, steps, strict=True)]),
    )


def usable_steps(episode: Episode) -> int:
    """How many steps of ``episode`` have a successor to learn from."""
    lacks_final = len(episode.obs) == episode.n_steps and not episode.terminated
    return episode.n_steps - int(lacks_final)


def widen(rows: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Observations as float32 [N, *shape], or uint8 as they are; narrower vectors are filled with zeros."""
    if rows.shape[1:] == shape and rows.dtype == np.uint8:
        return rows
    if rows.shape[1:] == shape:
        return np.asarray(rows, np.float32)
    wide = np.zeros((len(rows), *shape), np.float32)
    wide[:, : rows.shape[1]] = rows
    return wide


def _final(episode: Episode, steps: int, shape: tuple[int, ...]) -> NDArray[Any]:
    if episode.terminated:
        return np.zeros(shape, episode.obs.dtype)
    final: NDArray[Any] = widen(episode.obs[steps : steps + 1], shape)[0]
    return final


def _logp(episode: Episode, steps: int) -> NDArray[np.float64]:
    return np.full(steps, np.nan) if episode.logp is None else episode.logp[:steps]


def _versions(episode: Episode, steps: int) -> NDArray[np.int64]:
    if episode.policy_version_step is not None:
        return episode.policy_version_step[:steps]
    return np.full(steps, episode.policy_version or 0, np.int64)


def _masks(episodes: Sequence[Episode], steps: NDArray[np.int64]) -> NDArray[np.bool_] | None:
    widths = {episode.mask.shape[1] for episode in episodes if episode.mask is not None}
    if not widths:
        return None
    width = widths.pop()
    free = [
        np.ones((n, width), bool) if e.mask is None else e.mask[:n]
        for e, n in zip(episodes, steps, strict=True)
    ]
    return np.concatenate(free)
