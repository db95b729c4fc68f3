"""Compaction: the archive's finished days, compacted on the training thread, a slice between two cycles."""

from collections.abc import Iterator
from concurrent.futures import Future
from datetime import UTC, datetime

import structlog

from experience.compaction import compact
from experience.compaction_output import Compacted, IsAncestor
from experience.errors import ShardDamaged
from experience.spool import Spool
from learnerd.clock import Clock
from learnerd.reporter import Reporter
from learnerd.trainer import Trainer
from policies.errors import StoreError
from policies.ledger import Lineage
from policies.store import CheckpointStore

log = structlog.get_logger(__name__)

SLICE_S = 0.05
"""What a cycle may wait for compaction, but for a step that takes longer: a row group, or a flush."""


class Compaction:
    """Goes through the archive each time that it is asked to; what a stop breaks off comes the next time.

    Args:
        spool: its archive.
        store: tells which versions are ancestors of the head; the shards of others are ``repair``'s.
        trainer: on whose thread, as publishing, repair and retention: they find no half of a step.
        reporter: who is told.
        clock: which day it is.
    """

    def __init__(
        self, *, spool: Spool, store: CheckpointStore, trainer: Trainer, reporter: Reporter, clock: Clock
    ) -> None:
        self._spool, self._store, self._trainer = spool, store, trainer
        self._reporter, self._clock = reporter, clock
        self._steps: Iterator[None] | None = None
        self._running: Future[bool] | None = None
        self._report = Compacted()

    def begin(self) -> None:
        """Compact every day that is over (UTC), unless that is under way."""
        if self._steps is None:
            today = datetime.fromtimestamp(self._clock.wall(), UTC).strftime("%Y-%m-%d")
            self._report = Compacted()
            self._steps = compact(
                self._spool.archive_folder, before=today, ancestors=self._ancestors, report=self._report
            )

    def step(self) -> None:
        """Take the next slice when there is one; call it every round."""
        if self._steps is None or (self._running is not None and not self._running.done()):
            return
        done, self._running = self._running, None
        try:
            ended = done is not None and done.result()
        except (OSError, StoreError, ShardDamaged) as error:
            self._steps = None
            remedy = "free space, or mend the disk; nothing is lost, and it is tried again the next time"
            self._reporter.failure("compaction_failed", error, remedy)
            return
        if ended:
            self._finish()
        else:
            self._running = self._trainer.submit(self._slice)

    def _slice(self) -> bool:
        """Work for a while; whether all is done."""
        assert self._steps is not None
        until = self._clock.monotonic() + SLICE_S
        return not any(self._clock.monotonic() >= until for _ in self._steps)

    def _finish(self) -> None:
        self._steps = None
        report = self._report
        self._reporter.recovered("compaction_failed")
        self._reporter.archive_damaged(report.damaged)
        if report.replaced:
            log.info(
                "compacted",
                replaced=report.replaced,
                written=report.written,
                bytes_before=report.bytes_before,
                bytes_after=report.bytes_after,
            )

    def _ancestors(self) -> IsAncestor:
        return Lineage.of(self._store.head()).__contains__
