"""Replay buffer: the newest archived episodes in memory, to be learned from again."""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from experience.episode import Episode, EpisodeKey
from learnerd.config_tables import Batch

ARRAYS = ("obs", "action", "reward", "logp", "mask", "policy_version_step")


@dataclass(frozen=True, kw_only=True, slots=True)
class Archived:
    """An episode that was learned from, and the version that did: its row is in that version's shard."""

    version: int
    episode: Episode


class ReplayBuffer:
    """The newest episodes, as many as fit: a new one takes the place of the oldest.

    Args:
        most_episodes: how many are kept.
        most_bytes: bytes of their arrays together; an episode that alone has more is not kept.
    """

    def __init__(self, *, most_episodes: int, most_bytes: int) -> None:
        self._most_episodes = most_episodes
        self._most_bytes = most_bytes
        self._kept: OrderedDict[EpisodeKey, Archived] = OrderedDict()
        self._bytes = 0

    @classmethod
    def of(cls, batch: Batch) -> Self:
        """Return an empty one of the size that ``[batch]`` says."""
        return cls(most_episodes=batch.replay_episodes, most_bytes=batch.replay_bytes)

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[Archived]:
        """Oldest first."""
        return iter(list(self._kept.values()))

    def add(self, version: int, episodes: Sequence[Episode]) -> None:
        """Keep what ``version`` learned from, newer than everything so far."""
        for episode in episodes:
            self._drop(episode.key)
            self._keep(version, episode)
            while len(self._kept) > self._most_episodes or self._bytes > self._most_bytes:
                self._drop(next(iter(self._kept)))

    def add_older(self, version: int, episodes: Sequence[Episode]) -> bool:
        """Keep what ``version`` learned from, older than everything so far; whether all had room."""
        for episode in reversed(episodes):
            full = len(self._kept) >= self._most_episodes
            if full or self._bytes + size_bytes(episode) > self._most_bytes:
                return False
            if episode.key not in self._kept:
                self._keep(version, episode)
                self._kept.move_to_end(episode.key, last=False)
        return True

    def find(self, version: int, key: EpisodeKey) -> Archived | None:
        """Return the episode that ``version`` learned from under ``key``; None when it is not kept."""
        found = self._kept.get(key)
        return found if found is not None and found.version == version else None

    def sample(
        self,
        most: int,
        random: np.random.Generator,
        *,
        usable: Callable[[Archived], bool],
        without: Collection[EpisodeKey],
        most_steps: int,
    ) -> tuple[Archived, ...]:
        """Draw up to ``most`` different episodes, each as likely as any other.

        Args:
            most: how many.
            random: where the draw comes from.
            usable: whether an episode may still be used; one that may not is dropped for good.
            without: keys that are not drawn, and stay.
            most_steps: steps of all of them together; an episode too long for what is left is passed over.
        """
        drawn: list[Archived] = []
        kept = list(self._kept.items())
        for i in random.permutation(len(kept)) if most > 0 else ():
            key, archived = kept[i]
            if not usable(archived):
                self._drop(key)
            elif key not in without and archived.episode.n_steps <= most_steps:
                drawn.append(archived)
                most_steps -= archived.episode.n_steps
                if len(drawn) == most:
                    break
        return tuple(drawn)

    def _keep(self, version: int, episode: Episode) -> None:
        size = size_bytes(episode)
        if size <= self._most_bytes:
            self._kept[episode.key] = Archived(version=version, episode=_compact(episode))
            self._bytes += size

    def _drop(self, key: EpisodeKey) -> None:
        dropped = self._kept.pop(key, None)
        if dropped is not None:
            self._bytes -= size_bytes(dropped.episode)


def size_bytes(episode: Episode) -> int:
    """Bytes of its arrays."""
    return sum(array.nbytes for name in ARRAYS if (array := getattr(episode, name)) is not None)


def _compact(episode: Episode) -> Episode:
    """Copy what learning needs: an array may be a view that holds the memory of a whole file."""
    arrays: dict[str, Any] = {
        name: None if (array := getattr(episode, name)) is None else array.copy() for name in ARRAYS
    }
    return replace(
        episode, **arrays, info_json=None, extensions={}, tags=(), action_space=None, observation_space=None
    )
