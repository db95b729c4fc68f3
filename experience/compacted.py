"""Compacted shards: the rows of many versions in one Parquet file, each found without reading the rest.

A compacted shard is a shard (``archive``) of which row groups hold the rows of several versions: a row group
costs 12 kB of footer, more than the rows of many a version. Between its data and its seal lies an index that
Parquet readers do not see::

    row groups │ index (JSON, zlib) │ sha256 of the index, 32 │ its length, 8 │ seal, 32 │ footer

It gives the rows and the note of each version in order, and place and sha256 of footer and row groups, so
that whatever is read is checked before it is parsed. Other tools find [version, rows] in the footer's
metadata, under ``learnerd.versions``.
"""

import contextlib
import hashlib
import io
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from experience.archive import FORMAT, SEAL_BYTES, TAIL_BYTES
from experience.archive_folder import compacted_name
from experience.durable import ASIDE
from experience.errors import InputError, ShardDamaged
from experience.ids import uuid7
from experience.rows import Row, StepTypes, fingerprint, from_table, size_bytes, to_table

GROUP_BYTES = 2**20
"""Steps in a row group: what is decoded to read one version; a hundredth of it is footer."""
SHARD_BYTES = 56 * 2**20
"""Steps and notes in a shard: so that it can be deposited again, as any other (64 MiB)."""
SHARD_ROWS = 20_000
"""Likewise: no more may be in a file that is deposited."""
SHARD_VERSIONS = 4096
"""Bounds how many files are unlinked at once."""
_VERSIONS = b"learnerd.versions"
_LENGTH_BYTES = 8
_BLOCK_END = hashlib.sha256().digest_size + _LENGTH_BYTES + SEAL_BYTES
_MAX_INDEX_BYTES = 2**30
_BROKEN = (pa.ArrowException, ValueError, KeyError, TypeError, zlib.error, InputError)


@dataclass(frozen=True, kw_only=True)
class Index:
    """What is in a compacted shard, and where.

    Attributes:
        versions: version -> (first row, rows, note), ascending.
        groups: (offset, bytes, rows, sha256) of each row group.
        footer_sha256: of the bytes after the seal.
        size_bytes: of steps and notes, as ``SHARD_BYTES`` counts them.
    """

    versions: dict[int, tuple[int, int, str]]
    groups: tuple[tuple[int, int, int, str], ...]
    footer_sha256: str
    size_bytes: int

    def spans(self, version: int) -> Iterator[tuple[int, int, int]]:
        """Where the rows of a version are, in order: (row group, from its row, to its row)."""
        first, count, _ = self.versions.get(version, (0, 0, ""))
        start = 0
        for i, (_, _, n_rows, _) in enumerate(self.groups):
            low, high = max(first - start, 0), min(first + count - start, n_rows)
            if low < high:
                yield i, low, high
            start += n_rows

    @property
    def is_half_full(self) -> bool:
        """Two that are not fit into one."""
        rows = sum(rows for _, _, rows, _ in self.groups)
        return (
            2 * self.size_bytes >= SHARD_BYTES
            or 2 * rows >= SHARD_ROWS
            or 2 * len(self.versions) >= SHARD_VERSIONS
        )


