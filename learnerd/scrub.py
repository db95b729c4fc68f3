"""Scrub: when to look for damaged versions; the looking itself is ``repair``'s, on the training thread."""

from collections.abc import Callable
from concurrent.futures import Future

from experience.errors import ShardDamaged
from learnerd.arrival import Arrival
from learnerd.clock import Clock
from learnerd.repair import Repair, Repairs
from learnerd.reporter import Reporter
from learnerd.trainer import Trainer
from policies.errors import StoreError

EVERY_S = 30.0
"""Between two looks at the newest version: a client that starts while it is damaged cannot act."""

REMEDY = "mend the state folder or the archive; it is looked at again by itself"


class Scrub:
    """Looks at the start, then from time to time, and at once again while a repair is unfinished.

    Args:
        repair: what to do.
        trainer: on whose thread.
        reporter: who is told.
        clock: when.
        periodic: False in the finite modes, which only finish what the start found.
    """

    def __init__(
        self, repair: Repair, *, trainer: Trainer, reporter: Reporter, clock: Clock, periodic: bool
    ) -> None:
        self._repair = repair
        self._trainer = trainer
        self._reporter = reporter
        self._clock = clock
        self._periodic = periodic
        self._next_s = clock.monotonic() + EVERY_S
        self._unfinished = False
        self._thorough_due = False
        self._future: Future[Repairs] | None = None

    @property
    def unfinished(self) -> bool:
        """Whether a look is under way, or another one is needed before all is repaired."""
        return self._unfinished or self._future is not None

    def begin(self) -> tuple[Arrival, ...]:
        """Look before the training thread runs; what is to be learned from again."""
        return self._take(lambda: self._repair.look(thorough=False, idle=True))

    def look_at_all(self) -> None:
        """Read every version the next time."""
        self._thorough_due = True
        self._next_s = 0.0

    def step(self, *, idle: bool) -> tuple[Arrival, ...]:
        """Begin a look when one is due; what a finished one found.

        Args:
            idle: nothing is waiting or being learned.
        """
        future = self._future
        if future is not None:
            if not future.done():
                return ()
            self._future = None
            return self._take(future.result)
        if (self._unfinished and idle) or (self._periodic and self._clock.monotonic() >= self._next_s):
            self._next_s = self._clock.monotonic() + EVERY_S
            thorough, self._thorough_due = self._thorough_due, False
            self._future = self._trainer.submit(lambda: self._repair.look(thorough=thorough, idle=idle))
        return ()

    def _take(self, result: Callable[[], Repairs]) -> tuple[Arrival, ...]:
        try:
            repairs = result()
        except (StoreError, ShardDamaged, OSError) as error:
            self._unfinished = False
            self._reporter.failure("repair_failed", error, REMEDY)
            return ()
        self._unfinished = repairs.unfinished
        self._reporter.recovered("repair_failed")
        self._reporter.repairs(repairs)
        return repairs.again
