"""Loop: files in, batches to the training thread, reports out, until it is told to stop."""

import contextlib
import os
import signal
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal

from experience.decoder import Decoder
from experience.errors import DecoderDied, reject
from experience.spool import Spool
from learnerd.clock import Clock
from learnerd.config import Config
from learnerd.cycle import Cycle
from learnerd.device import choose_device
from learnerd.exit_codes import ExitCode
from learnerd.gate import Gate
from learnerd.intake import SLICE_FILES, Intake
from learnerd.maintenance import maintain, prune_store, start_calendar
from learnerd.notify import Notifier
from learnerd.pending import Pending
from learnerd.repair import Repair
from learnerd.reporter import Reporter
from learnerd.scrub import Scrub
from learnerd.status_file import read_status
from learnerd.telemetry import Telemetry
from learnerd.trainer import Trainer
from learnerd.warm_up import warm_up
from learnerd.watch import SpoolWatch
from policies.errors import BadDelta, DriftTooLarge, StoreError
from policies.store import CheckpointStore

Mode = Literal["forever", "once", "until_idle"]

HEARTBEAT_S = 10.0
"""Longest time between two looks at the world and two writes of the status file."""

SCAN_PAUSE = 10.0
"""Times its own cost between two scans: with a million files waiting looking must not be all."""

MAX_FAILURES = 3
"""How often a batch may fail: then it is set aside, or a run that is to end ends without it."""

PRUNE_EVERY = 16
"""Versions published between two looks at the store's retention."""


@dataclass(kw_only=True)
class Stop:
    """Whether, and by which signal, the daemon was asked to stop."""

    wake: threading.Event
    signal: int = 0

    def __call__(self, number: int, _frame: object) -> None:
        """Handle SIGTERM and SIGINT: drain, publish, end."""
        self.signal = number
        self.wake.set()