class CompactedWriter:
    """Writes one compacted shard aside, a row group at a time; nobody sees it before ``finish``'s rename.

    Args:
        folder: of the day.
        types: how steps are stored; rows of other types do not fit.
        with_verdict: whether there is a column ``verdict``.
    """

    def __init__(self, folder: Path, types: StepTypes, *, with_verdict: bool) -> None:
        self._folder = folder
        self._types = types
        self._with_verdict = with_verdict
        self._sink = _Sink(folder / f"{ASIDE}{uuid7()}")
        self._writer: pq.ParquetWriter | None = None
        self._versions: list[tuple[int, int, str]] = []
        self._groups: list[tuple[int, int, int, str]] = []
        self._pending: list[Row] = []
        self._pending_bytes = self._size_bytes = self._n_rows = 0
        self._fingerprint = hashlib.sha256()

    def holds(self, types: StepTypes, *, with_verdict: bool) -> bool:
        """Whether rows of these types can be added."""
        wider = self._types.including(types) != self._types.including(self._types)
        return not wider and with_verdict <= self._with_verdict

    def has_room(self, rows: Sequence[Row], note: str) -> bool:
        """Whether a version's rows fit in; they always do into an empty one."""
        return not self._versions or (
            self._size_bytes + sum(map(size_bytes, rows)) + len(note) <= SHARD_BYTES
            and self._n_rows + len(rows) <= SHARD_ROWS
            and len(self._versions) < SHARD_VERSIONS
        )

    def add(self, version: int, rows: Sequence[Row], note: str) -> None:
        """Add what a version learned from; versions come in ascending order."""
        for row in rows:
            size = size_bytes(row)
            if self._pending and self._pending_bytes + size > GROUP_BYTES:
                self._write_group()
            self._pending.append(row)
            self._pending_bytes += size
            self._size_bytes += size
            self._fingerprint.update(fingerprint(row))
        self._versions.append((version, len(rows), note))
        self._size_bytes += len(note)
        self._n_rows += len(rows)

    def finish(self) -> Iterator[None]:
        """Write the end, flush, and read all of it back, pausing between row groups.

        Raises:
            ShardDamaged: what was read back is not what was written.
        """
        self._write_group()
        yield
        assert self._writer is not None
        pairs = json.dumps([[version, rows] for version, rows, _ in self._versions])
        self._writer.add_key_value_metadata({_VERSIONS: pairs.encode()})
        self._writer.close()
        self._writer = None
        footer = self._sink.take_pending()
        self._sink.end(footer, self._index(hashlib.sha256(footer).hexdigest()))
        yield
        found = hashlib.sha256()
        with CompactedShard(self._sink.path) as copy:
            for rows in copy.groups():
                for row in rows:
                    found.update(fingerprint(row))
                yield
        if found.digest() != self._fingerprint.digest():
            raise ShardDamaged(self._sink.path, "rows read back are not those that were written")

    def publish(self) -> Path:
        """Rename it to its name; its folder is flushed by the caller."""
        name = compacted_name(self._versions[0][0], self._versions[-1][0], self._sink.digest)
        return self._sink.path.replace(self._folder / name)

    def abandon(self) -> None:
        """Remove what was written aside; nothing once it was published."""
        self._sink.abandon()
        if self._writer is not None:
            writer, self._writer = self._writer, None
            with contextlib.suppress(OSError, pa.ArrowException):
                writer.close()  # into memory: else it does so when it is collected

    def _write_group(self) -> None:
        if not self._pending:
            return
        table = to_table(self._pending, self._types, with_verdict=self._with_verdict)
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._sink, table.schema, **FORMAT)
        start = self._sink.tell()
        self._writer.write_table(table, row_group_size=len(self._pending))
        digest = self._sink.flush_from(start)
        self._groups.append((start, self._sink.tell() - start, len(self._pending), digest))
        self._pending, self._pending_bytes = [], 0

    def _index(self, footer_sha256: str) -> bytes:
        return json.dumps(
            {
                "versions": self._versions,
                "groups": self._groups,
                "footer": footer_sha256,
                "bytes": self._size_bytes,
            },
            separators=(",", ":"),
        ).encode()


