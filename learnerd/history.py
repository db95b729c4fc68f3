"""History: what each cycle did, in a SQLite file of bounded size that others read while the daemon writes.

One table, ``points``: a row a cycle (``span_s`` 0), later a row a minute (60), later a row an hour
(3600). The file is a view of the past, not the past: that is ledger and archive. So it may be lost, and
nobody waits for it. Loads no NumPy.
"""

import contextlib
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from learnerd.config_tables import History as Keep

FILE_NAME = "history.sqlite"
DAMAGED_NAME = f"{FILE_NAME}.damaged"
MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86_400

THIN_EVERY = 256
"""Rows between two looks at what has become old."""

AHEAD_S = 60.0
"""Rows further in the future are left over from a clock that was set back."""

BUSY_S = 5.0
JOURNAL_BYTES = 4 * 1024 * 1024
CACHE_KIB = 512

TOTALS = ("version", "learned", "refused", "quarantined", "updates")
SUMS = ("cycles", "episodes", "steps")
MEANS = (
    *("return_mean", "loss", "value_loss", "entropy", "kl", "ess_fraction", "staleness_mean", "lr"),
    *("grad_norm", "dormant_fraction", "lag_s", "update_s", "publish_s"),
)
"""Over a minute or an hour: means over its episodes."""

_AGGREGATES = {
    "at": "MAX(at)",
    **{name: f"MAX({name})" for name in TOTALS},
    **{name: f"SUM({name})" for name in SUMS},
    "return_min": "MIN(return_min)",
    "return_max": "MAX(return_max)",
    **{
        name: f"SUM({name} * episodes) / SUM(CASE WHEN {name} IS NOT NULL THEN episodes END)"
        for name in MEANS
    },
}
COLUMNS = tuple(_AGGREGATES)
_NAMES = ", ".join(COLUMNS)
_SELECTED = ", ".join(_AGGREGATES.values())

Row = Mapping[str, float | int | None]


class History:
    """The writer's side: one process, one thread.

    Args:
        state: the folder of the file.
        keep: how much is kept.
    """

    def __init__(self, state: Path, keep: Keep) -> None:
        self._path = state / FILE_NAME
        self._keep = keep
        self._database: sqlite3.Connection | None = None
        self._since_thinned = 0

    def write(self, rows: Sequence[Row]) -> Path | None:
        """Append ``rows`` in one transaction; returns where a damaged file was put aside, if it was.

        Raises:
            sqlite3.Error, OSError: nothing was written, as on a full disk; call again with the same rows.
        """
        try:
            self._append(rows)
        except sqlite3.OperationalError:
            self.close()
            raise
        except sqlite3.DatabaseError:
            self.close()
            aside = _set_aside(self._path)
            self._append(rows)
            return aside
        return None

    def close(self) -> None:
        """Close the file; ``write`` opens it again."""
        if self._database is not None:
            with contextlib.suppress(sqlite3.Error):
                self._database.close()
            self._database = None

    def _append(self, rows: Sequence[Row]) -> None:
        if self._database is None:
            self._database = _open_for_writing(self._path)
        marks = ", ".join(f":{name}" for name in COLUMNS)
        filled = [dict.fromkeys(COLUMNS) | dict(row) for row in rows]
        with self._database:
            self._database.executemany(
                f"INSERT INTO points (span_s, {_NAMES}) VALUES (0, {marks})",  # noqa: S608 - our own names
                filled,
            )
            self._since_thinned += len(rows)
            if self._since_thinned >= THIN_EVERY:
                thin(self._database, self._keep, now=float(rows[-1]["at"] or 0.0))
                self._since_thinned = 0


def thin(database: sqlite3.Connection, keep: Keep, *, now: float) -> None:
    """Turn old cycles into minutes, old minutes into hours, and forget old hours."""
    found = database.execute(
        "SELECT at FROM points WHERE span_s = 0 ORDER BY at DESC LIMIT 1 OFFSET ?", (keep.keep_cycles,)
    ).fetchone()
    if found is not None:
        _widen(database, 0, MINUTE_S, before=found[0])
    _widen(database, MINUTE_S, HOUR_S, before=now - keep.keep_minute_days * DAY_S)
    database.execute(
        "DELETE FROM points WHERE span_s = ? AND at < ?", (HOUR_S, now - keep.keep_hour_days * DAY_S)
    )


