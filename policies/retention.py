"""Retention: which version directories may go."""

import itertools
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What retention knows of a version directory.

    Attributes:
        version: its number.
        size_bytes: of its files together.
        written_s: when its manifest was written, UTC seconds by the file system's clock.
    """

    version: int
    size_bytes: int
    written_s: float


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What to keep.

    Attributes:
        keep_last: this many of the highest numbers.
        keep_every: numbers that it divides; 0: none.
        keep_minutes: versions younger than this.
        keep_bytes: the versions together may not exceed it; wins over everything above, never over pins.
    """

    keep_last: int
    keep_every: int
    keep_minutes: float
    keep_bytes: int


SHARES = 10
"""A gap between two versions counts for ``keep_minutes`` by this number at most: a clock set ahead takes no
more away. So right after a publish that many versions are young, however seldom there is one."""


def choose(
    stored: Sequence[Stored],
    policy: Policy,
    *,
    protected: Collection[int],
    spared: Collection[int],
    now_s: float,
) -> list[int]:
    """The versions to remove, in ascending order.

    Args:
        stored: those that are there.
        policy: what to keep.
        protected: never removed, whatever ``keep_bytes`` says.
        spared: removed for ``keep_bytes`` alone, and last of all.
        now_s: UTC seconds.
    """
    ordered = sorted(stored, key=lambda item: item.version)
    keep_s = 60.0 * policy.keep_minutes
    ages_s = _ages_s([item.written_s for item in ordered], now_s=now_s, longest_gap_s=keep_s / SHARES)
    young = {item.version for item, age_s in zip(ordered, ages_s, strict=True) if age_s < keep_s}
    last = {item.version for item in ordered[-policy.keep_last :]} if policy.keep_last else set()

    def is_wanted(item: Stored) -> bool:
        periodic = policy.keep_every > 0 and item.version % policy.keep_every == 0
        named = item.version in last or item.version in spared or item.version in young
        return named or periodic

    free = [item for item in ordered if item.version not in protected]
    removed = {item.version for item in free if not is_wanted(item)}
    kept_bytes = sum(item.size_bytes for item in ordered if item.version not in removed)
    for item in sorted(free, key=lambda item: (item.version in spared, item.version)):
        if kept_bytes <= policy.keep_bytes:
            break
        if item.version not in removed:
            removed.add(item.version)
            kept_bytes -= item.size_bytes
    return sorted(removed)


def _ages_s(written_s: Sequence[float], *, now_s: float, longest_gap_s: float) -> list[float]:
    """Seconds since each was written, added up from the gaps between them, whatever the clock was set to.

    A gap counts for nothing where the clock went back, and for ``longest_gap_s`` at most where it went ahead,
    or nothing was published for long.

    Args:
        written_s: of the versions, ascending.
        now_s: UTC seconds; no earlier than the last of them, or that is now.
        longest_gap_s: seconds.
    """
    if not written_s:
        return []
    gaps = (min(max(0.0, b - a), longest_gap_s) for a, b in itertools.pairwise(written_s))
    newest = max(0.0, now_s - written_s[-1])
    return list(itertools.accumulate(reversed(list(gaps)), initial=newest))[::-1]


def measure(folder: Path, version: int) -> Stored | None:
    """Size and time of a version directory; None when it is gone."""
    try:
        with os.scandir(folder) as entries:
            stats = {entry.name: entry.stat(follow_symlinks=False) for entry in entries}
        written = stats["manifest.json"] if "manifest.json" in stats else folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    size = sum(stat.st_size for stat in stats.values())
    return Stored(version=version, size_bytes=size, written_s=written.st_mtime)
