"""Recorded passes: which archived rows a version learned from again, noted in its shard, and found again.

A version's manifest says so first, at the publish, but goes when the version is pruned. The note in the shard
stays as long as the rows that were new.
"""

import json
from collections.abc import Sequence
from itertools import chain

import structlog

from experience.episode import Episode, EpisodeKey
from learnerd.archived import archive_of
from learnerd.config import Config
from learnerd.learn import NO_PASSES, Passes, chunked, evenly
from learnerd.replay_buffer import Archived, ReplayBuffer
from policies.checkpoint import Checkpoint

log = structlog.get_logger(__name__)

Place = tuple[int, EpisodeKey]
"""A row of the archive: the version whose shard it is in, and its key."""


def note_of(published: Checkpoint) -> str:
    """Return the note on a version, from its manifest; "" when it learned nothing again."""
    updates = published.manifest["record"].get("updates", [])
    replayed = [update.get("replayed", []) for update in updates]
    return json.dumps(replayed, separators=(",", ":")) if any(replayed) else ""


def read_places(note: str, *, updates: int) -> list[list[Place]]:
    """Return the rows that each of ``updates`` updates learned from again, in order.

    Where the version made another number of updates, all of its rows are dealt out anew, as even as can be.
    """
    recorded = [[(row[0], EpisodeKey(*row[1:])) for row in rows] for rows in json.loads(note or "[]")]
    if len(recorded) == updates:
        return recorded
    rows = list(chain.from_iterable(recorded))
    return list(map(list, evenly(rows, updates)))


class RecordedPasses:
    """Gives the versions of an archive, in their order, what was learned again with them.

    Args:
        config: ``[batch]``, and where the archive is.
    """

    def __init__(self, config: Config) -> None:
        self._batch = config.batch
        self._archive = archive_of(config)
        self._buffer = ReplayBuffer.of(config.batch)

    def take(self, version: int, episodes: Sequence[Episode], note: str) -> Passes:
        """Take in the next version's ``episodes``; return what was learned again with them, by its ``note``.

        Nothing when ``reuse`` is 1: that is what the configuration asks for.
        """
        if self._batch.reuse == 1:
            return NO_PASSES
        updates = len(chunked(episodes, self._batch.chunk_episodes))
        places = read_places(note, updates=updates)
        passes = Passes(replayed=tuple(tuple(filter(None, map(self._find, rows))) for rows in places))
        missing = sum(map(len, places)) - sum(map(len, passes.replayed))
        if missing:
            log.warning("not_replayed", version=version, episodes=missing, error="no longer in the archive")
        self._buffer.add(version, episodes)
        return passes

    def _find(self, place: Place) -> Archived | None:
        """Look in memory, where the daemon had it too; and else, with a smaller buffer than its, on disk."""
        version, key = place
        kept = self._buffer.find(version, key)
        if kept is not None:
            return kept
        rows = (episode for episode in self._archive.episodes(version) if episode.key == key)
        return next((Archived(version=version, episode=episode) for episode in rows), None)
