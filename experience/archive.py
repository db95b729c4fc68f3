"""Archive: the canonical Parquet shard, one row per (episode, segment, agent), steps as list columns.

A shard is plain Parquet (zstd, page checksums) that any reader opens. Between its data and its footer, where
Parquet readers do not look, lies a seal: the sha256 of all its other bytes. It is checked before anything is
parsed, because page checksums leave headers and footer uncovered, and damaged ones have crashed the parser.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from experience.durable import write_atomic
from experience.episode import Episode
from experience.errors import InputError, Problem, ShardDamaged
from experience.rows import SCALAR_COLUMNS, TEXT_COLUMNS, Row, StepTypes, from_table, size_bytes, to_table

SEAL_BYTES = 32
TAIL_BYTES = 8
"""Parquet ends with the footer's length and the magic ``PAR1``."""
_ROW_GROUP_BYTES = 64 * 1024 * 1024
"""Steps in a row group: list offsets are 32 bits wide, and a reader holds one group at a time."""
_NOTE = b"learnerd.note"
_LEVEL = 1
"""zstd level: higher ones made float32 observations no smaller."""
FORMAT = {
    "compression": "zstd",
    "compression_level": _LEVEL,
    "use_dictionary": TEXT_COLUMNS,
    "write_statistics": SCALAR_COLUMNS,
    "write_page_checksum": True,
}
"""How every shard is written: arguments of a ParquetWriter."""


def write_shard(
    path: Path,
    episodes: Sequence[Episode],
    *,
    verdicts: Sequence[Problem | None] | None = None,
    note: str = "",
) -> None:
    """Write ``episodes`` as one shard, atomically and durably.

    Args:
        path: the shard; replaced when it exists.
        episodes: in the order of the rows, at least one.
        verdicts: why each was refused; left out for episodes that were learned.
        note: text about the shard as a whole, kept in its metadata.
    """
    write_atomic(path, _seal(_to_parquet(episodes, verdicts, note)))


def add_rows(
    path: Path,
    episodes: Sequence[Episode],
    *,
    verdicts: Sequence[Problem | None] | None = None,
    note: str = "",
) -> None:
    """Write a shard, keeping the rows that it holds already: the same call again changes nothing.

    A damaged shard is kept as <name>.damaged. The file is written anew in any case, so that it is durable on
    return also when an earlier call was killed before its last fsync.

    Args:
        path: the shard, in a folder that exists.
        episodes: at least one, or the shard exists.
        verdicts: as in ``write_shard``.
        note: as in ``write_shard``; left out, the one that it has stays.
    """
    rows, kept_note = _intact(path)
    known = {row.episode.row_sha256 for row in rows}
    new = zip(episodes, verdicts or [None] * len(episodes), strict=True)
    rows += [Row(episode=e, verdict=v) for e, v in new if e.row_sha256 not in known]
    with_verdicts = verdicts is not None or any(row.verdict for row in rows)
    kept = [row.verdict for row in rows] if with_verdicts else None
    write_shard(path, [row.episode for row in rows], verdicts=kept, note=note or kept_note)


def _intact(path: Path) -> tuple[list[Row], str]:
    try:
        return read_rows_and_note(path)
    except FileNotFoundError:
        return [], ""
    except ShardDamaged:
        path.replace(path.with_name(f"{path.name}.damaged"))
        return [], ""


def read_shard(path: Path) -> list[Episode]:
    """Read the episodes of a shard, exactly as they were written.

    Raises:
        ShardDamaged: naming the file; nothing of it was returned.
    """
    return [row.episode for row in read_rows(path)]


def read_rows(path: Path) -> list[Row]:
    """Read a shard with its verdicts; otherwise as ``read_shard``."""
    return read_rows_and_note(path)[0]


def read_note(path: Path) -> str:
    """Read the note that a shard was written with, "" when there is none; otherwise as ``read_shard``."""
    return read_rows_and_note(path)[1]


def read_rows_and_note(path: Path) -> tuple[list[Row], str]:
    """Read both at once; otherwise as ``read_shard``."""
    data = path.read_bytes()
    _check_seal(path, data)
    try:
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
            groups = (file.read_row_group(i, use_threads=False) for i in range(file.num_row_groups))
            note = (file.schema_arrow.metadata or {}).get(_NOTE, b"").decode()
            return [row for group in groups for row in from_table(group)], note
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, InputError) as error:
        raise ShardDamaged(path, f"{type(error).__name__}: {error}") from error


def _seal(parquet: pa.Buffer) -> bytes:
    view = memoryview(parquet)
    end = _data_end(view)
    return b"".join((view[:end], hashlib.sha256(view).digest(), view[end:]))


def _check_seal(path: Path, data: bytes) -> None:
    view = memoryview(data)
    end = _data_end(view) - SEAL_BYTES if len(view) > TAIL_BYTES else -1
    if end < 0:
        raise ShardDamaged(path, "its footer does not fit in it")
    digest = hashlib.sha256(view[:end])
    digest.update(view[end + SEAL_BYTES :])
    if digest.digest() != view[end : end + SEAL_BYTES]:
        raise ShardDamaged(path, "its sha256 is not the one in its seal")


def _data_end(view: memoryview) -> int:
    footer = int.from_bytes(view[-TAIL_BYTES:-4], "little")
    return len(view) - TAIL_BYTES - footer


def _to_parquet(
    episodes: Sequence[Episode], verdicts: Sequence[Problem | None] | None, note: str
) -> pa.Buffer:
    rows = [
        Row(episode=episode, verdict=verdict)
        for episode, verdict in zip(episodes, verdicts or [None] * len(episodes), strict=True)
    ]
    types = StepTypes.of(episodes)
    sink = pa.BufferOutputStream()
    groups = (to_table(group, types, with_verdict=verdicts is not None) for group in _row_groups(rows))
    first = next(groups)
    with pq.ParquetWriter(
        sink,
        first.schema.with_metadata({_NOTE: note.encode()} if note else None),
        **FORMAT,
    ) as writer:
        for table in (first, *groups):
            writer.write_table(table)
    return sink.getvalue()


def _row_groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    group: list[Row] = []
    size = 0
    for row in rows:
        added = size_bytes(row)
        if group and size + added > _ROW_GROUP_BYTES:
            yield group
            group, size = [], 0
        group.append(row)
        size += added
    yield group
