"""A disk that records: a FUSE file system, without a library, with one file to put a loop device on.

One thread answers one request after the other, so the order on the tape is the order in which the block
layer's writes and flushes were carried out. The kernel caches nothing (direct I/O): a write is on the tape
before the file system above hears that it is done, and a flush of the block layer arrives as an fsync. What
is written to ``marks`` goes onto the same tape.

Arguments: mount point, image, tape. Prints "ready" when it is mounted; ends when it is unmounted.
"""

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path

from power.tape import FLUSH, MARK, WRITE, encode

IN_HEADER = struct.Struct("<IIQQIIIHH")
OUT_HEADER = struct.Struct("<IiQ")
ATTRIBUTES = struct.Struct("<QQQQQQIIIIIIIIII")
READ_OR_WRITE = struct.Struct("<QQIIQII")
MOST_BYTES = 1 << 20
ROOT, DISK, MARKS = 1, 2, 3
NAMES = {b"disk": DISK, b"marks": MARKS}
FOLDER_MODE, FILE_MODE = 0o040755, 0o100600
DIRECT_IO = 1
BIG_WRITES, MAX_PAGES = 1 << 5, 1 << 22
FORGET, INTERRUPT, BATCH_FORGET = 2, 36, 42
MS_NOSUID, MS_NODEV = 2, 4
FOREVER_S = 3600


class RecordingDisk:
    """Answers the kernel's requests.

    Args:
        device: /dev/fuse, opened and mounted.
        image: the disk's content, opened for reading and writing.
        tape: where to record.
    """

    def __init__(self, device: int, image: int, tape: int) -> None:
        self._device, self._image, self._tape = device, image, tape
        self._size = os.fstat(image).st_size
        self._handlers: dict[int, Callable[[int, bytes], bytes]] = {
            1: self._lookup,
            3: self._attributes,
            4: self._attributes,
            14: self._open,
            15: self._read,
            16: self._write,
            17: lambda _node, _body: bytes(80),  # statfs
            18: lambda _node, _body: b"",  # release
            20: self._fsync,
            26: self._init,
        }

    def serve(self) -> None:
        """Answer until unmounted."""
        while True:
            try:
                request = os.read(self._device, MOST_BYTES + 4096)
            except InterruptedError:
                continue
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                raise
            _, opcode, unique, node, *_ = IN_HEADER.unpack_from(request)
            if opcode not in (FORGET, INTERRUPT, BATCH_FORGET):
                self._answer(unique, opcode, node, request[IN_HEADER.size :])

    def _answer(self, unique: int, opcode: int, node: int, body: bytes) -> None:
        try:
            error, reply = 0, self._handlers.get(opcode, _not_implemented)(node, body)
        except OSError as failure:
            error, reply = -(failure.errno or errno.EIO), b""
        os.write(self._device, OUT_HEADER.pack(OUT_HEADER.size + len(reply), error, unique) + reply)

    def _init(self, _node: int, body: bytes) -> bytes:
        _, minor, readahead, offered = struct.unpack_from("<IIII", body)
        flags = offered & (BIG_WRITES | MAX_PAGES)
        pages = MOST_BYTES // 4096
        head = struct.pack(
            "<IIIIHHIIHH", 7, min(minor, 36), readahead, flags, 16, 12, MOST_BYTES, 1, pages, 0
        )
        return head.ljust(64, b"\0")

    def _lookup(self, _node: int, body: bytes) -> bytes:
        node = NAMES.get(body.rstrip(b"\0"))
        if node is None:
            raise OSError(errno.ENOENT, "no such file")
        return struct.pack("<QQQQII", node, 0, FOREVER_S, FOREVER_S, 0, 0) + self._attributes_of(node)

    def _attributes(self, node: int, _body: bytes) -> bytes:
        return struct.pack("<QII", FOREVER_S, 0, 0) + self._attributes_of(node)

    def _attributes_of(self, node: int) -> bytes:
        size = self._size if node == DISK else 0
        mode = FOLDER_MODE if node == ROOT else FILE_MODE
        return ATTRIBUTES.pack(node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)

    def _open(self, _node: int, _body: bytes) -> bytes:
        return struct.pack("<QII", 0, DIRECT_IO, 0)

    def _read(self, node: int, body: bytes) -> bytes:
        _, offset, size, *_ = READ_OR_WRITE.unpack_from(body)
        return os.pread(self._image, size, offset) if node == DISK else b""

    def _write(self, node: int, body: bytes) -> bytes:
        _, offset, size, *_ = READ_OR_WRITE.unpack_from(body)
        data = body[READ_OR_WRITE.size : READ_OR_WRITE.size + size]
        if node == DISK:
            os.pwrite(self._image, data, offset)
            self._record(encode(WRITE, offset, data))
        else:
            self._record(encode(MARK, 0, data))
        return struct.pack("<II", size, 0)

    def _fsync(self, node: int, _body: bytes) -> bytes:
        if node == DISK:
            self._record(encode(FLUSH))
        return b""

    def _record(self, entry: bytes) -> None:
        rest = memoryview(entry)
        while rest:
            rest = rest[os.write(self._tape, rest) :]


def _not_implemented(_node: int, _body: bytes) -> bytes:
    raise OSError(errno.ENOSYS, "not implemented")


def mount(point: Path) -> int:
    """Mount a FUSE file system; returns the descriptor to serve it by."""
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"power", os.fsencode(point), b"fuse", MS_NOSUID | MS_NODEV, options):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(point))
    return device


def main(point: str, image: str, tape: str) -> None:
    """Serve ``image`` at ``point``."""
    image_fd = os.open(image, os.O_RDWR | os.O_CLOEXEC)
    tape_fd = os.open(tape, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    disk = RecordingDisk(mount(Path(point)), image_fd, tape_fd)
    print("ready", flush=True)
    disk.serve()


if __name__ == "__main__":
    main(*sys.argv[1:])
