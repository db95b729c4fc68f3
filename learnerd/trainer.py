"""Trainer: the one long-lived training thread, and what it is doing now."""

import ctypes
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import structlog

from learnerd.arrival import Arrival
from learnerd.clock import Clock
from learnerd.cycle import Cycle, CycleReport

T = TypeVar("T")


class Trainer:
    """Runs cycles, one at a time, always on the same thread: a thread a batch would grow memory without end.

    Args:
        cycle: what to run.
        wake: set when a cycle or a job has ended.
        clock: for ``busy_s``.

    Attributes:
        batch: what the cycle under way, or the last one, learns from.
        cycles: how many were begun; the number of that one, which each log line about it carries.
    """

    def __init__(self, cycle: Cycle, *, wake: threading.Event, clock: Clock) -> None:
        self._cycle = cycle
        self._wake = wake
        self._clock = clock
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="trainer")
        self._future: Future[CycleReport] | None = None
        self._last: Future[Any] | None = None
        self._started_s = 0.0
        self.batch: tuple[Arrival, ...] = ()
        self.cycles = 0

    @property
    def busy(self) -> bool:
        """A cycle is under way, or its report was not taken yet."""
        return self._future is not None

    @property
    def busy_s(self) -> float:
        """Seconds since the running cycle last made progress; 0.0 when none runs."""
        if self._future is None or self._future.done():
            return 0.0
        return self._clock.monotonic() - max(self._started_s, self._cycle.progress_s)

    def start(self, batch: Sequence[Arrival]) -> None:
        """Begin a cycle on ``batch``."""
        assert self._future is None
        self.batch = tuple(batch)
        self.cycles += 1
        self._started_s = self._clock.monotonic()
        self._future = self._executor.submit(self._run, self.batch, self.cycles)
        self._future.add_done_callback(lambda _: self._wake.set())

    def take_report(self) -> CycleReport | None:
        """Return the report of a cycle that ended, once; None while there is none.

        Raises:
            Exception: whatever ended the cycle; ``batch`` still holds its arrivals.
        """
        if self._future is None or not self._future.done():
            return None
        future, self._future = self._future, None
        return future.result()

    def submit(self, job: Callable[[], T]) -> "Future[T]":
        """Run ``job`` on the training thread, between cycles."""
        future = self._executor.submit(job)
        self._last = future
        future.add_done_callback(lambda _: self._wake.set())
        return future

    @property
    def idle(self) -> bool:
        """Neither a cycle nor a job runs or waits, and no report is left to take."""
        return not self.busy and (self._last is None or self._last.done())

    def close(self, *, timeout_s: float) -> bool:
        """Wait for what runs, then end the thread; False when it still ran after ``timeout_s``."""
        last = self._executor.submit(lambda: None)
        ended = bool(wait([last], timeout=timeout_s).done)
        self._executor.shutdown(wait=ended, cancel_futures=True)
        return ended

    def _run(self, batch: Sequence[Arrival], number: int) -> CycleReport:
        try:
            with structlog.contextvars.bound_contextvars(cycle=number):
                return self._cycle.run(batch)
        finally:
            trim_memory()


def trim_memory() -> None:
    """Give freed memory back to the system; batches of varying size would else leave it in the allocator."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return  # another C library: nothing to trim
