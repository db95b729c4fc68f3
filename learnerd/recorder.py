"""Recorder: writes the history on a thread of its own, so that no update ever waits for a disk."""

import sqlite3
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import structlog

from learnerd.history import Row

log = structlog.get_logger(__name__)

MAX_WAITING = 4096
"""Rows kept while the disk is full; then the oldest go."""

BATCH_S = 1.0
RETRY_S = 10.0


class Sink(Protocol):
    """Where rows go."""

    def write(self, rows: Sequence[Row]) -> Path | None:
        """Append ``rows``; returns where a damaged file was put aside, if it was."""

    def close(self) -> None:
        """No more rows come."""


class Recorder:
    """One thread for one sink: a second sink that fails holds nobody up.

    Args:
        sink: owned by the thread from now on.
        name: of the thread.

    Attributes:
        problem: why the last attempt failed; None when it went well.
        put_aside: a damaged file that was replaced; None when there was none.
    """

    def __init__(self, sink: Sink, *, name: str, retry_s: float = RETRY_S) -> None:
        self._sink = sink
        self._retry_s = retry_s
        self._waiting: deque[Row] = deque(maxlen=MAX_WAITING)
        self._some = threading.Event()
        self._stop = threading.Event()
        self.problem: Exception | None = None
        self.put_aside: Path | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, row: Row) -> None:
        """Take a row; returns at once."""
        self._waiting.append(row)
        self._some.set()

    def close(self) -> None:
        """Write what is left, and end the thread; a disk that hangs is not waited for."""
        self._stop.set()
        self._some.set()
        self._thread.join(timeout=self._retry_s)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._some.wait()
            self._some.clear()
            went_well = self._write()
            if not went_well:
                self._some.set()
            self._stop.wait(BATCH_S if went_well else self._retry_s)
        self._write()
        self._sink.close()

    def _write(self) -> bool:
        rows = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if not rows:
            return True
        try:
            put_aside = self._sink.write(rows)
        except Exception as error:  # noqa: BLE001 - whatever a sink does, its thread goes on
            self._keep(rows)
            if self.problem is None:
                known = isinstance(error, (OSError, sqlite3.Error))
                tell = log.debug if known else log.error  # the alarm tells of what is known
                tell(
                    "rows_not_written",
                    recorder=self._thread.name,
                    error=str(error),
                    exc_info=None if known else error,
                )
            self.problem = error
            return False
        self.problem = None
        if put_aside is not None:
            self.put_aside = put_aside
        return True

    def _keep(self, rows: Sequence[Row]) -> None:
        """Put rows back at the front, as far as there is room: the newest matter most."""
        room = MAX_WAITING - len(self._waiting)
        self._waiting.extendleft(reversed(rows[max(0, len(rows) - room) :]))
