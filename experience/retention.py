"""Retention: which shards and which files set aside are removed, by age and by total size, oldest first."""

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path

from experience.durable import ASIDE
from experience.folders import entries, remove, tree_bytes

DAY_S = 86_400.0
ASIDE_KEEP_S = DAY_S
"""A name aside this old belongs to nobody: no episode is written for a day without a change."""
_ID_CHARACTERS = 36


@dataclass(frozen=True, kw_only=True)
class Item:
    """Something that is kept or removed as a whole.

    Attributes:
        since_s: from when its age counts, UTC seconds.
        name: tells the order of items of the same time.
        paths: in the order in which they are removed.
        size_bytes: of all of them.
    """

    since_s: float
    name: str
    paths: tuple[Path, ...]
    size_bytes: int


def prune_days(folders: Sequence[Path], *, keep_days: float, keep_bytes: int, now_s: float) -> list[Path]:
    """Prune the files in folders named YYYY-MM-DD; their age counts from the end of that day (UTC).

    Returns:
        What was removed, oldest first.
    """
    items = [
        Item(
            since_s=_day_end_s(folder.name),
            name=entry.name,
            paths=(folder / entry.name,),
            size_bytes=tree_bytes(folder / entry.name),
        )
        for folder in folders
        for entry in entries(folder)
        if not entry.name.startswith(ASIDE)
    ]
    removed = _prune(items, keep_s=keep_days * DAY_S, keep_bytes=keep_bytes, now_s=now_s)
    for folder in {path.parent for path in removed}:
        with contextlib.suppress(OSError):
            folder.rmdir()
    return removed


def prune_set_aside(
    folders: Sequence[Path], *, keep_days: float, keep_bytes: int, now_s: float
) -> list[Path]:
    """Prune what was set aside in ``folders``; a file and its record go together, the record last.

    Age counts from the last change of the inode, which the rename made: the client's own timestamps say
    nothing about it.

    Returns:
        What was removed, oldest first.
    """
    groups: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for folder in folders:
        for entry in entries(folder):
            if not entry.name.startswith(ASIDE):
                groups[folder, entry.name[:_ID_CHARACTERS]].append(folder / entry.name)
    items = [item for (_, name), paths in groups.items() if (item := _set_aside(name, paths))]
    return _prune(items, keep_s=keep_days * DAY_S, keep_bytes=keep_bytes, now_s=now_s)


def sweep_aside(folders: Iterable[Path], *, now_s: float) -> list[Path]:
    """Remove names aside whose last change is more than a day old."""
    removed = []
    for folder in folders:
        for entry in entries(folder):
            if not entry.name.startswith(ASIDE):
                continue
            with contextlib.suppress(OSError):
                age_s = now_s - entry.stat(follow_symlinks=False).st_mtime
                if age_s > ASIDE_KEEP_S and remove(folder / entry.name):
                    removed.append(folder / entry.name)
    return removed


def _prune(items: Iterable[Item], *, keep_s: float, keep_bytes: int, now_s: float) -> list[Path]:
    oldest_first = sorted(items, key=lambda item: (item.since_s, item.name))
    total_bytes = sum(item.size_bytes for item in oldest_first)
    removed = []
    for item in oldest_first:
        if item.since_s >= now_s - keep_s and total_bytes <= keep_bytes:
            continue
        gone = list(takewhile(remove, item.paths))
        removed += gone
        if len(gone) == len(item.paths):
            total_bytes -= item.size_bytes
    return removed


def _set_aside(name: str, paths: list[Path]) -> Item | None:
    try:
        since_s = max(path.lstat().st_ctime for path in paths)
    except FileNotFoundError:
        return None
    return Item(
        since_s=since_s,
        name=name,
        paths=tuple(sorted(paths, key=lambda path: len(path.name))),
        size_bytes=sum(tree_bytes(path) for path in paths),
    )


def _day_end_s(day: str) -> float:
    return datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC).timestamp() + DAY_S
