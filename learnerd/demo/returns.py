"""Returns: what the clients report of their episodes, followed while they run."""

import json
from collections import deque
from dataclasses import dataclass
from pathlib import Path

WINDOW_EPISODES = 100
TARGET_RETURN = 475.0
"""Where CartPole-v1 counts as solved: this mean over the last 100 episodes."""


@dataclass(frozen=True, kw_only=True, order=True)
class Played:
    """One episode, as its client reported it.

    Attributes:
        at_s: when it ended, seconds since 1970.
        total_reward: its undiscounted return.
        steps: its length.
        version: the version that acted, 0 for none.
    """

    at_s: float
    total_reward: float
    steps: int
    version: int


class Reports:
    """Reads the lines that a client has added to its output since the last look.

    Args:
        file: the client's standard output.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._offset = 0

    def read(self) -> list[Played]:
        """Every whole line that is new."""
        with self._file.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole, _, _ = data.rpartition(b"\n")
        if not whole:
            return []
        self._offset += len(whole) + 1
        return [_played(line) for line in whole.split(b"\n")]


def _played(line: bytes) -> Played:
    values = json.loads(line)
    return Played(
        at_s=values["at"],
        total_reward=values["return"],
        steps=values["steps"],
        version=values["version"],
    )


class Curve:
    """Episodes of all clients in the order of time, with the mean return over the last 100.

    Attributes:
        episodes: all of them.
        means: beside each the mean over it and the 99 before it; fewer at the beginning.
        solved: the mean over 100 has reached the target once.
    """

    def __init__(self) -> None:
        self.episodes: list[Played] = []
        self.means: list[float] = []
        self.solved = False
        self.steps = 0
        self._window: deque[float] = deque(maxlen=WINDOW_EPISODES)

    def add(self, played: list[Played]) -> None:
        """Append what was reported since the last look; all that follows the solution is left out."""
        for episode in sorted(played):
            if self.solved:
                return
            self._window.append(episode.total_reward)
            mean = sum(self._window) / len(self._window)
            self.episodes.append(episode)
            self.means.append(mean)
            self.steps += episode.steps
            self.solved = len(self._window) == WINDOW_EPISODES and mean >= TARGET_RETURN

    @property
    def mean_return(self) -> float | None:
        """The newest mean; None before the first episode."""
        return self.means[-1] if self.means else None
