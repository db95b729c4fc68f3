"""Compaction: the shards of days that are over become a few large ones, any version of which is read alone.

What is written is flushed, read back and compared with what was read before it gets its name; its folder is
flushed before the shards that it replaces are unlinked. So a crash at any call leaves every row in one of
them, or in both, and readers take each row once (``archive_folder``). The next compaction goes on from there:
shards whose rows are all in a compacted one are unlinked, and what came late is added.

A damaged shard is left alone, and holds up nothing else.
"""

import contextlib
import errno
from collections.abc import Callable, Iterator
from pathlib import Path

from experience.archive import write_shard
from experience.archive_folder import compacted_shards, day_folders, own_shards, shard_name
from experience.archive_reader import ArchiveReader
from experience.compacted import CompactedShard
from experience.compaction_output import (
    Changed,
    Compacted,
    CompactedSource,
    IsAncestor,
    Output,
    OwnSource,
    Source,
)
from experience.errors import ShardDamaged
from experience.rows import Row


def compact(
    root: Path, *, before: str, ancestors: Callable[[], IsAncestor], report: Compacted
) -> Iterator[None]:
    """Compact each day before ``before``, a little at each ``next``.

    Between two steps shards may come, go and change: what was read from one that has changed since is thrown
    away, until the next time. Close the iterator to break off.

    Args:
        root: the archive, ``Spool.archive_folder``.
        before: YYYY-MM-DD (UTC), the first day that is not over.
        ancestors: gives what tells ancestors of the head, as it is now. The shards of other versions are left
            alone: they wait to be learned from again.
        report: what was done is added up here.

    Raises:
        OSError: as on a full disk; what was written aside is gone, and no row.
    """
    for folder in day_folders(root):
        if folder.name < before:
            with contextlib.suppress(Changed):
                yield from _compact_day(folder, ancestors, report)


def take_out(root: Path, version: int) -> Path:
    """Give a version that stands in compacted shards one of its own, and take it out of those.

    Raises:
        ShardDamaged: a shard of it cannot be read.
        OSError: call it again. FileNotFoundError: the archive has no rows of it.
    """
    reader = ArchiveReader(root)
    places = reader.places(version)
    if not places:
        raise FileNotFoundError(errno.ENOENT, "no shard in the archive", shard_name(version))
    own = places[-1].with_name(shard_name(version))
    if places != [own]:
        rows = reader.rows(version)
        verdicts = [row.verdict for row in rows] if any(row.verdict for row in rows) else None
        write_shard(own, [row.episode for row in rows], verdicts=verdicts, note=reader.note(version))
    for path in places:
        if path.name == own.name:
            if path != own:
                path.unlink()
        else:
            with contextlib.suppress(ShardDamaged):  # its other rows: it stays as it is
                leave_out(path, {version})
    return own


def leave_out(path: Path, versions: set[int]) -> None:
    """Replace a compacted shard by one without ``versions``, or by none when there are no others.

    Raises:
        ShardDamaged: it cannot be read. OSError: call it again.
    """
    source = CompactedSource(path)
    output = Output(path.parent, Compacted(), lambda: bool)
    with contextlib.closing(output):
        with CompactedShard(path) as shard:
            output.begin_with(shard)
        for number in sorted(source.versions - versions):
            _exhaust(output.add(number, *source.read(number), [source]))
        output.take(source)
        _exhaust(output.finish())


def _exhaust(steps: Iterator[None]) -> None:
    for _ in steps:
        pass


def _compact_day(folder: Path, ancestors: Callable[[], IsAncestor], report: Compacted) -> Iterator[None]:
    is_ancestor = ancestors()
    small, full = _compacted(folder, report)
    own = [OwnSource(path, version) for version, path in own_shards(folder).items() if is_ancestor(version)]
    if not own and len(small) < 2:  # noqa: PLR2004 - there is nothing to put together
        return
    output = Output(folder, report, ancestors)
    with contextlib.closing(output):
        for source in small:
            with CompactedShard(source.path) as shard:
                output.begin_with(shard)
        yield from _move([*small, *own], full, output, report)
        yield from output.finish()


def _compacted(folder: Path, report: Compacted) -> tuple[list[CompactedSource], list[CompactedSource]]:
    """The day's compacted shards: those that others still fit into, and those that are left as they are."""
    small: list[CompactedSource] = []
    full: list[CompactedSource] = []
    for path in compacted_shards(folder):
        try:
            source = CompactedSource(path)
        except ShardDamaged as error:
            report.damaged[path] = str(error)
        else:
            (full if source.is_half_full else small).append(source)
    return small, full


def _move(
    sources: list[Source], full: list[CompactedSource], output: Output, report: Compacted
) -> Iterator[None]:
    """Add what is in ``sources`` and not in ``full``, version by version."""
    by_version: dict[int, list[Source]] = {}
    for source in sources:
        for version in source.versions:
            by_version.setdefault(version, []).append(source)
    last = {source.path: max(source.versions) for source in sources}
    for version, holders in sorted(by_version.items()):
        rows, note = _read(version, holders, report)
        for source in full:
            for row in _kept(source, version, report):
                rows.pop(row.episode.row_sha256, None)
        if rows:
            yield from output.add(version, list(rows.values()), note, holders)
        for source in holders:
            if version == last[source.path] and source.path not in report.damaged:
                output.take(source)
        yield


def _kept(source: CompactedSource, version: int, report: Compacted) -> list[Row]:
    """What a shard that stays has of a version; nothing when it is damaged, so that it is kept twice."""
    try:
        return source.read(version)[0] if version in source.versions else []
    except ShardDamaged as error:
        report.damaged[source.path] = str(error)
        return []


def _read(version: int, holders: list[Source], report: Compacted) -> tuple[dict[str, Row], str]:
    """The rows of a version by their sha256, each once, in order; and its note."""
    found: dict[str, Row] = {}
    note = ""
    for source in holders:
        try:
            rows, its_note = source.read(version)
        except ShardDamaged as error:
            report.damaged[source.path] = str(error)
            continue
        note = note or its_note
        for row in rows:
            found.setdefault(row.episode.row_sha256, row)
    return found, note