class Loop:
    """One round after another: look, take in, hand over, report.

    Args:
        config: everything that can be set.
        mode: "forever"; "once": what is there now; "until_idle": until nothing is left.
        store, spool, gate, decoder, clock: the stages.
    """

    def __init__(
        self,
        config: Config,
        *,
        mode: Mode,
        store: CheckpointStore,
        spool: Spool,
        gate: Gate,
        decoder: Decoder,
        clock: Clock,
    ) -> None:
        self._config, self._mode = config, mode
        self._store, self._spool, self._gate, self._clock = store, spool, gate, clock
        self._wake = threading.Event()
        self._stop = Stop(wake=self._wake)
        self._watch = SpoolWatch(config.paths.spool, self._wake)
        settle_s = config.admission.settle_s
        self._intake = Intake(spool=spool, decoder=decoder, gate=gate, settle_s=settle_s, clock=clock)
        self._pending = Pending(config.batch)
        device = choose_device(config.learner.device)
        self._cycle = Cycle(config, store=store, spool=spool, gate=gate, device=device, clock=clock)
        self._trainer = Trainer(self._cycle, wake=self._wake, clock=clock)
        self._notifier = Notifier.from_environment(os.environ)
        self._telemetry = Telemetry(config=config, device=device, clock=clock)
        self._reporter = Reporter(
            config, telemetry=self._telemetry, spool=spool, gate=gate, notifier=self._notifier
        )
        repair = Repair(
            config.paths.state,
            store=store,
            spool=spool,
            gate=gate,
            cycle=self._cycle,
            writer=config.daemon.name,
            most_episodes=config.batch.chunk_episodes * config.batch.max_chunks,
        )
        self._scrub = Scrub(
            repair,
            trainer=self._trainer,
            reporter=self._reporter,
            clock=clock,
            periodic=mode == "forever",
        )
        self._calendar = start_calendar(config, self._ask_for_maintenance)
        self._maintenance_due = False
        self._housekeeping: Future[None] | None = None
        self._failures = self._unexplained = 0
        self._intake_failed = False
        self._resume_at_s = self._next_scan_s = self._next_status_s = 0.0

    def run(self) -> int:
        """Run until told to stop, or until nothing is left in the finite modes; returns the exit code.

        Call it once, after ``start``.
        """
        while not self._finished():
            self._wake.wait(self._wait_s())
            self._wake.clear()
            self._round()
        if self._failures >= MAX_FAILURES:
            return ExitCode.RETRYABLE
        idle = self._mode != "forever" and not self._draining and self._gate.verdicts == 0
        return ExitCode.NOTHING_TO_DO if idle else ExitCode.OK

    def close(self) -> None:
        """End threads; called whatever happened."""
        self._calendar.shutdown(wait=False)
        self._watch.stop()
        self._trainer.close()
        self._reporter.stopped()

    def start(self) -> None:
        """Watch first, then resume and scan, so that no file falls between; only then say READY."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        self._clock.recall(self._config.paths.state)
        self._check_clock()
        self._clock.remember(self._config.paths.state)
        self._telemetry.restore(read_status(self._config.paths.state))
        warm_up(self._config.learner.settings(), device=self._telemetry.device)
        self._telemetry.head = self._cycle.begin()
        self._telemetry.buffered = self._cycle.buffered
        if self._mode != "once":
            self._watch.start()
        resumed = self._cycle.recover(self._intake.resume())
        kept = [arrival for arrival in map(self._gate.sort, resumed) if arrival.episodes]
        self._pending.add([*kept, *self._scrub.begin()], now_s=self._clock.monotonic())
        self._scan()
        self._reporter.ready(resumed=len(kept))

    def _round(self) -> None:
        self._check_clock()
        if self._draining:
            self._reporter.draining()
        else:
            self._look_and_survive()
        self._take_report()
        self._keep_house()
        idle = not self._trainer.busy and not len(self._pending)
        self._pending.put_back(self._scrub.step(idle=idle), now_s=self._clock.monotonic())
        self._hand_over()
        if self._clock.monotonic() >= self._next_status_s:
            self._next_status_s = self._clock.monotonic() + HEARTBEAT_S
            self._reporter.write_status()
            if not self._trainer.busy:
                self._trainer.submit(self._store.confirm)
        self._beat()

    def _check_clock(self) -> None:
        """Tell of a step of the wall clock, and have the calendar look at it anew."""
        jump_s = self._clock.check()
        if jump_s:
            self._reporter.clock_stepped(jump_s)
            self._clock.remember(self._config.paths.state)
            self._calendar.wakeup()

    def _look_and_survive(self) -> None:
        """Look, but let a full or failing disk pass: a later scan finds whatever was left half done."""
        scan_due = self._clock.monotonic() >= self._next_scan_s
        try:
            self._look()
        except (OSError, StoreError, DecoderDied) as error:
            self._intake_failed = True
            self._next_scan_s = self._clock.monotonic() + self._config.schedule.rescan_s
            remedy = "free space, or mend spool and state; nothing is lost meanwhile"
            self._reporter.failure("intake_failed", error, remedy)
            if isinstance(error, FileNotFoundError):
                self._restore_folders()
        else:
            if scan_due and self._intake_failed:  # what was left half done has been looked at
                self._intake_failed = False
                self._reporter.recovered("intake_failed")

    def _restore_folders(self) -> None:
        with contextlib.suppress(OSError):
            self._reporter.folders_restored(self._spool.restore_folders())

    def _look(self) -> None:
        """Take hints, rescan when it is time, and decode what there is room for."""
        if self._mode != "once":
            if not self._watch.ensure_alive():
                self._next_scan_s = 0.0
            self._intake.note(self._watch.take_complete())
        if self._clock.monotonic() >= self._next_scan_s or self._intake.settled:
            self._scan()
        room = self._pending.room(SLICE_FILES)
        if room:
            for arrival in self._intake.take(room):
                self._pending.add([arrival], now_s=self._clock.monotonic())

    def _scan(self) -> None:
        """Look at the whole inbox; "once" takes only what was there at the first time."""
        begun_s = time.thread_time()
        self._intake.scan(only_known=self._mode == "once" and self._next_scan_s > 0.0)
        cost_s = time.thread_time() - begun_s
        pause_s = max(self._config.schedule.rescan_s, SCAN_PAUSE * cost_s)
        self._next_scan_s = self._clock.monotonic() + pause_s

    def _hand_over(self) -> None:
        """Start a cycle when a batch is due and the trainer is free."""
        now = self._clock.monotonic()
        if self._trainer.busy or not len(self._pending) or now < self._resume_at_s:
            return
        if self._flushing or self._pending.wait_s(now) == 0.0:
            self._trainer.start(self._pending.take())

    @property
    def _draining(self) -> bool:
        return self._stop.signal != 0

    @property
    def _flushing(self) -> bool:
        """No more is coming soon, so an open batch closes without waiting."""
        return self._draining or (self._mode != "forever" and not self._intake.has_work)

    def _finished(self) -> bool:
        if self._trainer.busy:
            return False
        ending = self._draining or self._mode != "forever"
        if ending and self._failures >= MAX_FAILURES:
            return True
        if len(self._pending) or not ending or (self._scrub.unfinished and not self._draining):
            return False
        return self._draining or (self._intake.idle and self._nothing_new())

    def _nothing_new(self) -> bool:
        """Take one last look before an end for want of files."""
        if self._mode == "until_idle":
            self._intake.note(self._watch.take_complete())
            self._scan()
        return self._intake.idle

    def _wait_s(self) -> float:
        """How long nothing needs to be done, unless an event comes."""
        now = self._clock.monotonic()
        waits = [HEARTBEAT_S, self._next_status_s - now]
        if self._notifier.watchdog_s is not None:
            waits.append(self._notifier.watchdog_s / 2)  # a beat must come before the interval ends
        if not self._draining:
            waits.append(self._next_scan_s - now)
            if self._intake.has_work and self._pending.room(1):
                waits.append(0.0)
            if (due_s := self._intake.next_due_s()) is not None and self._pending.room(1):
                waits.append(due_s)
        if not self._trainer.busy:
            waits.append(self._wait_for_batch_s(now))
        return max(0.0, min(waits))

    def _wait_for_batch_s(self, now: float) -> float:
        due_s = self._pending.wait_s(now)
        if due_s is None:
            idle = self._mode != "forever" and self._intake.idle
            return 0.0 if idle or self._draining else HEARTBEAT_S
        return max(0.0 if self._flushing else due_s, self._resume_at_s - now)

    def _take_report(self) -> None:
        try:
            report = self._trainer.take_report()
        except (StoreError, OSError) as error:
            if isinstance(error, BadDelta):
                self._retry_or_set_aside(error)
            else:
                self._retry_later("publish_failed", error, _remedy(error))
        except Exception as error:  # noqa: BLE001 - whatever a batch does, the daemon goes on
            self._retry_or_set_aside(error)
        else:
            if report is not None:
                self._failures = self._unexplained = 0
                self._reporter.cycle(report)
                if report.published is not None and report.published.version % PRUNE_EVERY == 0:
                    self._housekeeping = self._trainer.submit(self._prune)

    def _retry_later(self, alarm: str, error: Exception, remedy: str) -> None:
        """Keep the batch, and try it again after a while; nothing of it is lost."""
        now = self._clock.monotonic()
        self._failures += 1
        self._pending.put_back(self._trainer.batch, now_s=now)
        self._resume_at_s = now + min(self._config.schedule.rescan_s, 2.0 ** min(self._failures, 8))
        self._reporter.failure(alarm, error, remedy)

    def _retry_or_set_aside(self, error: Exception) -> None:
        """Try a batch that failed for an unknown reason again, then refuse it; the others go on."""
        self._unexplained += 1
        self._reporter.failure(
            "cycle_failed", error, "look at the log; the batch is tried again", unexpected=True
        )
        if self._unexplained < MAX_FAILURES:
            self._retry_later("cycle_failed", error, "look at the log; the batch is tried again")
            return
        value = f"{type(error).__name__}: {error}"
        problem = reject("update_failed", "update", value, "a batch that trains").problem
        try:
            for arrival in self._trainer.batch:
                self._gate.refuse_all(arrival, problem)
        except (OSError, StoreError) as failure:
            self._retry_later("publish_failed", failure, "free space, or mend the spool")
            return
        self._failures = self._unexplained = 0
        remedy = "its episodes are in refused/update_failed; look at the log, then deposit them again"
        self._reporter.failure("cycle_failed", error, remedy)

    def _ask_for_maintenance(self) -> None:
        """Take note, on the calendar's thread; the work is for those who own spool and store."""
        self._maintenance_due = True
        self._wake.set()

    def _keep_house(self) -> None:
        """Begin maintenance when it is due, and tell how the last one ended."""
        try:
            if self._housekeeping is not None and self._housekeeping.done():
                done, self._housekeeping = self._housekeeping, None
                done.result()
                self._reporter.recovered("maintenance_failed")
            if self._maintenance_due:
                self._maintenance_due = False
                self._scrub.look_at_all()
                self._spool.sweep(self._clock.wall())
                self._gate.compact_outcomes()
                self._housekeeping = self._trainer.submit(self._maintain)
        except Exception as error:  # noqa: BLE001 - whatever is not cleared away, the daemon goes on
            remedy = "free space, or mend spool and state; it is tried again the next time"
            unexpected = not isinstance(error, (OSError, StoreError))
            self._reporter.failure("maintenance_failed", error, remedy, unexpected=unexpected)

    def _maintain(self) -> None:
        maintain(self._config, spool=self._spool, store=self._store, clock=self._clock)

    def _prune(self) -> None:
        prune_store(self._store, self._config, self._clock)

    def _beat(self) -> None:
        """Send a watchdog beat, but only while the learner makes progress."""
        limit_s = self._notifier.watchdog_s
        if limit_s is not None and self._trainer.busy_s < limit_s:
            self._notifier.watchdog()


def _remedy(error: Exception) -> str:
    if isinstance(error, DriftTooLarge):
        return "raise [merge] drift_limit, or let the online learner publish less often; nothing is lost"
    return "free space, or mend the state folder"
