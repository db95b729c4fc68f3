"""Pool: walks in several processes, one thread each; they end with this one, however it ends."""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING, Any, Self

from learnerd.errors import LearnerdError
from learnerd.threads import VARIABLES

if TYPE_CHECKING:
    from learnerd.walkforward.task import Task, Walked

NICENESS = 10
"""Bots and the daemon go first."""

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
PART, DONE, FAILED = "part", "done", "failed"


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: "Connection[Any, Any]"
    doing: int = -1


@dataclass
class Pool:
    """Processes that walk.

    Attributes:
        jobs: how many at most; each needs about 300 MB.
    """

    jobs: int
    _workers: list[_Worker] = field(default_factory=list)

    def __enter__(self) -> Self:
        """Nothing is started before there is something to do."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes, whatever they do: they hold nothing that could be left behind."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.pipe.close()

    def run(self, tasks: "Sequence[Task]", *, on_part: Callable[[], None] = lambda: None) -> "list[Walked]":
        """Walk all; the results in the order of the tasks, whoever walked them.

        Args:
            tasks: what to do.
            on_part: called after each part of each walk.

        Raises:
            LearnerdError: one failed; names its setting.
        """
        waiting: deque[int] = deque(range(len(tasks)))
        found: dict[int, Walked] = {}
        while len(found) < len(tasks):
            for worker in self._idle(len(waiting)):
                worker.doing = waiting.popleft()
                with contextlib.suppress(OSError):  # it has ended meanwhile: ``_receive`` says how
                    worker.pipe.send(tasks[worker.doing])
            for worker in self._ready():
                kind, value = _receive(worker)
                if kind == FAILED:
                    raise LearnerdError(f"{tasks[worker.doing].name}: {value}")
                if kind == PART:
                    on_part()
                else:
                    found[worker.doing], worker.doing = value, -1
        return [found[i] for i in range(len(tasks))]

    def _idle(self, wanted: int) -> list[_Worker]:
        idle = [worker for worker in self._workers if worker.doing < 0]
        while len(idle) < wanted and len(self._workers) < self.jobs:
            self._workers.append(_start())
            idle.append(self._workers[-1])
        return idle[:wanted]

    def _ready(self) -> list[_Worker]:
        busy = {worker.pipe: worker for worker in self._workers if worker.doing >= 0}
        return [busy[pipe] for pipe in wait(list(busy))]  # type: ignore[index]


def _receive(worker: _Worker) -> tuple[str, Any]:
    try:
        answer: tuple[str, Any] = worker.pipe.recv()
    except (EOFError, OSError):
        worker.process.join()
        code = worker.process.exitcode
        return FAILED, f"its process ended with {code}; with less memory than needed, choose fewer --jobs"
    return answer


def _start() -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, os.getpid()), daemon=True)
    with _one_thread(), _no_interrupts():
        process.start()
    theirs.close()
    return _Worker(process=process, pipe=ours)


@contextlib.contextmanager
def _no_interrupts() -> Iterator[None]:
    """What is started has Ctrl-C blocked from its first instruction on: it is for this process to answer."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """What is started reads these when it loads NumPy and torch."""
    before = {name: os.environ.get(name) for name in VARIABLES}
    os.environ.update(dict.fromkeys(VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def serve(pipe: "Connection[Any, Any]", parent: int) -> None:
    """Walk what comes through the pipe, until it is closed."""
    _die_with(parent)
    os.nice(NICENESS)
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            pipe.send(_answer(pipe.recv(), lambda: pipe.send((PART, None))))


def _answer(task: "Task", on_part: Callable[[], None]) -> tuple[str, Any]:
    from experience.errors import ShardDamaged  # noqa: PLC0415
    from learnerd.log import configure  # noqa: PLC0415
    from learnerd.walkforward.walk import walk  # noqa: PLC0415 - loads torch
    from policies.errors import PolicyError  # noqa: PLC0415

    configure(form="console", level="warning" if task.tells else "error")
    try:
        return DONE, walk(task, on_part=on_part)
    except (LearnerdError, PolicyError, ShardDamaged) as error:
        return FAILED, str(error)
    except Exception as error:  # noqa: BLE001 - the parent tells of it
        if os.environ.get("LEARNERD_DEBUG") == "1":
            traceback.print_exc()
        return FAILED, f"{type(error).__name__}: {error} (LEARNERD_DEBUG=1 shows where)"


def _die_with(parent: int) -> None:
    """Ask the kernel to end this process when the one that started it dies."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # it died before the kernel was asked
        os._exit(1)
