"""Loop: files in, batches to the training thread, reports out, until it is told to stop."""

import contextlib
import os
import time
from typing import Literal

from experience.decoder import Decoder
from experience.errors import DecoderDied
from experience.spool import Spool
from learnerd.admission import Admission
from learnerd.clock import Clock
from learnerd.config import Config
from learnerd.cycle import Cycle
from learnerd.device import choose_device
from learnerd.errors import ConfigError
from learnerd.exit_codes import ExitCode
from learnerd.intake import SLICE_FILES, Intake
from learnerd.maintenance import Housekeeping
from learnerd.notify import Notifier
from learnerd.pending import Pending
from learnerd.reload import Change, reread
from learnerd.repair import Repair
from learnerd.reporter import Reporter
from learnerd.requests import Requests
from learnerd.retries import Retries
from learnerd.rollbacks import Rollbacks
from learnerd.schedule import Schedule
from learnerd.scrub import Scrub
from learnerd.status_file import read_status
from learnerd.telemetry import Telemetry
from learnerd.trainer import Trainer
from learnerd.warm_up import warm_up
from learnerd.watch import SpoolWatch
from policies.errors import StoreError
from policies.store import CheckpointStore

Mode = Literal["forever", "once", "until_idle"]

HEARTBEAT_S = 10.0
"""Longest time between two looks at the world and two writes of the status file."""

LOOK_EVERY_S = 1.0
"""Longest time between two looks at the schedule: `learnerd pause` may come at any time."""

SCAN_PAUSE = 10.0
"""Times its own cost between two scans: with a million files waiting looking must not be all."""


