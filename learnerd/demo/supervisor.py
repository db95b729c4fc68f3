"""Supervisor: runs daemon and clients until the policy has learned, time is up or somebody interrupts."""

import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import learnerd
from learnerd.config import FILE_NAME, TEMPLATE
from learnerd.demo.processes import Processes
from learnerd.demo.progress import Progress, Snapshot, Speed
from learnerd.demo.returns import Curve, Reports
from learnerd.status_file import read_status

DAEMON = "daemon"
CLIENTS = ("client-library", "client-contract")
POLL_S = 0.2
CLIENT_STOP_S = 5.0
DRAIN_S = 60.0
"""A drain learns what is waiting, which is a few seconds' work; beyond this something hangs."""

Ending = Literal["solved", "timeout", "interrupted"]


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """What the demo is asked to do.

    Attributes:
        folder: the scratch folder, empty.
        rate: environment steps a second of each client, at most.
        timeout_s: give up after so long.
        seed: of the learner; the clients' seeds follow from it.
    """

    folder: Path
    rate: float = 2000.0
    timeout_s: float = 300.0
    seed: int = 0

    @property
    def spool(self) -> Path:
        """As the template names it."""
        return self.folder / "spool"

    @property
    def state(self) -> Path:
        """As the template names it."""
        return self.folder / "state"

    @property
    def daemon_log(self) -> Path:
        """What the daemon said."""
        return self.folder / f"{DAEMON}.log"


@dataclass(frozen=True, kw_only=True)
class DemoOutcome:
    """How a demo went.

    Attributes:
        ending: why it ended.
        curve: every episode until then.
        versions: the newest version, after the daemon's drain.
        seconds: until the ending, without the drain.
        started_at_s: UTC, seconds since 1970.
        drained: the daemon ended by itself after SIGTERM.
    """

    ending: Ending
    curve: Curve
    versions: int
    seconds: float
    started_at_s: float
    drained: bool


class Interruptions:
    """Counts SIGINT, SIGTERM and SIGHUP instead of dying of them."""

    def __init__(self) -> None:
        self._count = 0
        self._event = threading.Event()

    @contextmanager
    def caught(self) -> Iterator["Interruptions"]:
        """Within this context signals are counted."""
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, self._handle) for number in numbers}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, _number: int, _frame: object) -> None:
        self._count += 1
        self._event.set()

    def wait(self, timeout_s: float) -> bool:
        """Wait at most so long for the first one; whether it came."""
        return self._event.wait(timeout_s)

    def again(self) -> bool:
        """Whether a second one came: somebody does not want to wait for the drain."""
        return self._count > 1


def run_demo(settings: DemoSettings, progress: Progress) -> DemoOutcome:
    """Start everything, watch it until it ends, stop everything.

    Raises:
        ProcessEnded: the daemon or a client ended by itself.
    """
    write_config(settings.folder, seed=settings.seed)
    interruptions = Interruptions()
    with interruptions.caught(), Processes(settings.folder, _environment(os.environ)) as processes:
        watch = _Watch(settings, processes)
        with progress:
            ending = watch.until_the_end(progress, interruptions)
        seconds = watch.seconds()
        processes.stop(*CLIENTS, timeout_s=CLIENT_STOP_S)
        drained = processes.stop(DAEMON, timeout_s=DRAIN_S, hurry=interruptions.again)
    return DemoOutcome(
        ending=ending,
        curve=watch.curve,
        versions=current_version(settings.state),
        seconds=seconds,
        started_at_s=watch.started_at_s,
        drained=drained,
    )


def write_config(folder: Path, *, seed: int) -> Path:
    """Write the template that ``learnerd setup`` writes, with another seed and nothing else changed."""
    file = folder / FILE_NAME
    shutil.copyfile(TEMPLATE, file)
    text, replaced = re.subn(r"(?m)^seed = \d+", f"seed = {seed}", file.read_text(encoding="utf-8"))
    assert replaced == 1, "the template names [learner] seed once"
    file.write_text(text, encoding="utf-8")
    return file


def current_version(state: Path) -> int:
    """The version that CURRENT names; 0 before the first."""
    with suppress(OSError, ValueError):
        return int((state / "CURRENT").read_text())
    return 0


class _Watch:
    """The running demo, looked at several times a second."""

    def __init__(self, settings: DemoSettings, processes: Processes) -> None:
        self._settings = settings
        self._processes = processes
        self._speed = Speed()
        self._means: list[float] = []
        self.curve = Curve()
        self.started_at_s = time.time()
        self._start_s = time.monotonic()
        self._reports: list[Reports] = []
        processes.start(DAEMON, ["-m", "learnerd", "run", "--config", str(settings.folder / FILE_NAME)])

    def _start_clients(self) -> None:
        by_contract = str(Path(__file__).parent / "clients" / "by_contract.py")
        programs = (["-m", "learnerd.demo.clients.with_library"], [by_contract])
        self._reports = [
            Reports(self._processes.start(name, [*program, *self._client_options(i)]))
            for i, (name, program) in enumerate(zip(CLIENTS, programs, strict=True))
        ]

    def _client_options(self, index: int) -> list[str]:
        settings = self._settings
        seed = settings.seed * len(CLIENTS) + index
        return [
            *("--spool", str(settings.spool), "--state", str(settings.state)),
            *("--rate", str(settings.rate), "--seed", str(seed)),
        ]

    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._start_s

    def until_the_end(self, progress: Progress, interruptions: Interruptions) -> Ending:
        """Look, show, and decide whether it goes on."""
        while True:
            interrupted = interruptions.wait(POLL_S)
            if not self._reports and _is_running(self._settings.state):
                # Clients may start first; the seconds of random play that torch takes to load would then be
                # most of what there is to learn from, though.
                self._start_clients()
            self.curve.add([played for reports in self._reports for played in reports.read()])
            progress.show(self._snapshot())
            if self.curve.solved:
                return "solved"
            if interrupted:
                return "interrupted"
            if self.seconds() >= self._settings.timeout_s:
                return "timeout"
            self._processes.check()

    def _snapshot(self) -> Snapshot:
        if self.curve.mean_return is not None:
            self._means.append(self.curve.mean_return)
        return Snapshot(
            seconds=self.seconds(),
            mean_return=self.curve.mean_return,
            means=self._means,
            episodes=len(self.curve.episodes),
            steps=self.curve.steps,
            version=current_version(self._settings.state),
            steps_per_s=self._speed(self.curve.steps),
            refused=_refused(self._settings.state),
        )


def _is_running(state: Path) -> bool:
    document = read_status(state)
    return document is not None and document["daemon"]["state"] == "running"


def _refused(state: Path) -> int:
    document = read_status(state)
    if document is None:
        return 0
    counts = (document["episodes"].get(name) or {} for name in ("refused", "quarantined"))
    return sum(sum(reasons.values()) for reasons in counts)


def _environment(outer: Mapping[str, str]) -> dict[str, str]:
    """The user's environment; this very code is found in it, and the scratch folder stays the place."""
    env = {
        name: text
        for name, text in outer.items()
        if name != "LEARNERD_CONFIG" and not name.startswith("LEARNERD_PATHS_")
    }
    here = str(Path(learnerd.__file__).resolve().parents[1])
    env["PYTHONPATH"] = os.pathsep.join(filter(None, (here, env.get("PYTHONPATH"))))
    return env
