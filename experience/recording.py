"""Recording: the steps of an episode in progress, checked one by one; what ``EpisodeWriter`` writes down."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experience.choices import choices_problem
from experience.flattening import flatten, infer_space, is_nested
from experience.spaces import ActionSpace, ContinuousSpace, Space


@dataclass(kw_only=True)
class Recording:
    """The steps of the episode in progress, as lists that only grow.

    Attributes:
        started_at, ended_at: UTC seconds.
        observation, action_space: what the client said; the first observation may say it too.
        notes: fields of the client's own.
    """

    started_at: float
    observation: Space | None = None
    action_space: ActionSpace | None = None
    obs: list[NDArray[Any]] = field(default_factory=list)
    action: list[NDArray[Any]] = field(default_factory=list)
    reward: list[float] = field(default_factory=list)
    logp: list[float] = field(default_factory=list)
    mask: list[NDArray[np.bool_] | None] = field(default_factory=list)
    policy_version: list[int | None] = field(default_factory=list)
    ended_at: float | None = None
    notes: dict[str, Any] = field(default_factory=dict)


def observation_row(obs: Any, recording: Recording) -> NDArray[Any]:
    """Return a copy of one observation as it is stored; the first one of an episode sets what the others are.

    Raises:
        ValueError: it is not of the space, or unlike the ones before it.
    """
    if recording.observation is None and not recording.obs and is_nested(obs):
        recording.observation = infer_space(obs)
    if recording.observation is not None:
        return flatten(recording.observation, obs).copy()
    given = np.asarray(obs)
    row = given.astype(np.uint8 if given.dtype == np.uint8 else np.float32, copy=True)
    if recording.obs:
        first = recording.obs[0]
        if row.shape != first.shape:
            raise ValueError(f"obs has shape {row.shape}, the first step's has {first.shape}")
        row = row.astype(first.dtype, copy=False)
    return row


def action_row(action: ArrayLike, recording: Recording) -> NDArray[Any]:
    """Return a copy of one action as it is stored, counted from 0.

    Raises:
        ValueError: it is of no known kind, not of the space, or unlike the ones before it.
    """
    given, space = np.asarray(action), recording.action_space
    if given.dtype.kind in "iub" and space is not None and not isinstance(space, ContinuousSpace):
        return _choices_row(given, space)
    integer = given.dtype.kind in "iub"
    continuous = (recording.action[0] if recording.action else given).dtype.kind == "f"
    if continuous:
        row: NDArray[Any] = np.array(given, dtype=np.float32, ndmin=1)
    elif integer and given.ndim == 0:
        row = np.array(given, dtype=np.int64)
    else:
        raise ValueError(f"action is {action!r}; accepted: an integer, or a float or float vector")
    if row.ndim > 1 or (recording.action and row.shape != recording.action[0].shape):
        expected = recording.action[0].shape if recording.action else "[A]"
        raise ValueError(f"action has shape {row.shape}; accepted: {expected}")
    return row


def _choices_row(given: NDArray[Any], space: ActionSpace) -> NDArray[Any]:
    row = given.astype(np.int64) - space.first
    if choices_problem(space, row[None]) is not None:
        raise ValueError(f"action is {given.tolist()}; accepted: {space}")
    return row


def mask_row(mask: ArrayLike | None, recording: Recording) -> NDArray[np.bool_] | None:
    """Return a copy of one step's mask, [N]; None when all was allowed."""
    if mask is None:
        return None
    row = np.array(mask, dtype=np.bool_)
    earlier = next((known for known in recording.mask if known is not None), row)
    if row.ndim != 1 or row.shape != earlier.shape:
        accepted = earlier.shape if earlier.ndim == 1 else "[N]"
        raise ValueError(f"mask has shape {row.shape}; accepted: {accepted}")
    return row


def checked_version(version: int | None) -> int | None:
    """Return a version as a plain number; None stays."""
    if version is None:
        return None
    number = int(version)
    if number < 0:
        raise ValueError(f"policy_version is {number}; accepted: None or an integer >= 0")
    return number


def check_logp(logp: float | None, recording: Recording) -> None:
    """Refuse what is no log-probability, or is given on some steps only."""
    steps = len(recording.reward)
    if logp is not None and not math.isfinite(logp):
        raise ValueError(f"logp is {logp}; accepted: a finite log-probability, or None on every step")
    if steps and (logp is None) == bool(recording.logp):
        raise ValueError(
            "logp is given on some steps only; accepted: on every step of an episode, or on none"
        )


def common_version(versions: list[int | None]) -> int | None:
    """Give the one version of all steps, None when nobody acted or when they differ."""
    numbers = {version or 0 for version in versions}
    if len(numbers) > 1 or all(version is None for version in versions):
        return None
    return numbers.pop()


def arrays_of(recording: Recording, last: list[NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the fields of all steps; ``last`` holds the final observation, if there is one."""
    arrays = {
        "obs": np.stack(recording.obs + last),
        "action": np.stack(recording.action),
        "reward": np.array(recording.reward, dtype=np.float64),
    }
    if recording.logp:
        arrays["logp"] = np.array(recording.logp, dtype=np.float64)
    known = next((row for row in recording.mask if row is not None), None)
    if known is not None:
        everything = np.ones_like(known)
        arrays["mask"] = np.stack([everything if row is None else row for row in recording.mask])
    steps = [version or 0 for version in recording.policy_version]
    if len(set(steps)) > 1:
        arrays["policy_version_step"] = np.array(steps, dtype=np.int64)
    return arrays
