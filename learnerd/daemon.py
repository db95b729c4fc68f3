"""Daemon: one process for one policy: its lock, its stages put together, its loop run to the end."""

import contextlib
import errno
import json
import signal
import time
from collections.abc import Iterator

import structlog
import torch
from filelock import FileLock, Timeout

from experience.admission import Rules
from experience.codec import Limits
from experience.decoder import Decoder
from experience.outcomes import Outcomes
from experience.spool import Spool
from learnerd.clock import Clock
from learnerd.config import Config
from learnerd.errors import ConfigError, ConfigProblem
from learnerd.exit_codes import ExitCode
from learnerd.gate import Gate
from learnerd.loop import Loop, Mode
from learnerd.threads import thread_count
from policies.errors import StoreError
from policies.merge import MergeSettings
from policies.publishing import write_merge_settings
from policies.spec import PolicySpec
from policies.store import CheckpointStore

log = structlog.get_logger(__name__)


def run(config: Config, *, mode: Mode = "forever") -> int:
    """Run the daemon; returns the process's exit code.

    0: stopped as asked, or in the finite modes a file got a verdict; 9: there was none; 5: another daemon
    holds the instance lock, or the store could not be written. On a full disk "forever" waits for space.
    """
    for folder in (config.paths.state / "lock", config.paths.spool):
        folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(config.paths.state / "lock" / "instance", timeout=1.0, mode=0o660, fallback_to_soft=False)
    try:
        with lock, contextlib.ExitStack() as stack:
            return _started(config, mode, stack).run()
    except Timeout:
        log.warning(
            "busy", lock=str(lock.lock_file), remedy="another daemon runs on this state folder; stop it first"
        )
        return ExitCode.RETRYABLE


def _started(config: Config, mode: Mode, stack: contextlib.ExitStack) -> Loop:
    """Build and start the loop; the service manager must not give up because a disk is full for an hour."""
    while True:
        try:
            with contextlib.ExitStack() as attempt:
                loop = attempt.enter_context(_build(config, mode))
                loop.start()
                stack.push(attempt.pop_all())
                return loop
        except (OSError, StoreError) as error:
            if mode != "forever" or not _is_full(error):
                raise
            log.error("not_started", error=str(error), remedy="free space; it is tried again")  # noqa: TRY400
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the loop that handled it is gone
            signal.signal(signal.SIGINT, signal.default_int_handler)
            time.sleep(config.schedule.rescan_s)


def _is_full(error: BaseException | None) -> bool:
    """Whether a full disk or quota is the cause."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__
    return False


@contextlib.contextmanager
def _build(config: Config, mode: Mode) -> Iterator[Loop]:
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
    spool.sweep(clock.wall())
    outcomes = Outcomes(state / "outcomes.jsonl")
    outcomes.renew()
    outcomes.fold({claim.id for claim in spool.resume()})
    gate = Gate(
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
    loop = Loop(config, mode=mode, store=store, spool=spool, gate=gate, decoder=decoder, clock=clock)
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
