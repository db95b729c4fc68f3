"""Exporter: writes every published version to ``state/exports``, on a thread that no publish waits for."""

import contextlib
import threading
import time

import structlog

from learnerd.config import Config
from learnerd.errors import ExportError
from learnerd.export import FORMATS
from learnerd.export.encoding import encode
from learnerd.export.folder import ExportFolder
from learnerd.export.source import Source, read_source
from learnerd.versions import numbers
from policies.errors import NotAVersion, StoreError, VersionDamaged, VersionPruned
from policies.manifest import read_current

log = structlog.get_logger(__name__)

POLL_S = 1.0
"""Between two looks at ``CURRENT``: others publish too. A look is one stat."""

RETRY_S = 10.0


class Exporter:
    """Keeps the exports equal to the versions: what is missing is written, newest first; what is gone, goes.

    Args:
        config: what is exported, and where.

    Attributes:
        problem: why the last attempt failed; None when it went well.
    """

    def __init__(self, config: Config, *, retry_s: float = RETRY_S) -> None:
        self._state = config.paths.state
        self._formats = config.export.formats
        self._lossy = config.export.lossy
        self._folder = ExportFolder(self._state)
        self._retry_s = retry_s
        self._done: dict[int, bool] = {}  # each version that was looked at: whether its export is whole
        self._seen: tuple[int, int] | None = None
        self._due, self._stop = threading.Event(), threading.Event()
        self.problem: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="exports", daemon=True)
        self._thread.start()

    def look(self) -> None:
        """Something was published; returns at once."""
        self._due.set()

    def close(self) -> None:
        """Write the newest version if it is missing, and end; a disk that hangs is not waited for."""
        self._stop.set()
        self._due.set()
        self._thread.join(timeout=self._retry_s)

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            self._folder.sweep(time.time())
        self._due.set()
        while not self._stop.is_set():
            if self._due.wait(POLL_S) or self._signature() != self._seen:
                self._due.clear()
                self._try()
            if self.problem is not None:
                self._stop.wait(self._retry_s)
                self._due.set()
        self._try()

    def _signature(self) -> tuple[int, int] | None:
        """Tells when ``CURRENT`` was replaced."""
        with contextlib.suppress(OSError):
            found = (self._state / "CURRENT").stat()
            return found.st_mtime_ns, found.st_ino
        return None

    def _try(self) -> None:
        try:
            self._seen = self._signature()
            self._catch_up()
            self.problem = None
        except Exception as error:
            known = isinstance(error, (OSError, StoreError, ExportError))
            if self.problem is None:
                log.warning("exports_not_written", error=str(error), exc_info=None if known else error)
            self.problem = error

    def _catch_up(self) -> None:
        """Export what is missing, newest first; look again after each, for a newer one may be there."""
        while (version := self._missing()) is not None:
            self._export(version)
            self._point()
            if self._stop.is_set():
                return
        self._point()
        there = numbers(self._state)
        for version in self._folder.versions():
            if version not in there and version != self._folder.current():
                self._folder.remove(version)
        self._done = {version: is_whole for version, is_whole in self._done.items() if version in there}

    def _missing(self) -> int | None:
        """The newest version to look at: nothing above what clients act with; at the end, none but that."""
        current = read_current(self._state) or 0
        there = [number for number in numbers(self._state) if number <= current]
        if self._stop.is_set():
            there = there[-1:]
        return max(set(there) - self._done.keys(), default=None)

    def _export(self, version: int) -> None:
        """Write one export unless it is whole; a version that is damaged or gone has none."""
        is_whole = self._folder.is_whole(version, self._formats)
        if not is_whole:
            try:
                self._write(read_source(self._state, version))
                is_whole = True
            except VersionDamaged as error:
                log.warning("not_exported", version=version, error=str(error))
            except (NotAVersion, VersionPruned):
                pass
        self._done[version] = is_whole

    def _write(self, source: Source) -> None:
        exported = {name: encode(name, source, lossy=self._lossy) for name in self._formats}
        files = {FORMATS[name].file: one.data for name, one in exported.items()}
        formats = {name: {"file": FORMATS[name].file, **one.told()} for name, one in exported.items()}
        self._folder.write(source.version, files, {"model_sha256": source.model_sha256, "formats": formats})

    def _point(self) -> None:
        """Let clients go to the newest whole export that is no newer than what others act with."""
        current = read_current(self._state) or 0
        whole = [version for version, is_whole in self._done.items() if is_whole and version <= current]
        newest = max(whole, default=None)
        if newest is not None and newest != self._folder.current():
            self._folder.point_to(newest)
