"""Stream: what one agent sees and does, from a reset to an end, into a writer."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from experience.writer import EpisodeWriter


class Stream:
    """Holds the observation that the next action is chosen on; records a step once its reward is known.

    Observations are copied as they arrive: environments reuse their arrays.

    Args:
        writer: takes the steps.
        segment_steps: deposit a piece each so many steps, for sessions that never end; 0: whole episodes.
    """

    def __init__(self, writer: EpisodeWriter, *, segment_steps: int = 0) -> None:
        self._writer, self._segment_steps = writer, segment_steps
        self._obs: Any = None
        self._mask: Any = None
        self._steps = 0
        self._notes: dict[str, Any] = {}
        self.live = False

    def begin(self, obs: Any, *, mask: Any = None, episode_id: str | None = None, **notes: Any) -> None:
        """An episode begins; one that is still open ends where it is, as cut short.

        Args:
            obs: the first observation.
            mask: True where an action is allowed; None: all are.
            episode_id: the client's own; None: a new one.
            notes: further fields of the header, such as ``seed``.
        """
        self.cut()
        if episode_id is not None:
            self._writer.begin(episode_id)
        self._notes = {name: value for name, value in notes.items() if value is not None}
        self._see(obs, mask)
        self.live = True

    def step(
        self,
        action: Any,
        reward: float,
        next_obs: Any,
        *,
        terminated: bool,
        truncated: bool,
        mask: Any = None,
        behavior: Mapping[str, Any] | None = None,
    ) -> None:
        """One step was taken.

        Args:
            action: what was done on the observation before.
            reward: what it gave.
            next_obs: what is seen after it.
            terminated: the task ended.
            truncated: it was cut from outside.
            mask: True where the next action is allowed; None: all are.
            behavior: ``logp`` and ``policy_version`` of the action.
        """
        self._writer.step(self._obs, action, reward, mask=self._mask, **(behavior or {}))
        if self._notes:
            self._writer.annotate(**self._notes)
        self._steps += 1
        if terminated or truncated:
            self._end(next_obs, terminated=terminated, truncated=truncated)
            return
        if self._steps == self._segment_steps:
            self._writer.end(next_obs, terminated=False, truncated=True, continues=True)
            self._steps = 0
        self._see(next_obs, mask)

    def cut(self) -> None:
        """End what is open as cut short, with the last observation to go on from."""
        if self.live and self._steps:
            self._end(self._obs, terminated=False, truncated=True)
        elif self._writer.segment:
            self._writer.abandon()  # the session ended with its last piece: no step is open
        self.live = False

    def _end(self, final_obs: Any, *, terminated: bool, truncated: bool) -> None:
        self._writer.end(final_obs, terminated=bool(terminated), truncated=bool(truncated))
        self._steps, self.live = 0, False

    def _see(self, obs: Any, mask: Any) -> None:
        self._obs, self._mask = deepcopy(obs), deepcopy(mask)
