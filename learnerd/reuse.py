"""Reuse: how often archived episodes are learned from again, by a token bucket, and which ones.

What a version holds says how full the bucket is: its counters tell what was earned and what was spent, they
add when versions are merged, and a version is published whole or not at all. A kill at any point therefore
neither loses a pass nor gives one twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import structlog

from experience.behavior_check import acting_versions
from experience.episode import Episode
from experience.errors import ShardDamaged
from experience.spool import Spool
from learnerd.clock import Clock
from learnerd.config import Config
from learnerd.config_tables import Batch
from learnerd.learn import EARNED, NO_PASSES, SPENT, Passes
from learnerd.lineage import Lineage
from learnerd.recovered import Behavior
from learnerd.replay_buffer import Archived, ReplayBuffer
from policies import ledger
from policies.checkpoint import Checkpoint
from policies.store import CheckpointStore

if TYPE_CHECKING:
    from experience.archive_reader import ArchiveReader

log = structlog.get_logger(__name__)

CREDITS = 1000
"""Credits of one pass: counters are integers, and ``reuse`` may be a fraction."""

CHUNKS_SAVED = 2
"""What so many usual chunks earn can be saved up: a time without replay must not end in a flood of it."""

_DRAW = 1
"""Keeps the random numbers of the draw apart from those of the update's shuffling."""


@dataclass(frozen=True, kw_only=True)
class TokenBucket:
    """At most ``reuse`` passes per new episode, on average, and never more.

    A new episode earns reuse - 1 passes beside its own; each pass over an archived one spends one. What does
    not fit into the bucket is lost.

    Attributes:
        rate: credits that a new episode earns; 0: no replay.
        capacity: most credits in it. One pass beside what is saved up, so that small rates get there too.
    """

    rate: int
    capacity: int

    @classmethod
    def of(cls, batch: Batch) -> "TokenBucket":
        """Take ``reuse`` to three decimals, rounded down."""
        rate = int(CREDITS * batch.reuse + 1e-6) - CREDITS
        capacity = CREDITS + CHUNKS_SAVED * rate * batch.chunk_episodes if rate else 0
        return cls(rate=rate, capacity=capacity)

    def earned(self, credits_: int, new_episodes: int) -> int:
        """Credits that ``new_episodes`` add to ``credits_``."""
        return max(0, min(self.rate * new_episodes, self.capacity - credits_))

    def passes(self, credits_: int) -> int:
        """Whole passes that ``credits_`` are good for."""
        return max(0, min(credits_, self.capacity)) // CREDITS


def balance(counters: Mapping[str, int]) -> int:
    """Credits in the bucket of a version with these counters.

    Less than 0 after a merge of two branches that both spent what they began with: it is paid back first.
    """
    return counters.get(EARNED, 0) - CREDITS * counters.get(SPENT, 0)


class Reuse:
    """Chooses what is learned from again: archived episodes that would still be admitted.

    Args:
        config: ``[batch]`` and ``[admission]``.
        store: tells how stale a version is.
        spool: its archive fills the buffer at the start.
        clock: for ages.
        behavior: looks up the version that acted, for episodes without log-probabilities.
    """

    def __init__(
        self, config: Config, *, store: CheckpointStore, spool: Spool, clock: Clock, behavior: Behavior
    ) -> None:
        self._batch = config.batch
        self._admission = config.admission
        self._seed = config.learner.seed
        self._bucket = TokenBucket.of(config.batch)
        self._lineage = Lineage(store, config.admission.max_staleness)
        self._spool = spool
        self._clock = clock
        self._behavior = behavior
        self._buffer = ReplayBuffer.of(config.batch)

    @property
    def buffered(self) -> int:
        """How many episodes are kept."""
        return len(self._buffer)

    def fill(self) -> None:
        """Take the newest episodes from the archive, as far back as they may still be used."""
        head = self._lineage.refresh() if self._bucket.rate else None
        if head is None:
            return
        ancestors = ledger.Lineage.of(head)
        archive = _archive_of(self._spool)
        for version in reversed(archive.versions()):
            if version not in ancestors:
                continue
            if not self._is_fresh(version) or not self._buffer.add_older(version, _read(archive, version)):
                return

    def add(self, version: int, episodes: Sequence[Episode]) -> None:
        """Keep what ``version`` learned from; its shard is in the archive."""
        if self._bucket.rate:
            self._buffer.add(version, episodes)

    def passes(self, base: Checkpoint, chunks: Sequence[Sequence[Episode]]) -> Passes:
        """Return what is learned from again beside each of ``chunks``, starting from ``base``.

        The draw follows from the run's seed, the number of updates before, and what is in the buffer.
        """
        if not self._bucket.rate:
            return NO_PASSES
        self._lineage.refresh()
        ancestors = ledger.Lineage.of(base)
        new = {episode.key for chunk in chunks for episode in chunk}
        credits_, earned, drawn = balance(base.counters), 0, []
        for update, chunk in enumerate(chunks, start=base.counters.get("updates", 0)):
            added = self._bucket.earned(credits_, len(chunk))
            drawn.append(
                self._buffer.sample(
                    self._bucket.passes(credits_ + added),
                    np.random.default_rng([self._seed, update, _DRAW]),
                    usable=lambda archived: archived.version in ancestors and self._is_usable(archived),
                    without=new,
                    most_steps=self._batch.max_steps - sum(episode.n_steps for episode in chunk),
                )
            )
            credits_ += added - CREDITS * len(drawn[-1])
            earned += added
        return Passes(replayed=tuple(drawn), earned=earned)

    def _is_usable(self, archived: Archived) -> bool:
        """Whether an episode would be admitted today, and the policy that acted can be corrected for.

        Which version acted is not always known; then it is taken to be as old as the one that learned.
        """
        episode = archived.episode
        versions = acting_versions(episode) or [archived.version]
        return (
            self._age_s(episode) <= self._admission.max_age_s + self._clock.allowance_s
            and all(map(self._is_fresh, versions))
            and not any(map(self._lineage.rejected, versions))
            and (episode.logp is not None or self._is_recoverable(episode))
        )

    def _age_s(self, episode: Episode) -> float:
        ended_at = episode.ingested_at if episode.ended_at is None else episode.ended_at
        return self._clock.wall() - ended_at

    def _is_fresh(self, version: int) -> bool:
        staleness = self._lineage.staleness(version)
        return staleness is not None and staleness <= self._admission.max_staleness

    def _is_recoverable(self, episode: Episode) -> bool:
        steps = episode.policy_version_step
        known = bool(episode.policy_version) if steps is None else bool((steps > 0).all())
        return known and all(self._behavior(version) is not None for version in acting_versions(episode))


def _archive_of(spool: Spool) -> "ArchiveReader":
    from experience.archive_reader import ArchiveReader  # noqa: PLC0415 - loads pyarrow

    return ArchiveReader(spool.archive_folder)


def _read(archive: "ArchiveReader", version: int) -> list[Episode]:
    """What a version learned from; none when that is damaged: repair tells of it, and replay goes without."""
    try:
        return archive.episodes(version)
    except (ShardDamaged, FileNotFoundError) as error:
        log.warning("not_replayed", version=version, error=str(error))
        return []
