"""Folders: listing, measuring and emptying them, without following links and however deep they are nested."""

import contextlib
import os
import stat
import time
from pathlib import Path

from experience.ids import uuid7

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SETTLED_NS = 2_000_000_000
"""A folder changed more recently may change again within the same tick of its timestamp."""


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


class FolderSizes:
    """Measures trees of files that are renamed into place: an unchanged folder is not read again.

    Works on text, not Paths: these take quadratic time in the depth of the nesting.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, int, list[str]]] = {}

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
            if known is None or known[0] != changed_ns:
                known = (changed_ns, *_read(folder))
        except OSError:
            return 0, []
        if time.time_ns() - changed_ns > _SETTLED_NS:
            self._known[folder] = known
        return known[1], known[2]


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
