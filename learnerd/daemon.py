"""Daemon: one loop that takes files in and hands batches to the training thread, until it is told to stop."""

import contextlib
import json
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import structlog
import torch
from filelock import FileLock, Timeout

from experience.admission import Rules
from experience.codec import Limits
from experience.decoder import Decoder
from experience.durable import write_atomic
from experience.errors import reject
from experience.outcomes import Outcomes
from experience.spool import Spool
from learnerd.clock import Clock
from learnerd.config import Config
from learnerd.cycle import Cycle, CycleReport
from learnerd.device import choose_device
from learnerd.errors import ConfigError, ConfigProblem
from learnerd.exit_codes import ExitCode
from learnerd.gate import Gate
from learnerd.intake import SLICE_FILES, Intake
from learnerd.maintenance import maintain, prune_store, start_calendar
from learnerd.notify import Notifier
from learnerd.pending import Pending
from learnerd.status_file import read_status, write_status
from learnerd.telemetry import Telemetry
from learnerd.threads import thread_count
from learnerd.trainer import Trainer
from learnerd.watch import SpoolWatch
from policies.errors import StoreError
from policies.merge import MergeSettings
from policies.spec import PolicySpec
from policies.store import CheckpointStore

log = structlog.get_logger(__name__)

Mode = Literal["forever", "once", "until_idle"]

HEARTBEAT_S = 10.0
"""Longest time between two looks at the world and two writes of the status file."""

MAX_FAILURES = 3
"""Cycles on one batch that may fail for an unknown reason before the batch is set aside."""

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


def run(config: Config, *, mode: Mode = "forever") -> int:
    """Run the daemon; returns the process's exit code.

    0: stopped as asked, or in the finite modes a file got a verdict; 9: there was none; 5: another daemon
    holds the instance lock, or the store could not be written.
    """
    for folder in (config.paths.state / "lock", config.paths.spool):
        folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(config.paths.state / "lock" / "instance", timeout=1.0, mode=0o660, fallback_to_soft=False)
    try:
        with lock, _build(config, mode) as daemon:
            return daemon.run()
    except Timeout:
        log.warning(
            "busy", lock=str(lock.lock_file), remedy="another daemon runs on this state folder; stop it first"
        )
        return ExitCode.RETRYABLE


@contextlib.contextmanager
def _build(config: Config, mode: Mode) -> Iterator["Daemon"]:
    """Put the stages together, and take them down again in the opposite order."""
    torch.set_num_threads(thread_count(config))
    clock = Clock(remember_s=config.admission.max_age_s)
    state = config.paths.state
    merging = MergeSettings(**config.merge.model_dump(), daemon=config.daemon.name)
    write_atomic(state / "merge.json", json.dumps(merging.to_json()).encode())
    store = CheckpointStore(state)
    store.sweep()
    store.repair_current()
    spool = Spool(config.paths.spool, writer=config.daemon.name)
    spool.make_folders()
    spool.sweep(clock.wall())
    outcomes = Outcomes(state / "outcomes.jsonl")
    outcomes.fold({claim.id for claim in spool.resume()})
    gate = Gate(
        store=CheckpointStore(state),
        spool=spool,
        outcomes=outcomes,
        rules=Rules(
            max_age_s=config.admission.max_age_s,
            max_staleness=config.admission.max_staleness,
            width=config.admission.width,
        ),
        clock=clock,
    )
    decoder = Decoder(Limits(max_file_bytes=config.admission.max_file_bytes))
    daemon = Daemon(config, mode=mode, store=store, spool=spool, gate=gate, decoder=decoder, clock=clock)
    try:
        yield daemon
    finally:
        daemon.close()
        decoder.close()


