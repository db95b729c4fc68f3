"""Work files: the daemon's own copies of claimed files, those of up to sixteen claims in one file.

A file of its own for each would cost more than all else that is done with a small one. A copy is
``<8s L Q``: mark, slot, size; then the bytes, then their sha256. One that was cut short by a kill, or
damaged by a power cut, is no copy: the next one takes its place. The mark follows from the file's name, which
no client knows: whatever the damage, nothing within a client's bytes is taken for a copy.
"""

import contextlib
import hashlib
import os
import struct
from types import TracebackType
from typing import Self

StrPath = str | os.PathLike[str]
"""A ``Path`` takes as long to make as a small file to open, so text is taken as well."""

SLOTS = 16
"""Copies in one file: as many files as are decoded together."""

_HEAD = struct.Struct("<8sLQ")
_MARK_BYTES = 8
_DIGEST_BYTES = 32
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


class WorkFile:
    """The copies in one file, as the one process uses it that writes there now.

    What cannot be read or written (a full disk, say) is no fault of the claimed file: then there is no copy,
    and a file that is there and could not be looked through stays as it is.

    Args:
        path: of the file; made when the first copy is kept.
    """

    def __init__(self, path: StrPath) -> None:
        self._path = path
        self._mark = hashlib.sha256(os.fsencode(os.path.basename(path))).digest()[:_MARK_BYTES]  # noqa: PTH119 - text
        self._file: int | None = None
        self._places: dict[int, tuple[int, int]] = {}
        self._end = 0
        with contextlib.suppress(OSError):
            self._file = os.open(path, _FLAGS)
        try:
            if self._file is not None:
                self._find_all(self._file)
        except OSError:
            self.close()

    def _find_all(self, file: int) -> None:
        size_bytes = os.fstat(file).st_size
        while len(head := os.pread(file, _HEAD.size, self._end)) == _HEAD.size:
            mark, slot, n_bytes = _HEAD.unpack(head)
            end = self._end + _HEAD.size + n_bytes + _DIGEST_BYTES
            if mark != self._mark or end > size_bytes:
                break
            self._places[slot] = self._end + _HEAD.size, n_bytes
            self._end = end
        if self._end < size_bytes:
            os.ftruncate(file, self._end)  # or the rest of it might be taken for a copy behind the next one

    def read(self, slot: int) -> bytes | None:
        """Return the bytes kept in ``slot``; None when there are none."""
        if self._file is None or slot not in self._places:
            return None  # as nearly always
        begin, n_bytes = self._places[slot]
        try:
            content = os.pread(self._file, n_bytes + _DIGEST_BYTES, begin)
        except OSError:
            return None
        data, digest = content[:n_bytes], content[n_bytes:]
        return data if hashlib.sha256(data).digest() == digest else None

    def keep(self, slot: int, data: bytes, digest: bytes) -> None:
        """Keep ``data``, whose sha256 is ``digest``: all of it or nothing."""
        with contextlib.suppress(OSError):
            if self._file is None:
                self._file = os.open(self._path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o666)
            end = self._end + _HEAD.size + len(data) + _DIGEST_BYTES
            pieces = _HEAD.pack(self._mark, slot, len(data)), data, digest
            if self._end + os.pwritev(self._file, pieces, self._end) < end:
                os.ftruncate(self._file, self._end)
                return
            self._places[slot] = self._end + _HEAD.size, len(data)
            self._end = end

    def drop(self, slot: int) -> None:
        """Forget what was kept in ``slot``."""
        if self._file is not None and slot in self._places:
            begin, n_bytes = self._places.pop(slot)
            with contextlib.suppress(OSError):
                os.pwrite(self._file, bytes(_DIGEST_BYTES), begin + n_bytes)

    def close(self) -> None:
        """Let go of the file."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):  # some file systems find out only now that they are full
                os.close(file)


class WorkFiles:
    """Those that are in use; closed at the end of a ``with``."""

    def __init__(self) -> None:
        self._open: dict[str, WorkFile] = {}

    def at(self, path: str) -> WorkFile:
        """Return the work file at ``path``."""
        if path not in self._open:
            self._open[path] = WorkFile(path)
        return self._open[path]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for work in self._open.values():
            work.close()
