"""Archive reader: the episodes that a version learned from, in whichever shards they stand."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from experience.archive import read_rows_and_note
from experience.archive_folder import compacted_shards, day_folders, own_shards
from experience.compacted import CompactedShard, Index, read_index
from experience.episode import Episode
from experience.errors import ShardDamaged
from experience.rows import Row

T = TypeVar("T")

_MOST_LISTINGS = 5
"""A shard that is compacted between listing and reading is found under its new name the next time."""


class ArchiveReader:
    """Reads an archive as it was listed; make a new one to see what was archived since.

    What compaction moves meanwhile is found again. One row group of a compacted shard stays in memory:
    versions are read fastest in order.

    Args:
        root: the archive, ``Spool.archive_folder``.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._indexes: dict[Path, Index | ShardDamaged] = {}
        self._last_group: tuple[Path, int, list[Row]] | None = None
        self._last_version: tuple[int, list[Row], str] | None = None
        self._list()

    def versions(self) -> list[int]:
        """List the versions that have rows, ascending; those of damaged compacted shards are not known."""
        return self._listing_again(self._versions)

    def versions_within(self, ranges: Sequence[tuple[int, int]]) -> set[int]:
        """Find the versions in the ranges (first, last) that have rows; reads what may hold one of them.

        Those of damaged compacted shards are not known.
        """
        return self._listing_again(lambda: self._versions_within(ranges))

    def damaged(self) -> dict[Path, str]:
        """List the compacted shards of which nothing can be read, each with what is wrong."""
        self.versions()
        return {path: str(found) for path, found in self._indexes.items() if isinstance(found, ShardDamaged)}

    def places(self, version: int) -> list[Path]:
        """List the shards in which a version stands: compacted ones, then its own.

        Raises:
            ShardDamaged: a compacted shard that may hold it, while no other does.
        """
        return self._listing_again(lambda: self._places(version))

    def rows(self, version: int) -> list[Row]:
        """Read what a version learned from, in order; each row once, none when the archive has none.

        Raises:
            ShardDamaged: a shard of it is not what was written.
        """
        return self._version(version)[0]

    def episodes(self, version: int) -> list[Episode]:
        """Read the episodes alone; otherwise as ``rows``."""
        return [row.episode for row in self.rows(version)]

    def note(self, version: int) -> str:
        """Read the note on a version, "" when there is none; otherwise as ``rows``."""
        return self._version(version)[1]

    def _version(self, version: int) -> tuple[list[Row], str]:
        if self._last_version is None or self._last_version[0] != version:
            self._last_version = (version, *self._listing_again(lambda: self._read(version)))
        return self._last_version[1:]

    def _listing_again(self, find: Callable[[], T]) -> T:
        for _ in range(_MOST_LISTINGS):
            try:
                return find()
            except FileNotFoundError:
                self._list()
        return find()

    def _list(self) -> None:
        self._own: dict[int, list[Path]] = {}
        self._compacted: dict[Path, range] = {}
        for folder in day_folders(self._root):
            self._compacted |= compacted_shards(folder)
            for version, path in own_shards(folder).items():
                self._own.setdefault(version, []).append(path)
        self._indexes = {path: found for path, found in self._indexes.items() if path in self._compacted}

    def _versions(self) -> list[int]:
        found = set(self._own)
        for path in self._compacted:
            index = self._index(path)
            if isinstance(index, Index):
                found.update(index.versions)
        return sorted(found)

    def _versions_within(self, ranges: Sequence[tuple[int, int]]) -> set[int]:
        def touches(low: int, high: int) -> bool:
            return any(first <= high and low <= last for first, last in ranges)

        found = set(self._own)
        for path, versions in self._compacted.items():
            index = self._index(path) if touches(versions[0], versions[-1]) else None
            if isinstance(index, Index):
                found.update(index.versions)
        return {version for version in found if touches(version, version)}

    def _places(self, version: int) -> list[Path]:
        places, broken = [], None
        for path in (path for path, versions in self._compacted.items() if version in versions):
            index = self._index(path)
            if isinstance(index, ShardDamaged):
                broken = index
            elif version in index.versions:
                places.append(path)
        places += self._own.get(version, [])
        if broken is not None and not places:
            raise broken
        return places

    def _index(self, path: Path) -> Index | ShardDamaged:
        if path not in self._indexes:
            try:
                self._indexes[path] = read_index(path)
            except ShardDamaged as error:
                self._indexes[path] = error
        return self._indexes[path]

    def _read(self, version: int) -> tuple[list[Row], str]:
        found: dict[str, Row] = {}
        note = ""
        for path in self._places(version):
            compacted = path in self._compacted
            rows, its_note = (self._read_compacted if compacted else _read_own)(path, version)
            for row in rows:
                found.setdefault(row.episode.row_sha256, row)
            note = note or its_note
        return list(found.values()), note

    def _read_compacted(self, path: Path, version: int) -> tuple[list[Row], str]:
        index = self._index(path)
        assert isinstance(index, Index)
        rows = [row for i, low, high in index.spans(version) for row in self._group(path, i)[low:high]]
        return rows, index.versions[version][2]

    def _group(self, path: Path, i: int) -> list[Row]:
        if self._last_group is None or self._last_group[:2] != (path, i):
            with CompactedShard(path) as shard:
                self._last_group = path, i, shard.group(i)
        return self._last_group[2]


def _read_own(path: Path, _: int) -> tuple[list[Row], str]:
    return read_rows_and_note(path)