class Daemon:
    """The loop: hints and scans in, batches to the trainer, reports out.

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
        self._config = config
        self._mode = mode
        self._store = store
        self._spool = spool
        self._gate = gate
        self._clock = clock
        self._wake = threading.Event()
        self._stop = Stop(wake=self._wake)
        self._notifier = Notifier.from_environment(os.environ)
        self._watch = SpoolWatch(config.paths.spool, self._wake)
        self._intake = Intake(
            spool=spool, decoder=decoder, gate=gate, settle_s=config.admission.settle_s, clock=clock
        )
        self._pending = Pending(config.batch)
        device = choose_device(config.learner.device)
        self._cycle = Cycle(config, store=store, spool=spool, gate=gate, device=device, clock=clock)
        self._trainer = Trainer(self._cycle, wake=self._wake, clock=clock)
        self._telemetry = Telemetry(config=config, device=device, clock=clock)
        self._calendar = start_calendar(config, self._ask_for_maintenance)
        self._maintenance_due = False
        self._failures = 0
        self._resume_at_s = 0.0
        self._next_scan_s = 0.0
        self._next_status_s = 0.0

    def run(self) -> int:
        """Run until told to stop, or until nothing is left in the finite modes."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        self._start()
        while not self._finished():
            self._wake.wait(self._wait_s())
            self._wake.clear()
            self._step()
        return self._exit_code()

    def close(self) -> None:
        """End threads; called whatever happened."""
        self._calendar.shutdown(wait=False)
        self._watch.stop()
        self._trainer.close()
        self._telemetry.state = "stopped"
        self._write_status()

    def _start(self) -> None:
        """Watch first, then resume and scan, so that no file falls between; only then say READY."""
        self._telemetry.restore(read_status(self._config.paths.state))
        head = self._store.head()
        spec = self._configured_spec() if head is None else head.spec
        if head is not None:
            check_against(self._config, head.spec)
        if spec is not None:
            self._gate.learn_spec(spec)
            head = self._cycle.publish_initial(spec)
        self._telemetry.head = head
        if self._mode != "once":
            self._watch.start()
        resumed = self._cycle.recover(self._intake.resume())
        kept = [arrival for arrival in map(self._gate.sort, resumed) if arrival.episodes]
        self._pending.add(kept, now_s=self._clock.monotonic())
        self._scan()
        self._telemetry.state = "running"
        self._write_status()
        self._notifier.ready(self._summary())
        log.info(
            "ready",
            version=head.version if head else None,
            device=self._telemetry.device,
            resumed=len(kept),
            spool=str(self._config.paths.spool),
        )

    def _configured_spec(self) -> PolicySpec | None:
        policy = self._config.policy
        action = policy.action_space()
        if policy.observation_shape is None or action is None:
            return None
        return PolicySpec(
            observation_shape=policy.observation_shape,
            action=action,
            hidden=policy.hidden,
            activation=policy.activation,
            normalize=policy.normalize,
        )

    def _step(self) -> None:
        """Do one round: look, take in, hand over, report."""
        jump = self._clock.check()
        if jump:
            log.warning("clock_stepped", seconds=round(jump, 1))
        if not self._draining:
            self._look()
        self._take_report()
        if self._maintenance_due:
            self._maintain()
        self._hand_over()
        if self._clock.monotonic() >= self._next_status_s:
            self._write_status()
        self._beat()

    def _look(self) -> None:
        """Take hints, rescan when it is time, and decode what there is room for."""
        if self._mode != "once":
            if not self._watch.ensure_alive():
                log.warning("watch_restarted")
                self._next_scan_s = 0.0
            self._intake.note(self._watch.take_complete())
        now = self._clock.monotonic()
        if now >= self._next_scan_s or self._intake.settled:
            self._scan()
        room = self._pending.room(SLICE_FILES)
        if room:
            self._pending.add(self._intake.take(room), now_s=self._clock.monotonic())

    def _scan(self) -> None:
        self._intake.scan(only_known=self._mode == "once" and self._next_scan_s > 0.0)
        self._next_scan_s = self._clock.monotonic() + self._config.schedule.rescan_s

    def _hand_over(self) -> None:
        """Start a cycle when a batch is due and the trainer is free."""
        now = self._clock.monotonic()
        if self._trainer.busy or not len(self._pending) or now < self._resume_at_s:
            return
        if self._pending.wait_s(now) == 0.0 or self._flushing:
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
        if self._failures >= MAX_FAILURES and (self._draining or self._mode != "forever"):
            return True
        if len(self._pending):
            return False
        return self._draining or (self._mode != "forever" and self._intake.idle and self._nothing_new())

    def _nothing_new(self) -> bool:
        """One last look before an end for want of files."""
        if self._mode == "until_idle":
            self._intake.note(self._watch.take_complete())
            self._scan()
        return self._intake.idle

    def _wait_s(self) -> float:
        now = self._clock.monotonic()
        if self._draining and not self._trainer.busy and now >= self._resume_at_s:
            return 0.0
        waits = [HEARTBEAT_S, self._next_status_s - now, self._next_scan_s - now]
        if self._notifier.watchdog_s:
            waits.append(self._notifier.watchdog_s / 3)
        if self._intake.has_work and self._pending.room(1) and not self._draining:
            waits.append(0.0)
        waits += [wait for wait in (self._intake.next_due_s(),) if wait is not None]
        due = 0.0 if self._flushing else self._pending.wait_s(now)
        if not self._trainer.busy and len(self._pending) and due is not None:
            waits.append(max(due, self._resume_at_s - now))
        if (
            self._mode != "forever"
            and not self._trainer.busy
            and not len(self._pending)
            and self._intake.idle
        ):
            waits.append(0.0)
        return max(0.0, min(waits))

    def _take_report(self) -> None:
        try:
            report = self._trainer.take_report()
        except (StoreError, OSError) as error:
            self._retry_later(
                "publish_failed", error, "free space or mend the state folder; nothing is lost meanwhile"
            )
        except Exception as error:  # noqa: BLE001 - whatever a batch does, the daemon goes on
            self._set_aside_or_retry(error)
        else:
            if report is not None:
                self._failures = 0
                self._telemetry.clear_alarm("publish_failed")
                self._report(report)

    def _retry_later(self, alarm: str, error: Exception, remedy: str) -> None:
        """Keep the batch, and try it again when the next scan is due."""
        log.error(alarm, error=str(error), kind=type(error).__name__)
        now = self._clock.monotonic()
        self._failures += 1
        self._pending.put_back(self._trainer.batch, now_s=now)
        self._resume_at_s = now + min(self._config.schedule.rescan_s, 2.0**self._failures)
        self._telemetry.raise_alarm(alarm, f"{type(error).__name__}: {error}", remedy)

    def _set_aside_or_retry(self, error: Exception) -> None:
        log.error("cycle_failed", error=str(error), exc_info=error)
        if self._failures + 1 < MAX_FAILURES:
            self._retry_later("cycle_failed", error, "look at the log; the batch is tried again")
            return
        self._failures = 0
        problem = reject(
            "update_failed", "update", f"{type(error).__name__}: {error}", "a batch that trains"
        ).problem
        for arrival in self._trainer.batch:
            self._gate.refuse_all(arrival, problem)
        self._telemetry.raise_alarm(
            "cycle_failed",
            f"a batch of {len(self._trainer.batch)} files failed {MAX_FAILURES} times: {error}",
            "its episodes are in refused/update_failed; look at the log, mend it, and deposit them again",
        )

    def _report(self, report: CycleReport) -> None:
        """Take in a cycle's report: figures, alarms, one log line."""
        self._telemetry.note(report)
        if report.diverged:
            self._telemetry.raise_alarm(
                "diverged",
                f"an update became non-finite: {report.diverged}",
                "its episodes are in refused/diverged; look at their rewards and observations",
            )
        if report.inferred is not None and self._configured_spec() is None:
            self._note_inferred(report.inferred)
        if report.published is not None and report.learned is not None:
            self._log_cycle(report)
            if report.published.version % PRUNE_EVERY == 0:
                self._trainer.submit(self._prune)
        self._write_status()

    def _note_inferred(self, spec: PolicySpec) -> None:
        shapes = json.dumps({"observation_shape": spec.observation_shape, "action": spec.action.to_json()})
        log.warning("policy_inferred", spec=shapes)
        self._telemetry.raise_alarm(
            "policy_inferred",
            f"shapes were taken from the first episodes: {shapes}",
            "name observation_shape and action under [policy] if this is not what you meant",
            level="notice",
        )

    def _log_cycle(self, report: CycleReport) -> None:
        assert report.published is not None and report.learned is not None  # noqa: PT018
        last = report.learned.reports[-1]
        log.info(
            "published",
            version=report.published.version,
            episodes=len(report.learned.episodes),
            steps=sum(one.n_steps for one in report.learned.reports),
            updates=len(report.learned.reports),
            return_mean=round(
                sum(e.total_reward for e in report.learned.episodes) / len(report.learned.episodes), 3
            ),
            loss=round(last.loss, 5),
            ess=round(last.ess_fraction, 3),
            update_s=round(report.update_s, 4),
            publish_s=round(report.publish_s, 4),
        )

    def _ask_for_maintenance(self) -> None:
        """Take note, on the calendar's thread; the work is for those who own spool and store."""
        self._maintenance_due = True
        self._wake.set()

    def _maintain(self) -> None:
        self._maintenance_due = False
        self._spool.sweep(self._clock.wall())
        self._trainer.submit(
            lambda: maintain(self._config, spool=self._spool, store=self._store, clock=self._clock)
        )

    def _prune(self) -> None:
        prune_store(self._store, self._config, self._clock)

    def _write_status(self) -> None:
        self._next_status_s = self._clock.monotonic() + HEARTBEAT_S
        if self._draining and self._telemetry.state == "running":
            self._telemetry.state = "draining"
            self._notifier.stopping("draining")
        document = self._telemetry.document(self._spool, self._gate.counts())
        try:
            write_status(self._config.paths.state, document)
        except OSError as error:  # a full disk must not end the daemon
            log.warning("status_not_written", error=str(error))
        self._notifier.status(self._summary())

    def _beat(self) -> None:
        """Send a watchdog beat, but only while the learner makes progress."""
        limit_s = self._notifier.watchdog_s
        if limit_s is not None and self._trainer.busy_s < limit_s:
            self._notifier.watchdog()

    def _summary(self) -> str:
        head = self._telemetry.head
        version = f"version {head.version}" if head else "no version yet"
        learned = head.counters.get("episodes", 0) if head else 0
        return f"{version}, {learned} episodes learned, {len(self._pending)} files in hand"

    def _exit_code(self) -> int:
        if self._failures >= MAX_FAILURES:
            return ExitCode.RETRYABLE
        if self._mode != "forever" and not self._draining and self._gate.verdicts == 0:
            return ExitCode.NOTHING_TO_DO
        return ExitCode.OK


def check_against(config: Config, spec: PolicySpec) -> None:
    """Hold ``[policy]`` against the policy that the store already has.

    Raises:
        ConfigError: naming each key that asks for another policy.
    """
    published = spec.to_json()
    wanted = config.policy.model_dump(mode="json", exclude_none=True)
    problems = [
        ConfigProblem(
            source=str(config.file or "config"),
            table="policy",
            key=key,
            value=json.dumps(value),
            accepted=f"{json.dumps(published[key])}, as in the policy in {config.paths.state}",
            hint="another policy needs a state folder of its own",
        )
        for key, value in wanted.items()
        if published[key] != value
    ]
    if problems:
        raise ConfigError(problems)
