"""EpisodeWriter: how a Python client deposits its episodes. Needs numpy and the standard library only."""

import io
import json
import os
import time
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experience.episode import MAX_ID_CHARACTERS, SCHEMA_VERSION
from experience.errors import NotYetClosed
from experience.ids import uuid7
from experience.recording import (
    Recording,
    action_row,
    arrays_of,
    check_logp,
    checked_version,
    common_version,
    mask_row,
    observation_row,
)
from experience.space_parsing import action_space_of, row_space_json, space_of


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
        action_space: ``{"kind": "discrete", "n": 2}``, another of ``experience.spaces``, or Gymnasium's own;
            spares the daemon guessing n from the actions that it happens to see first. Several choices at
            once, and actions that do not count from 0, need it.
        observation_space: likewise; dicts, tuples, indices and images need it. Without it, a dict's parts are
            boxes, or images where they are uint8 [H, W, C].
        clock: wall clock, UTC seconds.

    Raises:
        ValueError: an id or a space that the daemon would refuse.
        OSError: the folder cannot be made.
    """

    def __init__(
        self,
        spool: str | os.PathLike[str],
        *,
        client_id: str,
        env_id: str | None = None,
        agent_id: str = "",
        action_space: Any = None,
        observation_space: Any = None,
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
        self._action_space = None if action_space is None else action_space_of(action_space)
        self._observation = None if observation_space is None else space_of(observation_space)
        if self._action_space is not None:
            self._header["action_space"] = row_space_json(self._action_space)
        self._clock = clock
        self._recording: Recording | None = None
        self._episode_id = self._name = uuid7()
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
        obs: Any,
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
            obs: the observation that the action was chosen on, with its parts where it has some; uint8 stays
                uint8, the rest becomes float32.
            action: an integer (discrete), integers (several choices), or a float or float vector
                (continuous), as it was sampled.
            reward: what the environment gave for it.
            logp: log-probability of the action under the policy that chose it; on all steps of an episode
                or on none.
            mask: True where an action was allowed; None: all were.
            policy_version: the version that chose it; None or 0: none of ours.

        Raises:
            ValueError: the step does not fit the ones before it; it was not recorded.
            NotYetClosed: the last ``end`` failed; call it again, or ``abandon``.
        """
        recording = self._recording or Recording(
            started_at=self._clock(), observation=self._observation, action_space=self._action_space
        )
        if recording.ended_at is not None:
            raise NotYetClosed(f"episode {self._episode_id} could not be written: call end again, or abandon")
        observed = observation_row(obs, recording)
        actions = action_row(action, recording)
        allowed = mask_row(mask, recording)
        version = checked_version(policy_version)
        check_logp(logp, recording)
        reward_value = float(reward)
        recording.obs.append(observed)
        recording.action.append(actions)
        recording.reward.append(reward_value)
        if logp is not None:
            recording.logp.append(float(logp))
        recording.mask.append(allowed)
        recording.policy_version.append(version)
        self._recording = recording

    def end(
        self,
        final_obs: Any,
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
        last = [] if final_obs is None else [observation_row(final_obs, recording)]
        if recording.ended_at is None:
            recording.ended_at = self._clock()
        outcome = {"terminated": bool(terminated), "truncated": bool(truncated)}
        path = self._deposit(arrays_of(recording, last), self._meta(recording, outcome))
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
        self._name = sha256(f"{self._header}{episode_id}".encode()).hexdigest()[:32]

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
        final_obs: Any,
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
            observation_row(final_obs, self._recording)

    def _begin_new_id(self) -> None:
        self._episode_id = self._name = uuid7()
        self._segment = 0

    def _meta(self, recording: Recording, outcome: Mapping[str, bool]) -> dict[str, Any]:
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
        if recording.observation is not None:
            meta["observation_space"] = row_space_json(recording.observation)
        version = common_version(recording.policy_version)
        return meta if version is None else meta | {"policy_version": version}

    def _deposit(self, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> Path:
        name = f"{self._name}.{self._segment}.npz"
        aside = self._inbox / f".tmp-{uuid7()}"
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


def _check_end(final_obs: Any, *, terminated: bool, truncated: bool, continues: bool) -> None:
    if not (terminated or truncated):
        raise ValueError("terminated and truncated are both False; pass truncated=True when the client stops")
    if continues and (terminated or not truncated):
        raise ValueError("continues=True is accepted only with truncated=True and terminated=False")
    if final_obs is None and not terminated:
        raise ValueError("final_obs is None; accepted only when terminated: the rest is judged by it")


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
