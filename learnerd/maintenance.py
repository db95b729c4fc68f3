"""Maintenance: the calendar job: retention of what was learned, refused and published, and compaction."""

import contextlib
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future

import structlog
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger

from experience.archive_folder import first_version
from experience.spool import Spool
from learnerd.admission import Admission
from learnerd.clock import Clock
from learnerd.compaction import Compaction
from learnerd.config import Config
from learnerd.cron import Cron
from learnerd.reporter import Reporter
from learnerd.scrub import Scrub
from learnerd.trainer import Trainer
from policies.errors import StoreError
from policies.store import CheckpointStore

log = structlog.get_logger(__name__)

PRUNE_EVERY = 16
"""Versions published between two looks at the store's retention."""


class Housekeeping:
    """Begins maintenance when the calendar says so, and prunes the store between; tells how it ended.

    Args:
        config: the bounds, and when.
        store, spool, admission: what is kept within them.
        trainer: on whose thread.
        scrub: reads every version on that occasion.
        reporter: who is told.
        clock: ages.
        wake: set when maintenance is due.
        needed: versions that stay whatever the bounds say.
    """

    def __init__(
        self,
        config: Config,
        *,
        store: CheckpointStore,
        spool: Spool,
        admission: Admission,
        trainer: Trainer,
        scrub: Scrub,
        reporter: Reporter,
        clock: Clock,
        wake: threading.Event,
        needed: Callable[[], Iterable[int]] = tuple,
    ) -> None:
        self._needed = needed
        self._config, self._store, self._spool, self._admission = config, store, spool, admission
        self._trainer, self._scrub, self._reporter, self._clock = trainer, scrub, reporter, clock
        self._wake = wake
        self._due = self._compaction_due = False
        self._running: Future[None] | None = None
        self._looked: Future[int] | None = None
        self._pruned_block = 0
        self._compaction = Compaction(
            spool=spool, store=store, trainer=trainer, reporter=reporter, clock=clock
        )
        self._calendar = start_calendar(config, self._ask)

    def step(self) -> None:
        """Begin maintenance when it is due, and tell how the last one ended; call it every round."""
        if self._looked is not None and self._looked.done():
            looked, self._looked = self._looked, None
            with contextlib.suppress(StoreError):  # the next look may find out
                self.published(looked.result())
        try:
            if self._running is not None and self._running.done():
                done, self._running = self._running, None
                done.result()
                self._reporter.recovered("maintenance_failed")
            if self._due:
                self._due = False
                self._scrub.look_at_all()
                self._spool.sweep(self._clock.wall())
                self._admission.compact_outcomes()
                self._running = self._trainer.submit(self._maintain)
            if self._compaction_due:
                self._compaction_due = False
                self._compaction.begin()
            self._compaction.step()
        except Exception as error:  # noqa: BLE001 - whatever is not cleared away, the daemon goes on
            remedy = "free space, or mend spool and state; it is tried again the next time"
            unexpected = not isinstance(error, (OSError, StoreError))
            self._reporter.failure("maintenance_failed", error, remedy, unexpected=unexpected)

    def published(self, version: int) -> None:
        """Prune the store from time to time; not before it was told how what runs now has ended."""
        block = version // PRUNE_EVERY  # the number that it divides may be an online learner's
        if block > self._pruned_block and self._running is None:
            self._pruned_block = block
            self._running = self._trainer.submit(self._prune)

    def look(self) -> None:
        """See what others have published: it is pruned too where nothing is learned here."""
        if self._looked is None:
            self._looked = self._trainer.submit(self._store.highest_used)

    def clock_stepped(self) -> None:
        """Have the calendar look at the wall clock anew."""
        self._calendar.wakeup()

    def close(self) -> None:
        """End the calendar."""
        self._calendar.shutdown(wait=False)

    def make_room(self) -> None:
        """Clear away at once what may go; compaction, which needs room itself, waits for the calendar."""
        self._due = True

    def _ask(self) -> None:
        """Take note, on the calendar's thread; the work is for those who own spool and store."""
        self._due = self._compaction_due = True
        self._wake.set()

    def _maintain(self) -> None:
        maintain(self._config, spool=self._spool, store=self._store, clock=self._clock, keep=self._needed())

    def _prune(self) -> None:
        prune_store(self._store, self._config, self._clock, self._needed())


def start_calendar(config: Config, job: Callable[[], None]) -> BackgroundScheduler:
    """Call ``job`` at ``[schedule] compact``, local time; missed runs are made up for once."""
    calendar = BackgroundScheduler(daemon=True)
    calendar.add_job(
        job,
        CronTrigger(**Cron.parse(config.schedule.compact).apscheduler()),
        id="maintenance",
        coalesce=True,
        max_instances=1,
        misfire_grace_time=None,
    )
    calendar.start()
    return calendar


def prune_store(
    store: CheckpointStore,
    config: Config,
    clock: Clock,
    keep: Iterable[int] = (),
    *,
    archived_from: int | None = None,
) -> list[int]:
    """Remove the versions that ``[store]`` does not keep; their episode ids stay known.

    Their records go with the rows of the archive, when ``archived_from`` says which version has its first.
    """
    pruned = store.prune(
        keep_last=config.store.keep_last,
        keep_every=config.store.keep_every,
        keep_minutes=config.store.keep_minutes,
        keep_bytes=config.store.keep_bytes,
        now_s=clock.wall() - clock.allowance_s,  # a step forward makes no version older
        max_staleness=config.admission.max_staleness,
        keep=keep,
    )
    store.forget_records(archived_from=archived_from, keep_bytes=config.store.keep_records_bytes)
    return pruned


def maintain(
    config: Config, *, spool: Spool, store: CheckpointStore, clock: Clock, keep: Iterable[int] = ()
) -> None:
    """Keep archive, refused and quarantined files and the store within their bounds."""
    now = clock.wall()
    archived = spool.archive_prune(
        keep_days=config.archive.keep_days, keep_bytes=config.archive.keep_bytes, now=now
    )
    days, size = config.quarantine.keep_days, config.quarantine.keep_bytes
    set_aside = [
        *spool.quarantine_prune(keep_days=days, keep_bytes=size, now=now),
        *spool.refused_prune(keep_days=days, keep_bytes=size, now=now),
    ]
    oldest = first_version(spool.archive_folder)
    versions = prune_store(store, config, clock, keep, archived_from=oldest)
    log.info(
        "maintained",
        archive_removed=len(archived),
        set_aside_removed=len(set_aside),
        versions_removed=len(versions),
    )
