"""Maintenance: the calendar job: retention of what has been learned, refused and published."""

from collections.abc import Callable

import structlog
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger

from experience.spool import Spool
from learnerd.clock import Clock
from learnerd.config import Config
from policies.store import CheckpointStore

log = structlog.get_logger(__name__)


def start_calendar(config: Config, job: Callable[[], None]) -> BackgroundScheduler:
    """Call ``job`` at ``[schedule] compact``, local time; missed runs are made up for once."""
    calendar = BackgroundScheduler(daemon=True)
    calendar.add_job(
        job,
        CronTrigger.from_crontab(config.schedule.compact),
        id="maintenance",
        coalesce=True,
        max_instances=1,
        misfire_grace_time=None,
    )
    calendar.start()
    return calendar


def prune_store(store: CheckpointStore, config: Config, clock: Clock) -> list[int]:
    """Remove the versions that ``[store]`` does not keep; their episode ids stay known."""
    return store.prune(
        keep_last=config.store.keep_last,
        keep_every=config.store.keep_every,
        keep_minutes=config.store.keep_minutes,
        keep_bytes=config.store.keep_bytes,
        now_s=clock.wall() - clock.allowance_s,  # a step forward makes no version older
        max_staleness=config.admission.max_staleness,
    )


def maintain(config: Config, *, spool: Spool, store: CheckpointStore, clock: Clock) -> None:
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
    versions = prune_store(store, config, clock)
    log.info(
        "maintained",
        archive_removed=len(archived),
        set_aside_removed=len(set_aside),
        versions_removed=len(versions),
    )
