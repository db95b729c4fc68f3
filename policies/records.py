"""Records: what is still known of a version once it is pruned: its manifest, and a delta that no row gives.

``state/records.sqlite``, a row a version: the manifest as it was, byte for byte (zlib), with its own sha256
in it and that of the delta. They are durable before the version's directory goes, so that a kill at any point
leaves a version in one of both places or in both. A replay of the archive needs them and nothing else does:
a file that is damaged is put aside, and a new one begun. Loads no NumPy.
"""

import contextlib
import errno
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

FILE_NAME = "records.sqlite"
DAMAGED_NAME = f"{FILE_NAME}.damaged"
BUSY_S = 10.0
FORGET_AT_ONCE = 64
"""The oldest so many go at a time while the file is too large."""

_TABLE = (
    "CREATE TABLE IF NOT EXISTS records "
    "(version INTEGER PRIMARY KEY, from_rows INTEGER NOT NULL, manifest BLOB NOT NULL, delta BLOB)"
)


class Record(NamedTuple):
    """What is kept of one version.

    Attributes:
        version: its number.
        manifest: the bytes of its ``manifest.json``.
        delta: those of its ``delta.safetensors``; None where the archive's rows tell as much.
        from_rows: whether it can be learned again from the archive's rows.
    """

    version: int
    manifest: bytes
    delta: bytes | None = None
    from_rows: bool = False


class Records:
    """The records of one store. Opens the file for each call: any thread and process may.

    Args:
        state_dir: the store's folder.
    """

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / FILE_NAME

    def keep(self, records: Iterable[Record]) -> None:
        """Make records durable, all or none of them; a damaged file is put aside first.

        Raises:
            OSError: none was kept.
        """
        rows = [(r.version, r.from_rows, zlib.compress(r.manifest), r.delta) for r in records]
        if not rows:
            return
        try:
            try:
                self._insert(rows)
            except sqlite3.Error as error:
                if not _is_damage(error):
                    raise
                self._set_aside()
                self._insert(rows)
        except sqlite3.Error as error:
            raise _os_error(error, self._path) from error

    def forget(self, *, archived_from: int | None, keep_bytes: int) -> None:
        """Remove what no replay can begin from or pass through any more, and the oldest beyond a size.

        Args:
            archived_from: the first version that the archive has rows of; None: not known, or none. The
                records before it go, up to the last one that was learned from rows: what an online learner
                published between those two is still passed through.
            keep_bytes: of the file; freed pages are used again.

        A damaged file is put aside: damage may stand where ``keep`` does not come by.

        Raises:
            OSError: nothing was removed.
        """
        try:
            self._forget(archived_from, keep_bytes)
        except OSError as error:
            if not _is_damage(error.__cause__):
                raise
            self._set_aside()

    def _forget(self, archived_from: int | None, keep_bytes: int) -> None:
        if not self._path.exists():
            return
        with self._opened("rw") as database, database:
            if not _has_table(database):
                return
            if archived_from is not None:
                database.execute(
                    "DELETE FROM records WHERE version <= "
                    "(SELECT MAX(version) FROM records WHERE from_rows AND version < ?)",
                    (archived_from,),
                )
            while _used_bytes(database) > keep_bytes:
                oldest = "SELECT version FROM records ORDER BY version LIMIT ?"
                if not database.execute(
                    f"DELETE FROM records WHERE version IN ({oldest})",  # noqa: S608 - our own text
                    (FORGET_AT_ONCE,),
                ).rowcount:
                    return

    def read(self, version: int) -> Record | None:
        """The record of a version; None when there is none.

        Raises:
            OSError: it cannot be read just now, or the file is damaged.
        """
        query = "SELECT version, manifest, delta, from_rows FROM records WHERE version = ?"
        rows = self._select(query, version)
        if not rows:
            return None
        row = rows[0]
        try:
            manifest = zlib.decompress(row[1])
        except zlib.error as error:
            raise OSError(errno.EIO, f"the record of version {version}: {error}", str(self._path)) from error
        return Record(version=row[0], manifest=manifest, delta=row[2], from_rows=bool(row[3]))

    def versions(self) -> list[int]:
        """The versions that have a record, ascending; raises as ``read``."""
        return [row[0] for row in self._select("SELECT version FROM records ORDER BY version")]

    def _select(self, query: str, *values: int) -> list[Any]:
        """The rows; none where the first writer was killed before there was a table."""
        if not self._path.exists():
            return []
        with self._opened("rw", "ro") as database:
            return database.execute(query, values).fetchall() if _has_table(database) else []

    def _insert(self, rows: list[tuple[int, bool, bytes, bytes | None]]) -> None:
        with contextlib.closing(sqlite3.connect(self._path, timeout=BUSY_S)) as database:
            # A rollback journal, not a WAL: who may only read the folder can open it. "EXTRA" flushes the
            # journal's folder too: without it a power cut could take a commit back.
            database.execute("PRAGMA journal_mode = DELETE")
            database.execute("PRAGMA synchronous = EXTRA")
            with database:
                database.execute(_TABLE)
                database.executemany("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?)", rows)

    @contextlib.contextmanager
    def _opened(self, *modes: str) -> Iterator[sqlite3.Connection]:
        """Open it in the first mode that works: a reader undoes what a killed writer left, if it may."""
        try:
            with contextlib.closing(self._connect(*modes)) as database:
                yield database
        except sqlite3.Error as error:
            raise _os_error(error, self._path) from error

    def _connect(self, *modes: str) -> sqlite3.Connection:
        name = f"file:{quote(str(self._path))}?mode="
        for mode in modes[:-1]:
            try:
                database = sqlite3.connect(name + mode, uri=True, timeout=BUSY_S)
            except sqlite3.OperationalError:
                continue
            try:
                database.execute("SELECT 1 FROM sqlite_master LIMIT 1")
            except sqlite3.OperationalError:
                database.close()
                continue
            return database
        return sqlite3.connect(name + modes[-1], uri=True, timeout=BUSY_S)

    def _set_aside(self) -> None:
        """Keep a damaged file beside the new one, in place of one that was kept before."""
        self._path.with_name(f"{FILE_NAME}-journal").unlink(missing_ok=True)
        self._path.replace(self._path.with_name(DAMAGED_NAME))


def _has_table(database: sqlite3.Connection) -> bool:
    return database.execute("SELECT 1 FROM sqlite_master WHERE name = 'records'").fetchone() is not None


def _is_damage(error: BaseException | None) -> bool:
    """Whether the file itself is not what SQLite wrote; anything else another file would not mend."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def _used_bytes(database: sqlite3.Connection) -> int:
    pages, free, size = (
        int(database.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size


def _os_error(error: sqlite3.Error, path: Path) -> OSError:
    full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    return OSError(errno.ENOSPC if full else errno.EIO, str(error), str(path))
