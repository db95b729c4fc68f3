"""Unpublished versions: the archive has rows of them, the store, restored from a backup, has never had them.

Their numbers will be used again. So each gets a name that is no version's, ``again-<version>-<id>.parquet``,
under which it waits to be learned from again.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from experience.archive import write_shard
from experience.archive_folder import compacted_shards, day_folders, own_shards
from experience.compacted import CompactedShard
from experience.compaction import leave_out
from experience.durable import fsync_folder
from experience.errors import ShardDamaged
from experience.folders import entries
from experience.ids import uuid7

_AGAIN = re.compile(r"again-\d{8,18}-[0-9a-f-]{16,36}\.parquet")


def above(root: Path, highest: int) -> list[Path]:
    """List the shards that may hold versions above ``highest``, by their names."""
    return [
        path
        for folder in day_folders(root)
        for path in (
            *(path for version, path in own_shards(folder).items() if version > highest),
            *(path for path, versions in compacted_shards(folder).items() if versions[-1] > highest),
        )
    ]


def set_apart(root: Path, highest: int) -> int:
    """Give every version above ``highest`` a shard that waits to be learned from again; how many there were.

    After a crash the same call goes on. A compacted shard that is damaged is renamed to
    <name>.damaged; what can be read of it waits like the rest.

    Raises:
        OSError: call it again before anything is archived.
    """
    paths = above(root, highest)
    count = 0
    for path in paths:
        versions = _set_apart(path, highest)
        count += sum(1 for _ in versions)
        fsync_folder(path.parent)
    return count


def waiting(root: Path) -> list[Path]:
    """List the shards that wait, in order of version."""
    found = (folder / entry.name for folder in day_folders(root) for entry in entries(folder))
    return sorted((path for path in found if _AGAIN.fullmatch(path.name)), key=lambda path: path.name)


def _set_apart(path: Path, highest: int) -> Iterator[int]:
    own = {shard: version for version, shard in own_shards(path.parent).items()}
    if path in own:
        path.rename(path.with_name(f"again-{own[path]:08d}-{uuid7()}.parquet"))
        yield own[path]
        return
    try:
        yield from _write_apart(path, highest)
        leave_out(path, {version for version in compacted_shards(path.parent)[path] if version > highest})
    except ShardDamaged:
        path.rename(path.with_name(f"{path.name}.damaged"))  # its numbers are given to others now


def _write_apart(path: Path, highest: int) -> Iterator[int]:
    """Write a version's rows under a name that a second call after a crash gives them again.

    Of a damaged shard, those that can be read; it is kept as <name>.damaged.
    """
    digest = path.name.split(".")[1]
    with CompactedShard(path) as shard:
        for version in [version for version in shard.index.versions if version > highest]:
            spans = shard.index.spans(version)
            try:
                episodes = [row.episode for i, low, high in spans for row in shard.group(i)[low:high]]
            except ShardDamaged:
                continue
            write_shard(path.with_name(f"again-{version:08d}-{digest}.parquet"), episodes)
            yield version
