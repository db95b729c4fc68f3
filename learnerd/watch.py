"""Watch: file events as hints. A rescan stays the truth; a lost event costs time, never a file."""

import os
import threading
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
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

log = structlog.get_logger(__name__)

MAX_HINTS = 100_000
"""Names kept between two looks; more than this and only the rescan finds them."""


class SpoolWatch(FileSystemEventHandler):
    """Sets a flag when something was closed in, or renamed into, the inbox, and remembers its name.

    The spool's root is watched recursively: a file renamed out of a watched folder to an unwatched one
    holds back every later event for half a second.

    Args:
        root: the spool's root.
        wake: set on every arrival.
    """

    def __init__(self, root: Path, wake: threading.Event) -> None:
        self._root = root
        self._inbox = os.fspath(root / "in")
        self._wake = wake
        self._lock = threading.Lock()
        self._complete: dict[str, None] = {}
        self._observer: BaseObserver | None = None

    def start(self) -> None:
        """Begin to watch; call this before the first scan."""
        self._observer = Observer()
        self._observer.schedule(
            self,
            os.fspath(self._root),
            recursive=True,
            event_filter=[FileCreatedEvent, FileClosedEvent, FileMovedEvent, DirMovedEvent],
        )
        self._observer.start()

    def ensure_alive(self) -> bool:
        """Restart a dead observer; False when it had died."""
        if self._observer is not None and self._observer.is_alive():
            return True
        log.warning("watch_restarted")
        self.start()
        return False

    def stop(self) -> None:
        """Stop watching."""
        if self._observer is not None and self._observer.is_alive():
            self._observer.stop()
            self._observer.join(timeout=5.0)

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
