"""Promise 6: every fsync of whole cycles fails; nothing relies on what it should have made durable.

The sites, the daemon and the final checks are those of promise 1; beside them every call is held against what
the failed fsyncs left in doubt (``doubts.py``), also in the next life of the daemon after a kill.
"""

import errno
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from doubts import Doubts
from faults import Fault, Injector, injected
from forked import Report, in_child
from outcome import Outcome
from p01_kills import MEMORY, SCENARIOS, Trial, baseline
from site_daemon import Scenario, check, prepare, rehearse

from learnerd.cycle import Cycle
from policies.errors import StoreError
from policies.store import CheckpointStore

NUMBER = 6
PROMISE = "A failed fsync is never retried on the same data, and never acknowledged"
FULL = 2_000
SAMPLE = 20


def run(*, trials: int, seed: int, progress: Callable[[int], None]) -> Outcome:
    """Carry out the trials; each runs in its own forks of this process."""
    folder = Path(tempfile.mkdtemp(prefix="learnerd-fsync-", dir=MEMORY))
    try:
        return _run(folder, trials=trials, seed=seed, progress=progress)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(folder: Path, *, trials: int, seed: int, progress: Callable[[int], None]) -> Outcome:
    prepare()
    scenarios = {name: Scenario(folder, **keywords) for name, keywords in SCENARIOS.items()}
    rehearse(scenarios.values(), folder)
    calls = {name: baseline(scenario, folder / name).count("fsync") for name, scenario in scenarios.items()}
    violations: list[str] = []
    failed = 0
    plans = plan(calls, trials=trials, seed=seed)
    for number, trial in enumerate(plans):
        site = folder / f"{number}"
        found, count = attempt(scenarios[trial.scenario], site, trial)
        violations += [f"trial {number} of seed {seed}, {trial}: {line}" for line in found]
        failed += count
        shutil.rmtree(site, ignore_errors=True)
        progress(number + 1)
    covered = ", ".join(f"{count} ({name})" for name, count in calls.items())
    figure = f"{failed} failed fsyncs, at all of {covered}; {len(violations)} retried or acknowledged"
    return Outcome(trials=len(plans), violations=tuple(violations), figure=figure)


def plan(calls: dict[str, int], *, trials: int, seed: int) -> list[Trial]:
    """Failures of every fsync, once or several times in a row, with or without a kill after them."""
    rng = random.Random(seed)
    every = [
        Trial(scenario=name, faults=(_fault(k, lasts, then_kill),))
        for name, count in calls.items()
        for k in range(count)
        for lasts in (1, 2, 5, 20)
        for then_kill in (False, True)
    ]
    rng.shuffle(every)
    return [every[number % len(every)] for number in range(trials)]


def _fault(k: int, lasts: int, then_kill: bool) -> Fault:  # noqa: FBT001 - read beside its field's name
    return Fault(k=k, kind="error", number=errno.EIO, lasts=lasts, then_kill=then_kill, only=("fsync",))


def attempt(scenario: Scenario, site: Path, trial: Trial) -> tuple[list[str], int]:
    """Carry out one trial; return what was wrong, and how many fsyncs failed."""
    site.mkdir()
    first = in_child(lambda report: _live(report, scenario, site, trial.faults[0], {}))
    second = in_child(lambda report: _live(report, scenario, site, None, first.get("doubts", {})))
    wrong = [
        *first.get("broken", []),
        *first.get("wrong", []),
        *second.get("broken", []),
        *second.get("wrong", []),
    ]
    for life, said in enumerate((first, second)):
        if said.get("crash") or said["status"] < 0:
            wrong.append(f"life {life} ended by {said['status']}: {said.get('crash')}")
    return wrong, first.get("failed", 0)


def _live(report: Report, scenario: Scenario, site: Path, fault: Fault | None, left: dict) -> None:
    """One life of the daemon, in a child."""
    if fault is not None:
        scenario.deposit(site)
    doubts = Doubts.of(left)

    def tell(**fields) -> None:
        report.say(**fields, doubts=doubts.to_json(), broken=doubts.broken, failed=doubts.failed)

    def publish(self, *args, real=CheckpointStore.publish, **keywords):
        version = real(self, *args, **keywords)
        doubts.published()
        return version

    def recover(self, arrivals, real=Cycle.recover):
        doubts.recovering = True
        try:
            return real(self, arrivals)
        finally:
            doubts.recovering = False

    CheckpointStore.publish, Cycle.recover = publish, recover
    injector = Injector(fault, last_words=lambda call: tell(died=call), watcher=doubts)
    code: int | str
    try:
        with injected(injector):
            code = scenario.run(site)
    except (OSError, StoreError) as error:
        if not injector.hits:
            raise
        code = repr(error)
    tell(code=code)
    if code in (0, 9):
        report.say(wrong=list(check(scenario, site, {}, hurt=bool(injector.hits))))
    elif fault is None:
        report.say(wrong=[f"ended with {code} without any fault"])
