"""Writes that survive a crash: either the old file is there or the whole new one.

An fsync that failed is never repeated on the same data: the kernel may have dropped the pages and would
report success the second time. Every OSError ends the write and removes what was written aside; a caller that
tries again writes anew.
"""

import contextlib
import os
from pathlib import Path

from experience.ids import uuid7

ASIDE = ".tmp-"
"""How the name of a file begins that is not complete yet."""


def write_atomic(path: Path, data: bytes | memoryview, *, sync: bool = True) -> None:
    """Replace ``path`` by ``data``: write aside, fsync, rename, fsync the folder.

    Args:
        path: a file in a folder that exists.
        data: its new content.
        sync: False leaves out both fsyncs: nobody sees half a file, but a power cut may undo it.

    Raises:
        OSError: ``path`` is as it was, or (when only the folder's fsync failed) new but perhaps not durable.
    """
    aside = path.with_name(f"{ASIDE}{uuid7()}")
    try:
        _write_new(aside, memoryview(data).cast("B"), sync=sync)
        aside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise
    if sync:
        fsync_folder(path.parent)


def fsync_folder(path: Path) -> None:
    """Flush the names in ``path`` to the disk."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def make_folder(path: Path) -> None:
    """Create ``path`` and the folders above it where they are missing, durably."""
    try:
        path.mkdir()
    except FileExistsError:
        if not path.is_dir():
            raise
        return
    except FileNotFoundError:
        make_folder(path.parent)
        make_folder(path)
        return
    try:
        fsync_folder(path.parent)
    except OSError:
        with contextlib.suppress(OSError):
            path.rmdir()  # else the next call would take it for durable
        raise


def _write_new(path: Path, data: memoryview, *, sync: bool) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        while data:
            data = data[os.write(file, data) :]
        if sync:
            os.fsync(file)
    finally:
        os.close(file)
