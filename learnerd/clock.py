"""Clock: wall time for records, monotonic time for waiting, and what to do when the two part."""

import time
from collections.abc import Callable

JUMP_S = 60.0
"""Wall and monotonic clock parting by more than this is a step of the clock, not drift."""


class Clock:
    """Both clocks of this machine, and the allowance for ages after the wall clock was stepped.

    Args:
        remember_s: for how long after a jump both bounds on age stay widened by it (``max_age_s``).
        wall, monotonic: seconds; given by tests.
    """

    def __init__(
        self,
        *,
        remember_s: float,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.wall = wall
        self.monotonic = monotonic
        self._remember_s = remember_s
        self._offset = wall() - monotonic()
        self._jumps: list[tuple[float, float]] = []

    def check(self) -> float:
        """Notice a step of the wall clock since the last check; return it in seconds, 0.0 without one."""
        offset = self.wall() - self.monotonic()
        jump = offset - self._offset
        if abs(jump) <= JUMP_S:
            return 0.0
        self._offset = offset
        self._jumps.append((self.monotonic(), abs(jump)))
        return jump

    @property
    def allowance_s(self) -> float:
        """By how much both bounds on age are widened now."""
        now = self.monotonic()
        self._jumps = [(at, size) for at, size in self._jumps if now - at <= self._remember_s]
        return sum(size for _, size in self._jumps)