def read_points(
    state: Path,
    *,
    since: float = 0.0,
    until: float = 1e12,
    last_s: float | None = None,
    points: int = 600,
    names: Sequence[str] = COLUMNS,
) -> dict[str, list[Any]]:
    """Each column as a list, oldest first, drawn together into at most ``points`` spans of equal length.

    Every list is empty when there is no history.

    Args:
        state: where the file is.
        since: UTC seconds.
        until: UTC seconds.
        last_s: take no more than the last so many seconds before the newest row.
        points: at most so many.
        names: which columns.

    Raises:
        sqlite3.Error: it cannot be read.
    """
    if not (state / FILE_NAME).exists():
        return {name: [] for name in names}
    selected = ", ".join(_AGGREGATES[name] for name in names)
    with contextlib.closing(_open_for_reading(state / FILE_NAME)) as database:
        first, last = _ends(database, since, until)
        if last_s is not None and last - first > last_s:
            first, last = _ends(database, last - last_s, until)
        found = database.execute(
            f"SELECT {selected} FROM points WHERE at BETWEEN ? AND ?"  # noqa: S608 - our own names
            " GROUP BY MIN(CAST((at - ?) / ? AS INTEGER), ?) ORDER BY MAX(at)",
            (first, last, first, max((last - first) / points, 1e-3), points - 1),
        ).fetchall()
    columns = zip(*found, strict=True) if found else ((),) * len(names)
    return {name: list(values) for name, values in zip(names, columns, strict=True)}


def read_or_explain(state: Path, **what: Any) -> tuple[dict[str, list[Any]], str]:
    """As ``read_points``, and "" or why there is nothing to show."""
    try:
        return read_points(state, **what), ""
    except sqlite3.Error as error:
        return {name: [] for name in COLUMNS}, f"the history cannot be read: {error}"


def _ends(database: sqlite3.Connection, since: float, until: float) -> tuple[float, float]:
    """The times of the first and the last row between two moments; the moments where there is none."""
    query = "SELECT MIN(at), MAX(at) FROM points WHERE at BETWEEN ? AND ?"
    first, last = database.execute(query, (since, until)).fetchone()
    return (since, until) if first is None else (first, last)


def _widen(database: sqlite3.Connection, narrow_s: int, wide_s: int, *, before: float) -> None:
    """Replace the rows of whole spans of ``wide_s`` that ended before ``before``."""
    bounds = (narrow_s, before // wide_s * wide_s)
    database.execute(
        f"INSERT INTO points (span_s, {_NAMES}) SELECT {wide_s}, {_SELECTED} FROM points"  # noqa: S608
        f" WHERE span_s = ? AND at < ? GROUP BY CAST(at / {wide_s} AS INTEGER)",
        bounds,
    )
    database.execute("DELETE FROM points WHERE span_s = ? AND at < ?", bounds)


def _open_for_writing(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=BUSY_S)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")  # a power cut costs the last rows, not the file
        database.execute(f"PRAGMA journal_size_limit = {JOURNAL_BYTES}")
        database.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        _check(database)
        with database:
            _make_table(database)
    except BaseException:
        database.close()
        raise
    return database


def _check(database: sqlite3.Connection) -> None:
    if database.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
        raise sqlite3.DatabaseError("quick_check found damage")


def _make_table(database: sqlite3.Connection) -> None:
    """Make the table, or give one of an earlier release the columns that came since."""
    columns = ", ".join(f"{name} REAL" for name in COLUMNS)
    database.execute(f"CREATE TABLE IF NOT EXISTS points (span_s INTEGER NOT NULL, {columns})")
    known = {row[1] for row in database.execute("PRAGMA table_info(points)")}
    for name in COLUMNS:
        if name not in known:
            database.execute(f"ALTER TABLE points ADD COLUMN {name} REAL")
    database.execute("CREATE INDEX IF NOT EXISTS points_span_at ON points (span_s, at)")
    database.execute("CREATE INDEX IF NOT EXISTS points_at ON points (at)")


def _open_for_reading(path: Path) -> sqlite3.Connection:
    """Open a file that may belong to somebody else; closed ones too, in folders that we may not write in."""
    name = f"file:{quote(str(path))}?mode=ro"
    database = sqlite3.connect(name, uri=True, timeout=1.0)
    try:
        database.execute("SELECT 1 FROM points LIMIT 1")
    except sqlite3.OperationalError:
        database.close()
        if path.with_name(f"{path.name}-wal").exists():
            raise
        return sqlite3.connect(f"{name}&immutable=1", uri=True)
    except sqlite3.Error:
        database.close()
        raise
    return database


def _set_aside(path: Path) -> Path:
    """Keep a damaged file beside the new one, in place of one that was kept before."""
    aside = path.with_name(DAMAGED_NAME)
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).replace(f"{aside}{suffix}")
    return aside
