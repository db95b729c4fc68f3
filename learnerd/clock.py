"""Clock: wall time for records, monotonic time for waiting, and what to do when the two part."""

import contextlib
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

from experience.durable import write_atomic
from learnerd.pause import boot_id

JUMP_S = 60.0
"""Wall and monotonic clock parting by more than this is a step of the clock, not drift."""

MEMORY = "clock.json"


class Clock:
    """Both clocks of this machine, and the allowance for ages after the wall clock was stepped.

    May be used by several threads.

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
        self._lock = threading.Lock()
        self._offset = wall() - monotonic()
        self._jumps: list[tuple[float, float]] = []
        self._unreported = 0.0
        self._idle_s = 0.0
        self._idle_since: float | None = None

    def stop_aging(self, *, stopped: bool) -> None:
        """Have ``aging`` stand still, or go on: what waits because the daemon may not learn does not age."""
        with self._lock:
            if stopped and self._idle_since is None:
                self._idle_since = self.monotonic()
            elif not stopped and self._idle_since is not None:
                self._idle_s += self.monotonic() - self._idle_since
                self._idle_since = None

    def aging(self) -> float:
        """Monotonic seconds without those in which it was stopped: a file's age goes by them."""
        with self._lock:
            return self._aging()

    def check(self) -> float:
        """Return by how many seconds the wall clock was stepped since the last check, 0.0 without a step."""
        with self._lock:
            self._look()
            jump, self._unreported = self._unreported, 0.0
            return jump

    @property
    def allowance_s(self) -> float:
        """By how much both bounds on age are widened now; a step of a moment ago counts already."""
        with self._lock:
            self._look()
            return sum(size for _, size in self._jumps)

    def recall(self, state: Path) -> None:
        """Go on with what an earlier run since the same boot knew, so that a restart forgets no jump."""
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            memory = json.loads((state / MEMORY).read_bytes())
            offset_s = float(memory["offset_s"])
            jumps = [(float(at), float(size)) for at, size in memory["jumps"]]
            idle_s = float(memory.get("idle_s", 0.0))
            if memory["boot"] == boot_id():
                with self._lock:
                    self._offset, self._jumps, self._idle_s = offset_s, jumps, idle_s

    def remember(self, state: Path) -> None:
        """Note for a later run what ``recall`` needs; monotonic time goes on as long as the machine runs."""
        with self._lock:
            idle_s = self.monotonic() - self._aging()
            memory = {"boot": boot_id(), "offset_s": self._offset, "jumps": self._jumps, "idle_s": idle_s}
        with contextlib.suppress(OSError):
            write_atomic(state / MEMORY, json.dumps(memory).encode(), sync=False)

    def _aging(self) -> float:
        now = self.monotonic() if self._idle_since is None else self._idle_since
        return now - self._idle_s

    def _look(self) -> None:
        now = self._aging()  # a step is remembered for as long as what came before it waits
        offset = self.wall() - self.monotonic()
        jump = offset - self._offset
        if abs(jump) > JUMP_S:
            self._offset = offset
            self._unreported += jump
            self._jumps.append((now, abs(jump)))
        self._jumps = [(at, size) for at, size in self._jumps if now - at <= self._remember_s]
