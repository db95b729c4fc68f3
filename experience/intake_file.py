"""Read a claimed file once, safely, and keep the bytes that were read.

The client may still hold the file open; so what is parsed is a copy that only the daemon writes, and a later
attempt parses the same bytes. Nothing but a regular file of one name is opened: no link is followed, no fifo
waited for.
"""

import errno
import hashlib
import os
import stat
from typing import NamedTuple

from experience.codec.contract import Limits
from experience.errors import InputError, reject
from experience.work_file import StrPath, WorkFile

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_ACCEPTED = "a regular file with one name: no folder, link, fifo, socket or device"


class ClaimedFile(NamedTuple):
    """What was read.

    Attributes:
        data: the file's bytes.
        sha256: their hex digest.
        mtime_s: when the claimed file was last written, UTC.
    """

    data: bytes
    sha256: str
    mtime_s: float


def read_claimed(claimed: StrPath, work: WorkFile, slot: int, limits: Limits) -> ClaimedFile:
    """Return the bytes of ``claimed``, from their copy in ``work`` where an earlier attempt left a whole one.

    Args:
        claimed: the client's file.
        work: where copies are kept.
        slot: in which place there.
        limits: what a file may hold.

    Raises:
        InputError: ``not_regular``, ``too_large`` or ``unreadable``.
    """
    status = _checked_status(claimed, limits)
    kept = work.read(slot)
    if kept is not None:
        return ClaimedFile(kept, hashlib.sha256(kept).hexdigest(), status.st_mtime)
    data = _read(claimed, status, limits)
    digest = hashlib.sha256(data)
    work.keep(slot, data, digest.digest())
    return ClaimedFile(data, digest.hexdigest(), status.st_mtime)


def _checked_status(path: StrPath, limits: Limits) -> os.stat_result:
    try:
        status = os.lstat(path)
    except OSError as error:
        raise _unreadable(error) from error
    _check(status, limits)
    return status


def _check(status: os.stat_result, limits: Limits) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise reject(
            "not_regular", "file type", _KINDS.get(stat.S_IFMT(status.st_mode), "unknown"), _ACCEPTED
        )
    if status.st_nlink != 1:
        raise reject("not_regular", "file links", f"{status.st_nlink} names", _ACCEPTED)
    if status.st_size > limits.max_file_bytes:
        raise _too_large(status.st_size, limits)


_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a fifo",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


def _too_large(size_bytes: int, limits: Limits) -> InputError:
    return reject("too_large", "file size", f"{size_bytes} bytes", f"at most {limits.max_file_bytes} bytes")


def _unreadable(error: OSError) -> InputError:
    return reject(
        "unreadable", "file", error.strerror or str(error), "a file that the daemon's user may read"
    )


def _read(path: StrPath, expected: os.stat_result, limits: Limits) -> bytes:
    try:
        file = os.open(path, _FLAGS)
        try:
            status = os.fstat(file)
            if (status.st_dev, status.st_ino) != (expected.st_dev, expected.st_ino):
                raise reject("not_regular", "file", "replaced while it was opened", _ACCEPTED)
            _check(status, limits)
            return _read_all(file, status.st_size, limits)
        finally:
            os.close(file)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise reject("not_regular", "file type", "a symbolic link", _ACCEPTED) from error
        raise _unreadable(error) from error


def _read_all(descriptor: int, size_bytes: int, limits: Limits) -> bytes:
    """Read to the end, which may come later or sooner than ``size_bytes`` when somebody still writes."""
    parts: list[bytes] = []
    total = 0
    while part := os.read(descriptor, max(size_bytes - total, 0) + 1):
        parts.append(part)
        total += len(part)
        if total > limits.max_file_bytes:
            raise _too_large(total, limits)
    return parts[0] if len(parts) == 1 else b"".join(parts)
