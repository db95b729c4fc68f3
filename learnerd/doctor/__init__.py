"""Doctor: looks at machine, folders, state and pipeline, and says what to do about what is wrong.

It only reads, but for a scratch folder of its own, so that a running daemon goes undisturbed. Loads neither
torch, NumPy nor pyarrow: what needs them runs in a process of its own.
"""

from collections.abc import Iterator, Mapping

from learnerd.config import Config, ConfigError
from learnerd.doctor import configuration, folders, locks, machine, store, trial
from learnerd.doctor.finding import Finding, failure
from learnerd.doctor.scratch import scratch_folder

__all__ = ["Finding", "examine"]


def examine(config: Config | ConfigError, env: Mapping[str, str]) -> Iterator[Finding]:
    """Yield what is found, cheap checks first; without a usable config only what needs none.

    Args:
        config: the configuration, or why there is none.
        env: the environment of the processes that are started.
    """
    known = config if isinstance(config, Config) else None
    yield from _survived("config", configuration.check(config, env))
    yield from _survived("machine", machine.check(known, env))
    if known is not None:
        yield from _survived("folders", folders.check(known))
        yield from _survived("locks", locks.check(known))
        yield from _survived("versions", store.check(known))
    with scratch_folder(known) as scratch:
        yield folders.fsync_cost(scratch)
        yield trial.one_episode(known, scratch, env)


def _survived(check: str, findings: Iterator[Finding]) -> Iterator[Finding]:
    """What may not be looked at is a finding, too."""
    try:
        yield from findings
    except OSError as error:
        yield failure(check, str(error), "look again as the daemon's user, or as root")