class CompactedShard:
    """An open compacted shard; what was unlinked meanwhile can still be read from it.

    Args:
        path: a compacted shard.

    Raises:
        ShardDamaged: naming the file. FileNotFoundError: it is gone.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb", buffering=0)
        try:
            self.index = self._read_index()
            self._parquet: pq.ParquetFile | None = None
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def group(self, i: int) -> list[Row]:
        """Read a row group.

        Raises:
            ShardDamaged: naming the file.
        """
        offset, size, _, digest = self.index.groups[i]
        self._check(self._bytes(offset, size), digest, f"row group {i}")
        with self._parsing():
            return from_table(self._opened().read_row_group(i, use_threads=False))

    def groups(self) -> Iterator[list[Row]]:
        """Read all rows, a row group at a time."""
        return map(self.group, range(len(self.index.groups)))

    def step_types(self) -> StepTypes:
        """How its steps are stored."""
        with self._parsing():
            return StepTypes.of_schema(self._opened().schema_arrow)

    @property
    def has_verdicts(self) -> bool:
        """Whether it has a column ``verdict``."""
        with self._parsing():
            return "verdict" in self._opened().schema_arrow.names

    def _opened(self) -> pq.ParquetFile:
        if self._parquet is None:
            self._parquet = pq.ParquetFile(self._file, page_checksum_verification=True, pre_buffer=False)
        return self._parquet

    def _read_index(self) -> Index:
        end = os.fstat(self._file.fileno()).st_size - TAIL_BYTES
        data_end = end - int.from_bytes(self._bytes(end, 4), "little")
        head = self._bytes(data_end - _BLOCK_END, _BLOCK_END - SEAL_BYTES)
        size = int.from_bytes(head[-_LENGTH_BYTES:], "little")
        if size > _MAX_INDEX_BYTES:
            raise ShardDamaged(self._path, "its index does not fit in it")
        packed = self._bytes(data_end - _BLOCK_END - size, size)
        self._check(packed, head[:-_LENGTH_BYTES].hex(), "index")
        with self._parsing():
            index = _decode_index(zlib.decompress(packed))
        self._check(self._bytes(data_end, end + TAIL_BYTES - data_end), index.footer_sha256, "footer")
        return index

    def _bytes(self, offset: int, size: int) -> bytes:
        data = os.pread(self._file.fileno(), size, offset) if offset >= 0 else b""
        if len(data) != size:
            raise ShardDamaged(self._path, f"{size} bytes at {offset} do not fit in it")
        return data

    def _check(self, data: bytes, digest: str, what: str) -> None:
        if hashlib.sha256(data).hexdigest() != digest:
            raise ShardDamaged(
                self._path, f"the sha256 of its {what} is not the one that it was written with"
            )

    @contextlib.contextmanager
    def _parsing(self) -> Iterator[None]:
        try:
            yield
        except _BROKEN as error:
            raise ShardDamaged(self._path, f"{type(error).__name__}: {error}") from error


def read_index(path: Path) -> Index:
    """Read which versions are in a compacted shard; otherwise as ``CompactedShard``."""
    with CompactedShard(path) as shard:
        return shard.index


class _Sink(io.RawIOBase):
    """A new file aside, written a row group at a time."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.digest = ""
        self._descriptor: int | None = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666
        )
        self._hash = hashlib.sha256()
        self._pending = bytearray()
        self._at = 0

    def writable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Bytes so far."""
        return self._at

    def write(self, data: Any) -> int:
        """Take ``data`` to be written."""
        view = memoryview(data).cast("B")
        self._pending += view
        self._at += len(view)
        return len(view)

    def flush_from(self, start: int) -> str:
        """Make all so far durable, so that no flush waits for a whole shard; its sha256 from ``start`` on."""
        data = self.take_pending()
        self._hash.update(data)
        self._write_out(data)
        return hashlib.sha256(memoryview(data)[start - self._at :]).hexdigest()

    def end(self, footer: bytes, index: bytes) -> None:
        """Write index, seal and footer, and flush."""
        packed = zlib.compress(index, 1)
        block = packed + hashlib.sha256(packed).digest() + len(packed).to_bytes(_LENGTH_BYTES, "little")
        self._hash.update(block)
        self._hash.update(footer)
        self.digest = self._hash.hexdigest()
        self._write_out(block + self._hash.digest() + footer)
        self._close()

    def take_pending(self) -> bytes:
        """Return what was not written yet, and forget it."""
        pending, self._pending = bytes(self._pending), bytearray()
        return pending

    def abandon(self) -> None:
        """Close and remove it."""
        with contextlib.suppress(OSError):
            self._close()
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _write_out(self, data: bytes) -> None:
        assert self._descriptor is not None
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]
        os.fsync(self._descriptor)

    def _close(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)


def _decode_index(text: bytes) -> Index:
    found = json.loads(text)
    versions, first = {}, 0
    for version, rows, note in found["versions"]:
        versions[int(version)] = (first, int(rows), str(note))
        first += int(rows)
    return Index(
        versions=versions,
        groups=tuple((int(at), int(size), int(rows), str(sha)) for at, size, rows, sha in found["groups"]),
        footer_sha256=str(found["footer"]),
        size_bytes=int(found["bytes"]),
    )
