"""Requests: what signals ask of the daemon; they outlive a reload."""

import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, field


def _on_terminal() -> bool:
    try:
        return os.isatty(sys.stdin.fileno())
    except (AttributeError, OSError, ValueError):
        return False


@dataclass(kw_only=True)
class Requests:
    """SIGTERM and SIGINT: drain, publish, end. SIGHUP: read the configuration again.

    Attributes:
        wake: set whenever something is asked for.
        stop: the daemon is to end.
        reload: the configuration is to be read again; who does so takes this back.
        stopped_s: monotonic seconds at which it was asked to end.
        began_s: monotonic seconds since when the process runs.
    """

    wake: threading.Event = field(default_factory=threading.Event)
    stop: bool = False
    reload: bool = False
    stopped_s: float = 0.0
    began_s: float = field(default_factory=time.monotonic)
    _terminal: bool = field(default_factory=_on_terminal)

    def listen(self, *, reloads: bool) -> None:
        """Take the signals from now on.

        Args:
            reloads: False for a run that ends by itself: SIGHUP ends it too.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, self._hang_up if reloads else self._stop)

    def stop_left_s(self, limit_s: float) -> float:
        """Seconds left of ``limit_s`` since a stop was asked for; all of them while none was."""
        return max(0.0, self.stopped_s + limit_s - time.monotonic()) if self.stop else limit_s

    def _stop(self, _number: int, _frame: object) -> None:
        if not self.stop:
            self.stop, self.stopped_s = True, time.monotonic()
        self.wake.set()

    def _hang_up(self, number: int, frame: object) -> None:
        """Tell a reload from a terminal that was closed: who started the daemon there has gone."""
        if self._terminal and not _on_terminal():
            self._stop(number, frame)
        else:
            self.reload = True
            self.wake.set()
