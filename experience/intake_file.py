"""Read a claimed file once, safely, and keep the bytes that were read.

The client may still hold the file open; so what is parsed is a copy that only the daemon writes, and a later
attempt parses the same bytes. Nothing but a regular file of one name is opened: no link is followed, no fifo
waited for.
"""

import contextlib
import errno
import hashlib
import os
import stat
from typing import NamedTuple

from experience.codec.contract import Limits
from experience.errors import InputError, reject

_DIGEST_BYTES = 32
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_COPY_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
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


StrPath = str | os.PathLike[str]
"""A ``Path`` takes as long to make as a small file to open, so text is taken as well."""


def read_claimed(claimed: StrPath, work: StrPath, limits: Limits) -> ClaimedFile:
    """Return the bytes of ``claimed``, from the copy at ``work`` when an earlier attempt left a whole one.

    The copy is the bytes followed by their sha256, so that one cut short by a kill or damaged by a power cut
    is made again. A copy that cannot be written (a full disk) is no fault of the file: its bytes are used all
    the same.

    Raises:
        InputError: ``not_regular``, ``too_large`` or ``unreadable``.
    """
    status = _checked_status(claimed, limits)
    kept = _read_copy(work, limits)
    if kept is not None:
        return ClaimedFile(kept, hashlib.sha256(kept).hexdigest(), status.st_mtime)
    data = _read(claimed, status, limits)
    digest = hashlib.sha256(data)
    with contextlib.suppress(OSError):
        _write_copy(work, data, digest.digest())
    return ClaimedFile(data, digest.hexdigest(), status.st_mtime)


def drop_copy(work: StrPath) -> None:
    """Forget the bytes of a file that was cut short, so that the next attempt sees it grown."""
    with contextlib.suppress(OSError):
        os.unlink(work)  # noqa: PTH108 - may be text


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


def _write_copy(work: StrPath, data: bytes, digest: bytes) -> None:
    """Write in place: half a copy does not match its digest, and is no copy."""
    file = os.open(work, _COPY_FLAGS, 0o666)
    try:
        written = os.writev(file, (data, digest))
    finally:
        os.close(file)
    if written < len(data) + len(digest):
        os.unlink(work)  # noqa: PTH108 - quicker than Path.unlink


def _read_copy(work: StrPath, limits: Limits) -> bytes | None:
    if not os.path.lexists(work):
        return None  # as nearly always
    room = Limits(max_file_bytes=limits.max_file_bytes + _DIGEST_BYTES)
    try:
        content = _read(work, os.lstat(work), room)
    except (OSError, InputError):
        return None
    data = content[:-_DIGEST_BYTES]
    return data if hashlib.sha256(data).digest() == content[-_DIGEST_BYTES:] else None
