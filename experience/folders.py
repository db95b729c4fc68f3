"""Folders: listing, measuring and emptying them, without following links and however deep they are nested."""

import contextlib
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from experience.ids import uuid7

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SETTLED_NS = 2_000_000_000
"""A folder changed more recently may change again within the same tick of its timestamp."""
_QUICK_S = 0.005
"""A folder of a thousand files; what takes no longer is read whenever it has changed."""
_PAUSE = 100.0
"""Times its own cost between two readings of a folder that takes longer: a hundredth of the time at most."""


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """List a folder; one that is missing is empty."""
    try:
        with os.scandir(folder) as scan:
            return list(scan)
    except FileNotFoundError:
        return []


def subfolders(folder: Path) -> list[Path]:
    """List the folders in a folder, by name."""
    return sorted(folder / entry.name for entry in entries(folder) if entry.is_dir(follow_symlinks=False))


def remove(path: Path) -> bool:
    """Remove whatever ``path`` is; return whether it is gone."""
    with contextlib.suppress(OSError):
        if stat.S_ISDIR(path.lstat().st_mode):
            _remove_folder(path)
        else:
            path.unlink(missing_ok=True)
    return not os.path.lexists(path)


def _remove_folder(path: Path) -> None:
    """Remove a tree that a stranger made: its folders may be swapped for links meanwhile, or nested at will.

    So every step goes through descriptors, and folders are moved up first, where rmtree would recurse.
    """
    top = os.open(path, _FOLDER_FLAGS)
    try:
        pending = _clear(top, top)
        while pending:
            name = pending.pop()
            folder = os.open(name, _FOLDER_FLAGS, dir_fd=top)
            try:
                pending += _clear(folder, top)
            finally:
                os.close(folder)
            os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    path.rmdir()


def _clear(folder: int, top: int) -> list[str]:
    """Unlink the files in ``folder``, move its folders to ``top``, and return their names there."""
    with os.scandir(folder) as scan:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in scan]
    moved = []
    for name, is_folder in found:
        if not is_folder:
            os.unlink(name, dir_fd=folder)
        elif folder == top:
            moved.append(name)
        else:
            moved.append(uuid7())
            os.rename(name, moved[-1], src_dir_fd=folder, dst_dir_fd=top)
    return moved


def tree_bytes(path: Path) -> int:
    """Add up the sizes of the files at ``path`` and below; what cannot be read counts as nothing."""
    try:
        status = path.lstat()
        return FolderSizes().measure(path) if stat.S_ISDIR(status.st_mode) else _bytes_on_disk(status)
    except OSError:
        return 0


class _Measured(NamedTuple):
    """What a folder held. ``changed_ns`` is None where it may have changed within the same tick since."""

    changed_ns: int | None
    own_bytes: int
    below: list[str]
    again_s: float


class FolderSizes:
    """Measures trees of files that are renamed into place: an unchanged folder is not read again.

    One with so many files that reading it takes a while is read again only after a multiple of that while,
    however often it changes: its figure is that old. Works on text, not Paths: these take quadratic time in
    the depth of the nesting.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._known: dict[str, _Measured] = {}
        self._clock = clock

    def measure(self, folder: Path) -> int:
        """Add up the sizes of the files in ``folder`` and below, in bytes; a missing one is empty."""
        total, pending = 0, [str(folder)]
        while pending:
            own_bytes, below = self._measure_one(pending.pop())
            total += own_bytes
            pending += below
        return total

    def _measure_one(self, folder: str) -> tuple[int, list[str]]:
        known = self._known.pop(folder, None)
        try:
            changed_ns = os.lstat(folder).st_mtime_ns
            if known is None or (known.changed_ns != changed_ns and self._clock() >= known.again_s):
                known = self._measured(folder, changed_ns)
        except OSError:
            return 0, []
        self._known[folder] = known
        return known.own_bytes, known.below

    def _measured(self, folder: str, changed_ns: int) -> _Measured:
        begun_s = time.thread_time()
        own_bytes, below = _read(folder)
        cost_s = time.thread_time() - begun_s
        settled = time.time_ns() - changed_ns > _SETTLED_NS
        again_s = self._clock() + (_PAUSE * cost_s if cost_s > _QUICK_S else 0.0)
        return _Measured(changed_ns if settled else None, own_bytes, below, again_s)


def _read(folder: str) -> tuple[int, list[str]]:
    own_bytes, below = 0, []
    with os.scandir(folder) as scan:
        for entry in scan:
            with contextlib.suppress(FileNotFoundError):
                if entry.is_dir(follow_symlinks=False):
                    below.append(entry.path)
                else:
                    own_bytes += _bytes_on_disk(entry.stat(follow_symlinks=False))
    return own_bytes, below


def _bytes_on_disk(status: os.stat_result) -> int:
    """Its size, or less for a sparse file: one of a terabyte that takes nothing must not push others out."""
    return min(status.st_size, status.st_blocks * 512)
