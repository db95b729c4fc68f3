"""EpisodeWriter: how a Python client deposits its episodes. Needs numpy and the standard library only."""

import io
import json
import math
import os
import time
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experience.episode import MAX_ID_CHARACTERS, SCHEMA_VERSION
from experience.errors import NotYetClosed
from experience.ids import uuid7


@dataclass(kw_only=True)
class _Recording:
    """The steps of the episode in progress, as lists that only grow."""

    started_at: float
    obs: list[NDArray[Any]] = field(default_factory=list)
    action: list[NDArray[Any]] = field(default_factory=list)
    reward: list[float] = field(default_factory=list)
    logp: list[float] = field(default_factory=list)
    mask: list[NDArray[np.bool_] | None] = field(default_factory=list)
    policy_version: list[int | None] = field(default_factory=list)
    ended_at: float | None = None
    notes: dict[str, Any] = field(default_factory=dict)


class EpisodeWriter:
    """Records the steps of one environment and deposits each episode as one npz file in the spool.

    Nothing here waits for the daemon: no lock is taken, nothing is read from the spool, and a file becomes
    visible by one rename. Files are not fsynced: a crash of this process loses no deposited episode, a power
    cut may lose the last seconds of them, and a real-time client should not stall on a disk for that.

    Everything is copied when it is given, so observation arrays may be reused. Several environments, or
    several agents, use one writer each. Not safe for use by two threads at once.

    Args:
        spool: the spool's folder, as in ``[paths] spool``. ``in`` below it is created when it is missing, so
            that a client may start before the daemon.
        client_id: who writes; with the episode's id it makes the episode unique.
        env_id: name of the environment, passed through.
        agent_id: which agent of a shared environment; "" when there is one.
        action_space: ``{"kind": "discrete", "n": 2}`` or ``{"kind": "continuous", "shape": [1]}``; spares
            the daemon guessing n from the actions that it happens to see first.
        clock: wall clock, UTC seconds.

    Raises:
        ValueError: an id that the daemon would refuse.
        OSError: the folder cannot be made.
    """

    def __init__(
        self,
        spool: str | os.PathLike[str],
        *,
        client_id: str,
        env_id: str | None = None,
        agent_id: str = "",
        action_space: Mapping[str, Any] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        _check_id("client_id", client_id)
        _check_id("agent_id", agent_id)
        self._inbox = Path(spool) / "in"
        self._inbox.mkdir(parents=True, exist_ok=True)
        self._header: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "client_id": client_id}
        if env_id is not None:
            self._header["env_id"] = env_id
        if agent_id:
            self._header["agent_id"] = agent_id
        if action_space is not None:
            # Gymnasium's n is a numpy integer, which JSON does not know.
            self._header["action_space"] = json.loads(json.dumps(dict(action_space), default=int))
        self._clock = clock
        self._recording: _Recording | None = None
        self._episode_id = uuid7()
        self._segment = 0

    @property
    def episode_id(self) -> str:
        """Id of the episode in progress, or of the next one."""
        return self._episode_id

    @property
    def segment(self) -> int:
        """Position of the piece in progress in its episode; above 0 only after ``continues=True``."""
        return self._segment

    def step(
        self,
        obs: ArrayLike,
        action: ArrayLike,
        reward: float,
        *,
        logp: float | None = None,
        mask: ArrayLike | None = None,
        policy_version: int | None = None,
    ) -> None:
        """Record one step; the first one after an end begins the next episode.

        Finiteness of observations and rewards is left to the daemon, which records what it refuses: looking
        at every number here would cost the client more than the copy does.

        Args:
            obs: the observation that the action was chosen on; uint8 stays uint8, the rest becomes float32.
            action: an integer (discrete), or a float or float vector (continuous), as it was sampled.
            reward: what the environment gave for it.
            logp: log-probability of the action under the policy that chose it; on all steps of an episode
                or on none.
            mask: True where an action was allowed; None: all were.
            policy_version: the version that chose it; None or 0: none of ours.

        Raises:
            ValueError: the step does not fit the ones before it; it was not recorded.
            NotYetClosed: the last ``end`` failed; call it again, or ``abandon``.
        """
        recording = self._recording or _Recording(started_at=self._clock())
        if recording.ended_at is not None:
            raise NotYetClosed(f"episode {self._episode_id} could not be written: call end again, or abandon")
        obs_row = _observation(obs, recording)
        action_row = _action(action, recording)
        mask_row = _mask(mask, recording)
        version = _version(policy_version)
        _check_logp(logp, recording)
        reward_value = float(reward)
        recording.obs.append(obs_row)
        recording.action.append(action_row)
        recording.reward.append(reward_value)
        if logp is not None:
            recording.logp.append(float(logp))
        recording.mask.append(mask_row)
        recording.policy_version.append(version)
        self._recording = recording

    def end(
        self,
        final_obs: ArrayLike | None,
        *,
        terminated: bool,
        truncated: bool = False,
        continues: bool = False,
    ) -> Path:
        """Deposit the episode; the next step begins a new one.

        Args:
            final_obs: the observation after the last action: what is still to come is judged by it when the
                episode was cut short. None is accepted when ``terminated``.
            terminated: the task itself ended, so that nothing more could be earned.
            truncated: it was cut from outside, by a time limit or because the client stops.
            continues: the same session goes on in the next piece: same id, next segment. Only with
                ``truncated``.

        Returns:
            The file; the daemon may have taken it already.

        Raises:
            ValueError: the arguments contradict each other or the steps.
            NotYetClosed: there is no step.
            OSError: it could not be written. Nothing is visible in the spool, and the episode is kept:
                call ``end`` again, or ``abandon``.
        """
        self.check_end(final_obs, terminated=terminated, truncated=truncated, continues=continues)
        recording = self._recording
        assert recording is not None
        last = [] if final_obs is None else [_observation(final_obs, recording)]
        if recording.ended_at is None:
            recording.ended_at = self._clock()
        outcome = {"terminated": bool(terminated), "truncated": bool(truncated)}
        path = self._deposit(_arrays(recording, last), self._meta(recording, outcome))
        self._recording = None
        if continues:
            self._segment += 1
        else:
            self._begin_new_id()
        return path

    def abandon(self) -> None:
        """Drop the episode in progress; the next step begins a new one."""
        self._recording = None
        self._begin_new_id()

    def begin(self, episode_id: str, *, segment: int = 0) -> None:
        """Give the next episode an id of the client's own: a match's, a session's.

        Args:
            episode_id: unique for this client and agent; what is deposited again under it is a duplicate.
            segment: which piece of it, from 0.

        Raises:
            ValueError: an episode is in progress, or the daemon would refuse the id.
        """
        if self._recording is not None:
            raise ValueError(f"episode {self._episode_id} is in progress: end or abandon it first")
        _check_id("episode_id", episode_id)
        if not episode_id or segment < 0:
            raise ValueError(
                f"episode_id {episode_id!r}, segment {segment}; accepted: some text, and 0 or more"
            )
        self._episode_id, self._segment = episode_id, segment

    def add_reward(self, step: int, amount: float) -> None:
        """Add to the reward of a step of the episode in progress: what it earned was known only later.

        Args:
            step: its number in the episode or piece, from 0.
            amount: what is added.

        Raises:
            IndexError: there is no such step.
        """
        rewards = [] if self._recording is None else self._recording.reward
        if not 0 <= step < len(rewards):
            raise IndexError(f"step is {step}; the episode in progress has {len(rewards)} steps")
        rewards[step] += float(amount)

    def annotate(self, **fields: Any) -> None:
        """Add fields of the client's own to the episode in progress; they are kept with it in the archive.

        Args:
            fields: name -> what JSON holds.

        Raises:
            NotYetClosed: there is no step.
        """
        if self._recording is None:
            raise NotYetClosed("there is no episode to annotate: call step first")
        self._recording.notes.update(fields)

    def check_end(
        self,
        final_obs: ArrayLike | None,
        *,
        terminated: bool,
        truncated: bool = False,
        continues: bool = False,
    ) -> None:
        """Raise what ``end`` would raise for these arguments; write nothing."""
        if self._recording is None:
            raise NotYetClosed("there is no step to end: call step first")
        _check_end(final_obs, terminated=terminated, truncated=truncated, continues=continues)
        if final_obs is not None:
            _observation(final_obs, self._recording)

    def _begin_new_id(self) -> None:
        self._episode_id = uuid7()
        self._segment = 0

    def _meta(self, recording: _Recording, outcome: Mapping[str, bool]) -> dict[str, Any]:
        assert recording.ended_at is not None
        meta = (
            recording.notes
            | self._header
            | {
                "episode_id": self._episode_id,
                "segment": self._segment,
                "started_at": _utc(recording.started_at),
                "ended_at": _utc(recording.ended_at),
                **outcome,
            }
        )
        version = _common_version(recording.policy_version)
        return meta if version is None else meta | {"policy_version": version}

    def _deposit(self, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> Path:
        name = f"{self._episode_id}.{self._segment}.npz"
        aside = self._inbox / f".tmp-{name}"
        path = self._inbox / name
        try:
            with aside.open("xb") as file:
                _write_npz(file, {"meta": np.array(json.dumps(meta)), **arrays})
            aside.rename(path)
        except BaseException:
            with suppress(OSError):
                aside.unlink()
            raise
        return path


def _write_npz(file: BinaryIO, arrays: Mapping[str, NDArray[Any]]) -> None:
    """As ``np.savez``, which would pickle what has no plain dtype instead of saying so."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, allow_pickle=False)
            archive.writestr(f"{name}.npy", member.getbuffer())


def _check_id(name: str, text: str) -> None:
    if not isinstance(text, str) or len(text) > MAX_ID_CHARACTERS or not text.isprintable():
        raise ValueError(
            f"{name} is {text!r}; accepted: printable text of at most {MAX_ID_CHARACTERS} characters"
        )


def _observation(obs: ArrayLike, recording: _Recording) -> NDArray[Any]:
    given = np.asarray(obs)
    row = given.astype(np.uint8 if given.dtype == np.uint8 else np.float32, copy=True)
    if recording.obs:
        first = recording.obs[0]
        if row.shape != first.shape:
            raise ValueError(f"obs has shape {row.shape}, the first step's has {first.shape}")
        row = row.astype(first.dtype, copy=False)
    return row


def _action(action: ArrayLike, recording: _Recording) -> NDArray[Any]:
    given = np.asarray(action)
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


def _mask(mask: ArrayLike | None, recording: _Recording) -> NDArray[np.bool_] | None:
    if mask is None:
        return None
    row = np.array(mask, dtype=np.bool_)
    earlier = next((known for known in recording.mask if known is not None), row)
    if row.ndim != 1 or row.shape != earlier.shape:
        accepted = earlier.shape if earlier.ndim == 1 else "[N]"
        raise ValueError(f"mask has shape {row.shape}; accepted: {accepted}")
    return row


def _version(version: int | None) -> int | None:
    if version is None:
        return None
    number = int(version)
    if number < 0:
        raise ValueError(f"policy_version is {number}; accepted: None or an integer >= 0")
    return number


def _check_logp(logp: float | None, recording: _Recording) -> None:
    steps = len(recording.reward)
    if logp is not None and not math.isfinite(logp):
        raise ValueError(f"logp is {logp}; accepted: a finite log-probability, or None on every step")
    if steps and (logp is None) == bool(recording.logp):
        raise ValueError(
            "logp is given on some steps only; accepted: on every step of an episode, or on none"
        )


def _check_end(final_obs: ArrayLike | None, *, terminated: bool, truncated: bool, continues: bool) -> None:
    if not (terminated or truncated):
        raise ValueError("terminated and truncated are both False; pass truncated=True when the client stops")
    if continues and (terminated or not truncated):
        raise ValueError("continues=True is accepted only with truncated=True and terminated=False")
    if final_obs is None and not terminated:
        raise ValueError("final_obs is None; accepted only when terminated: the rest is judged by it")


def _common_version(versions: list[int | None]) -> int | None:
    """Give the one version of all steps, None when nobody acted or when they differ."""
    numbers = {version or 0 for version in versions}
    if len(numbers) > 1 or all(version is None for version in versions):
        return None
    return numbers.pop()


def _arrays(recording: _Recording, last: list[NDArray[Any]]) -> dict[str, NDArray[Any]]:
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


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
