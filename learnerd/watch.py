"""Watch: file events as hints. A rescan stays the truth; a lost event costs time, never a file."""

import contextlib
import os
import threading
import time
from pathlib import Path

import structlog
from watchdog.events import (
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.api import BaseObserver
from watchdog.observers.inotify import InotifyObserver

log = structlog.get_logger(__name__)

MAX_HINTS = 100_000
"""Names kept between two looks; more than this and only the rescan finds them."""


RETRY_S = 10.0
"""Between two tries to watch when that is impossible: no inotify instance is free, or the spool is gone."""


class SpoolWatch(FileSystemEventHandler):
    """Sets a flag when something was closed in, or renamed into, the inbox, and remembers its name.

    The spool's root is watched recursively: a file renamed out of a watched folder to an unwatched one
    holds back every later event for half a second.

    Args:
        root: the spool's root.
        wake: set on every arrival.

    Attributes:
        problem: why nothing can be watched; "" while all is well.
    """

    def __init__(self, root: Path, wake: threading.Event) -> None:
        self._root = root
        self._inbox = os.fspath(root / "in")
        self._wake = wake
        self._lock = threading.Lock()
        self._complete: dict[str, None] = {}
        self._observer: BaseObserver | None = None
        self._watched: tuple[int, int] | None = None
        self._retry_at_s = 0.0
        self.problem = ""

    def start(self) -> None:
        """Begin to watch; call this before the first scan.

        Where that is impossible the rescan alone finds files, and ``ensure_alive`` tries again.
        """
        self._watched = self._inbox_identity()
        try:
            self._observer = self._observe()
        except OSError as error:
            self._retry_at_s = time.monotonic() + RETRY_S
            self.problem = error.strerror or str(error)
        else:
            self.problem = ""

    def ensure_alive(self) -> bool:
        """Restart a watch that died, or whose inbox was replaced; False when it did: rescan then."""
        if self._lives() or (self._observer is None and time.monotonic() < self._retry_at_s):
            return True
        self.stop()
        self.start()
        if self._observer is not None:
            log.warning("watch_restarted")
        return False

    def stop(self) -> None:
        """Stop watching."""
        observer, self._observer = self._observer, None
        if observer is not None:
            _stop(observer)

    def _observe(self) -> BaseObserver:
        observer = InotifyObserver(generate_full_events=True)  # else moves from outside look like creations
        try:
            observer.schedule(
                self,
                os.fspath(self._root),
                recursive=True,
                event_filter=[FileCreatedEvent, FileClosedEvent, FileMovedEvent, DirMovedEvent],
            )
            observer.start()
        except OSError:
            _stop(observer)
            raise
        return observer

    def _lives(self) -> bool:
        """All its threads run, and what it watches is still the inbox."""
        observer = self._observer
        return observer is not None and _runs(observer) and self._inbox_identity() == self._watched

    def _inbox_identity(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self._inbox)  # noqa: PTH116 - quicker than Path.stat, and called every round
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def take_complete(self) -> list[str]:
        """Return, in order of arrival, the names closed or renamed into place since the last call."""
        with self._lock:
            names = list(self._complete)
            self._complete.clear()
        return names

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Note an arrival; must not raise, which would end the observer."""
        moved = isinstance(event, FileMovedEvent | DirMovedEvent)
        folder, name = os.path.split(os.fsdecode(event.dest_path if moved else event.src_path))
        if folder != self._inbox or name.startswith("."):
            return
        if moved or isinstance(event, FileClosedEvent):
            with self._lock:
                if len(self._complete) < MAX_HINTS:
                    self._complete[name] = None
        self._wake.set()


def _runs(observer: BaseObserver) -> bool:
    """Whether all its threads do: the dispatcher, one emitter a watch, and the reader that watchdog 7 has."""
    emitters = observer.emitters
    reader = getattr(observer, "_inotify_fd", None)
    threads = [observer, *emitters, *([reader] if isinstance(reader, threading.Thread) else [])]
    return bool(emitters) and all(thread.is_alive() for thread in threads)


def _stop(observer: BaseObserver) -> None:
    with contextlib.suppress(Exception):  # what is left of a watch that died must not stop the daemon
        observer.stop()
        if observer.is_alive():
            observer.join(timeout=5.0)
