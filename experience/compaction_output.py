"""Compaction's output: compacted shards one after the other, and the shards that each of them replaces."""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from experience.archive import read_rows_and_note
from experience.compacted import SHARD_BYTES, CompactedShard, CompactedWriter
from experience.durable import fsync_folder
from experience.errors import ShardDamaged
from experience.rows import Row, StepTypes

IsAncestor = Callable[[int], bool]
"""Whether a version is the head or an ancestor of it."""

ROOM_BYTES = 4 * SHARD_BYTES
"""With less free space nothing is compacted: what arrives goes first."""


@dataclass(kw_only=True)
class Compacted:
    """What a compaction has done so far.

    Attributes:
        replaced, written: shards that are gone, and those that took their place.
        bytes_before, bytes_after: of both.
        damaged: shards that cannot be read, each with what is wrong.
    """

    replaced: int = 0
    written: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    damaged: dict[Path, str] = field(default_factory=dict)


class Changed(Exception):  # noqa: N818 - a fact, not an error
    """A shard is not any more what was read from it."""


class Source(Protocol):
    """A shard whose rows are put elsewhere.

    Attributes:
        path: where it is.
        versions: those that it holds.
    """

    path: Path
    versions: set[int]

    def read(self, version: int) -> tuple[list[Row], str]:
        """Read the rows of a version, and the note on it.

        Raises:
            ShardDamaged: it is not what was written. Changed: it is gone.
        """

    def is_unchanged(self, is_ancestor: IsAncestor) -> bool:
        """Whether it is still the file that was read, and may be replaced."""


class OwnSource:
    """The shard of one version."""

    def __init__(self, path: Path, version: int) -> None:
        self.path, self.versions = path, {version}
        self._identity: tuple[int, ...] | None = None

    def read(self, version: int) -> tuple[list[Row], str]:
        """As ``Source.read``."""
        del version
        with _not_gone(self.path):
            self._identity = _identity(self.path)
            return read_rows_and_note(self.path)

    def is_unchanged(self, is_ancestor: IsAncestor) -> bool:
        """As ``Source.is_unchanged``."""
        return _identity(self.path) == self._identity and all(map(is_ancestor, self.versions))


class CompactedSource:
    """A compacted shard.

    Raises:
        ShardDamaged: it is not what was written. Changed: it is gone.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _not_gone(path), CompactedShard(path) as shard:
            self._identity = _identity(path)
            self._index = shard.index
        self.versions = set(self._index.versions)
        self.is_half_full = self._index.is_half_full
        self._last: tuple[int, list[Row]] = (-1, [])

    def read(self, version: int) -> tuple[list[Row], str]:
        """As ``Source.read``."""
        rows = [row for i, low, high in self._index.spans(version) for row in self._group(i)[low:high]]
        return rows, self._index.versions[version][2]

    def is_unchanged(self, is_ancestor: IsAncestor) -> bool:
        """As ``Source.is_unchanged``."""
        del is_ancestor
        return _identity(self.path) == self._identity

    def _group(self, i: int) -> list[Row]:
        if self._last[0] != i:
            with _not_gone(self.path), CompactedShard(self.path) as shard:
                self._last = i, shard.group(i)
        return self._last[1]


class Output:
    """Writes compacted shards into a day's folder; each that is finished replaces what was taken by then.

    Args:
        folder: of the day.
        report: what was done is added up here.
        ancestors: as ``compaction.compact``'s.
    """

    def __init__(self, folder: Path, report: Compacted, ancestors: Callable[[], IsAncestor]) -> None:
        self._folder = folder
        self._report = report
        self._ancestors = ancestors
        self._types: StepTypes | None = None
        self._with_verdict = False
        self._writer: CompactedWriter | None = None
        self._read: set[Source] = set()
        self._taken: list[Source] = []

    def begin_with(self, shard: CompactedShard) -> None:
        """Have the first shard hold what ``shard`` holds."""
        self._widen(shard.step_types(), with_verdict=shard.has_verdicts)

    def add(self, version: int, rows: Sequence[Row], note: str, sources: Iterable[Source]) -> Iterator[None]:
        """Add the rows of a version, which were read from ``sources``; versions come in ascending order."""
        types = StepTypes.of([row.episode for row in rows])
        with_verdict = any(row.verdict for row in rows)
        writer = self._writer
        if writer is not None and not (
            writer.has_room(rows, note) and writer.holds(types, with_verdict=with_verdict)
        ):
            yield from self.finish()
        if self._writer is None:
            _check_room(self._folder)
            self._widen(types, with_verdict=with_verdict)
            assert self._types is not None
            self._writer = CompactedWriter(self._folder, self._types, with_verdict=self._with_verdict)
        self._writer.add(version, rows, note)
        self._read.update(sources)

    def take(self, source: Source) -> None:
        """All of a shard's rows have been added, or stand in a shard that stays: it can go."""
        self._taken.append(source)

    def finish(self) -> Iterator[None]:
        """Finish the shard that is being written, and unlink those that were taken.

        Raises:
            Changed: one that was read from is not any more what it was; none was unlinked.
        """
        if self._writer is not None:
            yield from self._writer.finish()
        self._commit()

    def close(self) -> None:
        """Remove what is not finished."""
        if self._writer is not None:
            self._writer.abandon()
            self._writer = None

    def _commit(self) -> None:
        """No pause in here: what was found unchanged is unlinked before anybody else can touch it."""
        is_ancestor = self._ancestors()
        if not all(source.is_unchanged(is_ancestor) for source in {*self._read, *self._taken}):
            raise Changed
        made = self._writer.publish() if self._writer is not None else None
        self._writer = None
        try:
            fsync_folder(self._folder)
        except OSError:
            if made is not None and not any(source.path == made for source in self._taken):
                with contextlib.suppress(OSError):
                    made.unlink()  # else the next compaction would take its name for durable
            raise
        if made is not None:
            self._report.written += 1
            self._report.bytes_after += made.stat().st_size
        taken, self._taken, self._read = self._taken, [], set()
        for source in taken:
            if source.path != made:
                self._report.replaced += 1
                self._report.bytes_before += source.path.stat().st_size
                source.path.unlink()

    def _widen(self, types: StepTypes, *, with_verdict: bool) -> None:
        self._types = types if self._types is None else self._types.including(types)
        self._with_verdict |= with_verdict


def _check_room(folder: Path) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < ROOM_BYTES:
        what = f"{free_bytes} bytes are free, nothing is compacted below {ROOM_BYTES}"
        raise OSError(errno.ENOSPC, what, str(folder))


def _identity(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


@contextlib.contextmanager
def _not_gone(path: Path) -> Iterator[None]:
    """What is gone has changed; what the disk cannot give any more is damaged."""
    try:
        yield
    except FileNotFoundError:
        raise Changed from None
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise ShardDamaged(path, os.strerror(error.errno)) from error
