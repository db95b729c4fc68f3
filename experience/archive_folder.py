"""Archive folder: archive/YYYY-MM-DD holds a shard a version, or compacted shards of many; names tell which.

- ``00000007.parquet``: what version 7 learned from.
- ``00000001-00000812.5f3a9c1e8d2b4a60.parquet``: compacted; first and last version in it, and 16 digits of
  its own sha256. Not every version between stands in it.

The rows of a version are those of all shards that it stands in, compacted ones first, each row once. So a
crash that leaves a shard beside its compacted copy doubles nothing, and rows that come late have a shard of
their own.
"""

import re
from datetime import date
from pathlib import Path

from experience.folders import entries, subfolders

_SHARD = re.compile(r"(\d{8,18})\.parquet")
_COMPACTED = re.compile(r"(\d{8,18})-(\d{8,18})\.[0-9a-f]{16}\.parquet")


def shard_name(version: int) -> str:
    """Return the name of a version's own shard."""
    return f"{version:08d}.parquet"


def compacted_name(first: int, last: int, digest: str) -> str:
    """Return the name of a compacted shard of versions ``first`` to ``last``, whose sha256 is ``digest``."""
    return f"{first:08d}-{last:08d}.{digest[:16]}.parquet"


def day_folders(root: Path) -> list[Path]:
    """List the folders of days in ``root``, oldest first."""
    return [folder for folder in subfolders(root) if _is_day(folder.name)]


def own_shards(folder: Path) -> dict[int, Path]:
    """List the shards of single versions in a day's folder, in order of version."""
    found = {
        int(match[1]): folder / match[0]
        for entry in entries(folder)
        if (match := _SHARD.fullmatch(entry.name))
    }
    return dict(sorted(found.items()))


def compacted_shards(folder: Path) -> dict[Path, range]:
    """List the compacted shards in a day's folder by name, each with the versions that it may hold."""
    found = {
        folder / match[0]: range(int(match[1]), int(match[2]) + 1)
        for entry in entries(folder)
        if (match := _COMPACTED.fullmatch(entry.name))
    }
    return dict(sorted(found.items()))


def first_version(root: Path) -> int | None:
    """Return the lowest version that some shard may hold, by their names; None: there is no shard."""
    firsts = [
        first
        for folder in day_folders(root)
        for first in (*own_shards(folder), *(held[0] for held in compacted_shards(folder).values()))
    ]
    return min(firsts, default=None)


def _is_day(name: str) -> bool:
    try:
        return date.fromisoformat(name).isoformat() == name
    except ValueError:
        return False
