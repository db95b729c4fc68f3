"""Daemon: one process for one policy: its lock, its stages put together, its loop run to the end."""

import contextlib
import errno
import logging
import os
from collections.abc import Iterator

import structlog
import torch
from filelock import FileLock, Timeout

from experience.admission import Rules
from experience.codec import Limits
from experience.decoder import Decoder
from experience.outcomes import Outcomes
from experience.spool import Spool
from learnerd import restored
from learnerd.admission import Admission
from learnerd.clock import Clock
from learnerd.config import Config
from learnerd.errors import ConfigError
from learnerd.exit_codes import ExitCode
from learnerd.log import configure as configure_log
from learnerd.loop import Loop, Mode
from learnerd.notify import Notifier
from learnerd.published_policy import policy_problems
from learnerd.reload import Change
from learnerd.requests import Requests
from learnerd.schedule import Schedule
from learnerd.threads import thread_count
from policies.errors import StoreError
from policies.merge import MergeSettings
from policies.publishing import write_merge_settings
from policies.spec import PolicySpec
from policies.store import CheckpointStore

log = structlog.get_logger(__name__)

PATIENCE_S = 60.0
"""Added to the time that the service manager is asked for: a full disk is slow, too."""


def run(config: Config, *, mode: Mode = "forever") -> int:
    """Run the daemon; returns the process's exit code.

    0: stopped as asked, or in the finite modes a file got a verdict; 9: there was none, or learning is
    paused; 5: another daemon holds the instance lock, the disk is low, or the store could not be written. On
    a full disk "forever" waits for space.
    """
    for folder in (config.paths.state / "lock", config.paths.spool):
        folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(config.paths.state / "lock" / "instance", timeout=1.0, mode=0o660, fallback_to_soft=False)
    requests = Requests()
    requests.listen(reloads=mode == "forever")
    if mode != "forever" and (code := _held_back(config)) is not None:
        return code
    try:
        with lock:
            return _run(config, mode, requests)
    except Timeout:
        log.warning(
            "lock_busy",
            lock=str(lock.lock_file),
            remedy="another daemon runs on this state folder; stop it first",
        )
        return ExitCode.RETRYABLE


def _held_back(config: Config) -> ExitCode | None:
    """What a run that would end by itself returns when it may not begin; None when it may."""
    schedule = Schedule(config, clock=Clock(remember_s=0.0), finite=True)
    schedule.look()
    for hold in schedule.holds:
        remedy = "`learnerd resume` first" if hold.why == "paused" else schedule.concerns[0].remedy
        log.warning("held", why=hold.why, message=hold.message, remedy=remedy)
    return schedule.exit_code() if schedule.held else None


def _run(config: Config, mode: Mode, requests: Requests) -> int:
    """Run one loop after another: a reload begins the next, from what is on disk, as a restart would.

    What an update that was broken off had claimed stays claimed, as after a kill; so the process may end at
    once, although its training thread does not.
    """
    change: Change | None = None
    while True:
        with contextlib.ExitStack() as stack:
            loop = _started(config, mode, requests, change, stack)
            code = ExitCode.OK if loop is None else loop.run()
        if loop is not None and loop.cut_short:
            logging.shutdown()
            os._exit(code)
        if loop is None or loop.change is None:
            return code
        change, config = loop.change, loop.change.config
        configure_log(form=config.telemetry.log, level=config.telemetry.level)


def _started(
    config: Config, mode: Mode, requests: Requests, change: Change | None, stack: contextlib.ExitStack
) -> Loop | None:
    """Build and start a loop; None when a stop is asked for before one could be.

    The service manager must not give up because a disk is full for an hour; nor must a reload end what would
    have gone on without it.
    """
    while True:
        try:
            with contextlib.ExitStack() as attempt:
                loop = attempt.enter_context(_build(config, mode, requests))
                loop.start(change)
                stack.push(attempt.pop_all())
                return loop
        except (OSError, StoreError) as error:
            if mode != "forever" or not (change or _is_full(error)):
                raise
            _wait_for_better_times(config, requests, error)
            if requests.stop:
                return None


def _wait_for_better_times(config: Config, requests: Requests, error: Exception) -> None:
    pause_s = config.schedule.rescan_s
    log.error("not_started", error=str(error), remedy="free space, or mend the folders; it is tried again")
    notifier = Notifier.from_environment(os.environ)
    notifier.extend_timeout(2 * pause_s + PATIENCE_S, f"not started, tried again: {error}")
    notifier.watchdog()
    requests.wake.wait(pause_s)
    requests.wake.clear()


def _is_full(error: BaseException | None) -> bool:
    """Whether a full disk or quota is the cause."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__
    return False


@contextlib.contextmanager
def _build(config: Config, mode: Mode, requests: Requests) -> Iterator[Loop]:
    """Put the stages together, and take them down again in the opposite order."""
    torch.set_num_threads(thread_count(config))
    clock = Clock(remember_s=config.admission.max_age_s)
    state = config.paths.state
    merging = MergeSettings(**config.merge.model_dump(), daemon=config.daemon.name)
    write_merge_settings(state, merging)
    store = CheckpointStore(state)
    store.sweep()
    store.repair_current()
    head = store.head()
    if head is not None:
        check_against(config, head.spec)
    spool = Spool(config.paths.spool, writer=config.daemon.name)
    spool.make_folders()
    restored.set_apart(store, spool)
    spool.sweep(clock.wall())
    outcomes = Outcomes(state / "outcomes.jsonl")
    outcomes.renew()
    outcomes.fold({claim.id for claim in spool.resume()})
    admission = Admission(
        store=CheckpointStore(state),
        spool=spool,
        outcomes=outcomes,
        rules=Rules(
            max_age_s=config.admission.max_age_s,
            max_staleness=config.admission.max_staleness,
            width=config.admission.width,
            logp_tolerance=config.admission.logp_tolerance,
        ),
        clock=clock,
        starvation_episodes=config.stability.starvation_episodes,
    )
    decoder = Decoder(Limits(max_file_bytes=config.admission.max_file_bytes))
    loop = Loop(
        config,
        mode=mode,
        store=store,
        spool=spool,
        admission=admission,
        decoder=decoder,
        clock=clock,
        requests=requests,
    )
    try:
        yield loop
    finally:
        loop.close()
        decoder.close()


def check_against(config: Config, spec: PolicySpec) -> None:
    """Hold ``[policy]`` against the policy that the store already has.

    Raises:
        ConfigError: naming each key that asks for another policy.
    """
    problems = policy_problems(config, spec.to_json())
    if problems:
        raise ConfigError(problems)
