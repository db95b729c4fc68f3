"""Promise 1: kills and disk errors at every call of whole cycles; nothing is lost, nothing is twice.

A trial is a new site with good files of two formats, a duplicate, a conflicting one, stale, unreadable and
deadly ones. The daemon runs over it until the fault; then, once or twice, it is started again and runs to its
end. Then every good episode must be in one ledger, once in the weights, once in the archive; every other file
must have one verdict; nothing may be left over.
"""

import errno
import random
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from faults import Fault, Injector, injected
from forked import Report, in_child
from outcome import Outcome
from site_daemon import Scenario, check, prepare, rehearse, snapshot

from policies.errors import StoreError

NUMBER = 1
PROMISE = "Each accepted episode is in exactly one committed ledger, and in the weights once"
FULL = 10_000
SAMPLE = 30
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
ERRORS = (errno.EIO, errno.ENOSPC, errno.EROFS)
SCENARIOS = {
    "named": {"named": True, "prune": True},
    "inferred": {"named": False, "prune": False},
    "small": {"named": True, "prune": False, "small": True},
    "unread": {"named": True, "prune": True, "unread": True},
}


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A scenario and the faults of the daemon's successive runs over it."""

    scenario: str
    faults: tuple[Fault, ...]

    def __str__(self) -> str:
        return f"{self.scenario}: {'; then '.join(map(str, self.faults))}"


@dataclass(kw_only=True)
class Seen:
    """What all trials together came across."""

    killed: int = 0
    survived: int = 0
    stopped: int = 0
    untouched: int = 0
    runs: int = 0


def run(*, trials: int, seed: int, progress: Callable[[int], None]) -> Outcome:
    """Carry out the trials; each runs in its own forks of this process."""
    folder = Path(tempfile.mkdtemp(prefix="learnerd-kills-", dir=MEMORY))
    try:
        return _run(folder, trials=trials, seed=seed, progress=progress)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(folder: Path, *, trials: int, seed: int, progress: Callable[[int], None]) -> Outcome:
    prepare()
    scenarios = {name: Scenario(folder, **keywords) for name, keywords in SCENARIOS.items()}
    rehearse(scenarios.values(), folder)
    calls = {name: baseline(scenario, folder / name) for name, scenario in scenarios.items()}
    plans = plan(calls, trials=trials, seed=seed)
    violations: list[str] = []
    seen = Seen()
    for number, trial in enumerate(plans):
        site = folder / f"{number}"
        found = attempt(scenarios[trial.scenario], site, trial, seed=seed + number, seen=seen)
        violations += [f"trial {number} of seed {seed}, {trial}: {line}" for line in found]
        shutil.rmtree(site, ignore_errors=True)
        progress(number + 1)
    covered = ", ".join(f"{len(names)} ({name})" for name, names in calls.items())
    figure = (
        f"faults at all of {covered} calls; {seen.killed} kills, {seen.stopped} runs ended by the error, "
        f"{seen.survived} survived it, {seen.runs} daemon runs; {len(violations)} lost, twice or left over"
    )
    return Outcome(trials=len(plans), violations=tuple(violations), figure=figure)


def baseline(scenario: Scenario, site: Path) -> list[str]:
    """Run without a fault; return the calls that were made.

    Raises:
        RuntimeError: even this run did not end as it must.
    """

    def job(report: Report) -> None:
        site.mkdir()
        scenario.deposit(site)
        with injected(Injector(None)) as injector:
            code = scenario.run(site)
        report.say(calls=injector.calls, code=code, wrong=list(check(scenario, site, {})))

    said = in_child(job)
    if said.get("wrong") != [] or said.get("code") != 0:
        raise RuntimeError(f"without any fault: {said}")
    return said["calls"]


def plan(calls: dict[str, list[str]], *, trials: int, seed: int) -> list[Trial]:
    """Every kind of fault at every call of every scenario, in random order; then random pairs of faults."""
    rng = random.Random(seed)
    systematic = [
        Trial(scenario=name, faults=(fault,))
        for name, names in calls.items()
        for k, call in enumerate(names)
        for fault in faults_at(k, call, rng)
    ]
    rng.shuffle(systematic)
    pairs = max(trials - len(systematic), trials // 5)
    chosen = systematic[: trials - pairs]
    names = sorted(calls)
    while len(chosen) < trials:
        name = rng.choice(names)
        faults = tuple(rng.choice(faults_at(rng.randrange(len(calls[name])), "write", rng)) for _ in range(2))
        chosen.append(Trial(scenario=name, faults=faults))
    return chosen


def faults_at(k: int, call: str, rng: random.Random) -> list[Fault]:
    """The kinds of faults at one call."""
    kinds = [Fault(k=k, kind="kill")]
    if call == "write":
        kinds.append(Fault(k=k, kind="torn"))
    for number in ERRORS:
        kinds.append(Fault(k=k, kind="error", number=number))
        lasts, then_kill = rng.choice((2, 3, 5, 10, 20, 40)), rng.random() < 0.5
        kinds.append(Fault(k=k, kind="error", number=number, lasts=lasts, then_kill=then_kill))
    kinds.append(Fault(k=k, kind="flaky", number=errno.EIO, lasts=30, then_kill=rng.random() < 0.3))
    return kinds


def attempt(scenario: Scenario, site: Path, trial: Trial, *, seed: int, seen: Seen) -> list[str]:
    """Carry out one trial; return what was wrong."""
    site.mkdir()
    scenario.deposit(site)
    before: dict[str, str] = {}
    for number, fault in enumerate((*trial.faults, None)):
        seen.runs += 1
        said = in_child(partial(_live, scenario=scenario, site=site, fault=fault, before=before, seed=seed))
        wrong = said.get("wrong", [])
        if said.get("crash"):
            wrong = [
                *wrong,
                f"run {number} ended with {said['crash'].strip().splitlines()[-1]}: {said['crash']}",
            ]
        elif said["status"] < 0:
            wrong = [
                *wrong,
                f"run {number} ended by signal {-said['status']} (hung?) after {said.get('hits')}",
            ]
        if fault is not None:
            _count(seen, said)
        if wrong:
            return [f"{line} [{said.get('died') or said.get('hits')}]" for line in wrong]
        before |= said.get("versions", {})
    return []


def _live(
    report: Report, *, scenario: Scenario, site: Path, fault: Fault | None, before: dict[str, str], seed: int
) -> None:
    """One life of the daemon, in a child."""
    injector = Injector(
        fault, last_words=lambda call: report.say(died=call, versions=snapshot_quietly()), seed=seed
    )

    def snapshot_quietly() -> dict[str, str]:
        injector.stop()
        return snapshot(site)

    code: int | str
    try:
        with injected(injector):
            code = scenario.run(site)
    except (OSError, StoreError) as error:
        if not injector.hits:
            raise
        code = repr(error)
    report.say(code=code, hits=injector.hits[:5], versions=snapshot(site))
    if code in (0, 9):
        report.say(wrong=list(check(scenario, site, before, hurt=bool(injector.hits))))
    elif fault is None:
        report.say(wrong=[f"ended with {code} without any fault"])


def _count(seen: Seen, said: dict) -> None:
    if "died" in said:
        seen.killed += 1
    elif not said.get("hits"):
        seen.untouched += 1
    elif said.get("code") in (0, 9):
        seen.survived += 1
    else:
        seen.stopped += 1