class Loop:
    """One round after another: look, take in, hand over, report.

    Args:
        config: everything that can be set.
        mode: "forever"; "once": what is there now; "until_idle": until nothing is left.
        store, spool, admission, decoder, clock: the stages.
        requests: what the daemon is asked to do.

    Attributes:
        change: the configuration with which another loop is to go on; None when the daemon is to end.
        cut_short: something still ran when the time to stop was over; see ``close``.
    """

    def __init__(
        self,
        config: Config,
        *,
        mode: Mode,
        store: CheckpointStore,
        spool: Spool,
        admission: Admission,
        decoder: Decoder,
        clock: Clock,
        requests: Requests,
    ) -> None:
        self._config, self._mode = config, mode
        self._store, self._spool, self._admission, self._clock = store, spool, admission, clock
        self._requests, self._wake = requests, requests.wake
        self.change: Change | None = None
        self.cut_short = False
        self._watch = SpoolWatch(config.paths.spool, self._wake)
        settle_s = config.admission.settle_s
        self._intake = Intake(
            spool=spool, decoder=decoder, admission=admission, settle_s=settle_s, clock=clock
        )
        self._pending = Pending(config.batch)
        device = choose_device(config.learner.device)
        self._cycle = Cycle(config, store=store, spool=spool, admission=admission, device=device, clock=clock)
        self._trainer = Trainer(self._cycle, wake=self._wake, clock=clock)
        self._notifier = Notifier.from_environment(os.environ)
        self._telemetry = Telemetry(config=config, device=device, clock=clock, began_s=requests.began_s)
        self._reporter = Reporter(
            config, telemetry=self._telemetry, spool=spool, admission=admission, notifier=self._notifier
        )
        repair = Repair(
            config.paths.state,
            store=store,
            spool=spool,
            admission=admission,
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
        self._housekeeping = Housekeeping(
            config,
            store=store,
            spool=spool,
            admission=admission,
            trainer=self._trainer,
            scrub=self._scrub,
            reporter=self._reporter,
            clock=clock,
            wake=self._wake,
            needed=lambda: self._cycle.needed,
        )
        self._rollbacks = Rollbacks(config, store=store, trainer=self._trainer, reporter=self._reporter)
        self._schedule = Schedule(config, clock=clock, finite=mode != "forever")
        self._retries = Retries(
            self._pending,
            admission=admission,
            reporter=self._reporter,
            clock=clock,
            longest_s=config.schedule.rescan_s,
        )
        self._intake_failed = False
        self._next_scan_s = self._next_status_s = 0.0

    def run(self) -> int:
        """Run until told to stop, or until nothing is left in the finite modes; returns the exit code.

        Call it once, after ``start``.
        """
        while not self._finished():
            self._wake.wait(self._wait_s())
            self._wake.clear()
            self._round()
        if self._draining:
            self._reporter.draining()  # it may have come after the last round
        is_full = self._mode != "forever" and self._schedule.disk_is_low
        if self._retries.exhausted or is_full:
            return ExitCode.RETRYABLE
        idle = self._mode != "forever" and not self._draining and self._admission.verdicts == 0
        return ExitCode.NOTHING_TO_DO if idle else ExitCode.OK

    def close(self) -> None:
        """End threads; called whatever happened.

        What outlasts ``[daemon] drain_s`` is not waited for: its files stay claimed, as after a kill.
        """
        self._housekeeping.close()
        self._watch.stop()
        self.cut_short = not self._trainer.close(timeout_s=self._drain_left_s)
        if self.change is None:
            self._reporter.stopped(cut_short=self.cut_short)
        self._reporter.close()

    def start(self, change: Change | None = None) -> None:
        """Watch first, then resume and scan, so that no file falls between; only then say READY.

        Args:
            change: after a reload, what it changed.
        """
        self._clock.recall(self._config.paths.state)
        self._check_clock()
        self._clock.remember(self._config.paths.state)
        self._telemetry.restore(read_status(self._config.paths.state))
        warm_up(self._config.learner.settings(), device=self._telemetry.device)
        self._telemetry.head = self._cycle.begin()
        self._telemetry.buffered = self._cycle.buffered
        self._rollbacks.restore()
        if self._mode != "once":
            self._watch.start()
        resumed = self._cycle.recover(self._intake.resume())
        self._look_at_schedule()
        kept = [arrival for arrival in map(self._admission.sort, resumed) if arrival.episodes]
        self._pending.add([*kept, *self._scrub.begin()], now_s=self._clock.monotonic())
        self._scan()
        if change is not None:
            self._reporter.reloaded(change)
        self._reporter.ready(resumed=len(kept))

    def _round(self) -> None:
        self._check_clock()
        self._look_at_schedule()
        if self._draining:
            self.change = None
            self._reporter.draining()
        elif self._requests.reload:
            self._reload()
        if self.change is not None:  # the next loop goes on, as soon as nothing runs any more
            self._take_report()
            self._beat()
            return
        if not self._draining:
            self._look_and_survive()
        self._take_report()
        self._rollbacks.step()
        self._housekeeping.step()
        idle = not self._trainer.busy and not len(self._pending)
        self._pending.put_back(self._scrub.step(idle=idle), now_s=self._clock.monotonic())
        self._hand_over()
        if self._clock.monotonic() >= self._next_status_s:
            self._next_status_s = self._clock.monotonic() + HEARTBEAT_S
            self._reporter.write_status()
            if not self._trainer.busy:
                self._trainer.submit(self._store.confirm)
                self._rollbacks.look()
                self._housekeeping.look()
        self._beat()

    def _look_at_schedule(self) -> None:
        """See whether a cycle may begin; tell when that changes, and make room when the disk is low."""
        was_held, was_low = self._schedule.held, self._schedule.disk_is_low
        if self._schedule.look():
            self._reporter.held(self._schedule.holds, self._schedule.concerns)
        if self._schedule.disk_is_low and not was_low:
            self._housekeeping.make_room()
        if was_held and not self._schedule.held:
            self._next_scan_s = 0.0  # to take up what was claimed meanwhile

    def _reload(self) -> None:
        """Read the configuration again; another loop goes on with it when that changes something."""
        self._requests.reload = False
        self._reporter.reloading()
        try:
            change = reread(self._config, os.environ)
        except ConfigError as error:
            self._reporter.reload_refused(error)
            return
        if change.applied:
            self.change = change
        else:
            self._reporter.reloaded(change)
            self._reporter.ready(resumed=0)

    def _check_clock(self) -> None:
        """Tell of a step of the wall clock, and have the calendar look at it anew."""
        jump_s = self._clock.check()
        if jump_s:
            self._reporter.clock_stepped(jump_s)
            self._clock.remember(self._config.paths.state)
            self._housekeeping.clock_stepped()

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
        """Take hints, rescan when it is time, and decode what there is room for; while held, only claim."""
        if self._schedule.held and self._clock.monotonic() < self._next_scan_s:
            self._intake.claim()
            return
        if self._mode != "once":
            if not self._watch.ensure_alive():
                self._next_scan_s = 0.0
            self._reporter.watch(self._watch.problem)
            self._intake.note(self._watch.take_complete())
        if self._clock.monotonic() >= self._next_scan_s or self._intake.settled:
            self._scan()
        room = 0 if self._schedule.held else self._pending.room(SLICE_FILES)
        if room:
            for arrival in self._intake.take(room):
                self._pending.add([arrival], now_s=self._clock.monotonic())
                if self._drain_left_s == 0.0 and self._draining:
                    return  # the others are claimed: the next start takes them up
                if self._pending.overflows:
                    self._next_scan_s = self._clock.monotonic()  # the next scan does
                    return

    def _scan(self) -> None:
        """Look at the whole inbox; "once" takes only what was there at the first time."""
        begun_s = time.thread_time()
        only_known = self._mode == "once" and self._next_scan_s > 0.0
        self._intake.scan(only_known=only_known, adopt=not self._schedule.held)
        cost_s = time.thread_time() - begun_s
        pause_s = max(self._config.schedule.rescan_s, SCAN_PAUSE * cost_s)
        self._next_scan_s = self._clock.monotonic() + pause_s

    def _hand_over(self) -> None:
        """Start a cycle when a batch is due and the trainer is free."""
        now = self._clock.monotonic()
        if self._schedule.held or self._trainer.busy or now < self._retries.resume_at_s:
            return
        if len(self._pending) and (self._flushing or self._pending.wait_s(now) == 0.0):
            self._trainer.start(self._pending.take())

    @property
    def _draining(self) -> bool:
        return self._requests.stop

    @property
    def _drain_left_s(self) -> float:
        """Seconds left to learn what is in hand, and to end threads."""
        return self._requests.stop_left_s(self._config.daemon.drain_s)

    @property
    def _flushing(self) -> bool:
        """No more is coming soon, so an open batch closes without waiting."""
        return self._draining or (self._mode != "forever" and not self._intake.has_work)

    def _finished(self) -> bool:
        if self.change is not None:
            return self._trainer.idle
        if self._draining and self._drain_left_s == 0.0:
            return True
        if self._trainer.busy or self._rollbacks.busy:
            return False
        ending = self._draining or self._mode != "forever"
        if ending and (self._schedule.held or self._retries.exhausted):
            return True  # what is in hand stays claimed
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
        waits = [LOOK_EVERY_S, self._next_status_s - now]
        if self.change is not None:
            return HEARTBEAT_S if self._notifier.watchdog_s is None else self._notifier.watchdog_s / 2
        if self._draining:
            waits.append(self._drain_left_s)
        if self._notifier.watchdog_s is not None:
            waits.append(self._notifier.watchdog_s / 2)  # a beat must come before the interval ends
        if not self._draining:
            waits.append(self._next_scan_s - now)
            if self._schedule.held and self._intake.unclaimed:
                waits.append(0.0)
        if not self._draining and not self._schedule.held:
            if self._intake.has_work and self._pending.room(1):
                waits.append(0.0)
            if (due_s := self._intake.next_due_s()) is not None and self._pending.room(1):
                waits.append(due_s)
        if not self._trainer.busy and not self._schedule.held:
            waits.append(self._wait_for_batch_s(now))
        return max(0.0, min(waits))

    def _wait_for_batch_s(self, now: float) -> float:
        due_s = self._pending.wait_s(now)
        if due_s is None:
            idle = self._mode != "forever" and self._intake.idle
            return 0.0 if idle or self._draining else HEARTBEAT_S
        return max(0.0 if self._flushing else due_s, self._retries.resume_at_s - now)

    def _take_report(self) -> None:
        try:
            report = self._trainer.take_report()
        except Exception as error:  # noqa: BLE001 - whatever a batch does, the daemon goes on
            self._retries.failed(self._trainer.batch, error)
        else:
            if report is not None:
                self._retries.succeeded()
                self._reporter.cycle(report, number=self._trainer.cycles)
                self._rollbacks.note(report)
                if report.published is not None:
                    self._housekeeping.published(report.published.version)

    def _beat(self) -> None:
        """Send a watchdog beat, but only while the learner makes progress."""
        limit_s = self._notifier.watchdog_s
        if limit_s is not None and self._trainer.busy_s < limit_s:
            self._notifier.watchdog()
