"""The decoder process as its parent sees it: started, given jobs, heard and stopped."""

import contextlib
import fcntl
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path

from experience import wire
from experience.errors import BadFrame
from experience.in_hand import NONE, InHandFile

_PIPE_BYTES = 2**20
"""How far the child reads ahead while the learner is busy: 60 files of 15 kB."""
_CHUNK_BYTES = 2**18
"""Of job lines, at a time."""


class DecoderFailed(Exception):  # noqa: N818 - what became of it, not an error of the caller
    """The child ended, overran its deadline or wrote what is no frame."""


class DecoderProcess:
    """The process and its two pipes, read and written without blocking.

    Args:
        arguments: the process's settings, in JSON.
        max_frame_bytes: a longer frame is none.

    Attributes:
        in_hand: number of the job that it worked on when it was stopped; NONE where that is not known.
        is_trusted: whether all that it answered made sense.
    """

    def __init__(self, arguments: str, max_frame_bytes: int) -> None:
        self.in_hand, self._in_hand, self.is_trusted = NONE, InHandFile(), True
        descriptor = self._in_hand.descriptor
        command = [sys.executable, "-P", "-m", "experience.decode_child", arguments, str(descriptor)]
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=_environment(),
                bufsize=0,
                pass_fds=[descriptor],
            )
        except BaseException:
            self._in_hand.close()
            raise
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        for pipe in (self._input, self._output):
            os.set_blocking(pipe.fileno(), False)
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._output.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._max_frame_bytes = max_frame_bytes
        self._unsent = memoryview(b"")
        self._poll = select.poll()
        self._poll.register(self._output, select.POLLIN)
        self._stopped = threading.Event()
        self._in_use = threading.Lock()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    @property
    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._process.returncode

    def send(self, data: bytes) -> None:
        """Write what fits into the pipe; the rest goes out while results are waited for.

        Raises:
            DecoderFailed: it was stopped.
        """
        with self._in_use:
            if self._stopped.is_set():
                raise DecoderFailed
            self._in_hand.clear()
            self._unsent = memoryview(data)
            self._poll.register(self._input, select.POLLOUT)
            self._write_some()

    def send_more(self, data: bytes) -> None:
        """Put ``data`` behind what was sent."""
        with self._in_use:
            if data and not self._stopped.is_set():
                self._unsent = memoryview(bytes(self._unsent) + data)
                self._poll.register(self._input, select.POLLOUT)
                self._write_some()

    def receive(self, deadline_s: float) -> list[wire.Message]:
        """Wait for the next frame, and write what is queued meanwhile; return the messages in it.

        Args:
            deadline_s: seconds to wait.

        Raises:
            DecoderFailed: it ended, was stopped, or none came in time.
        """
        until_s = time.monotonic() + deadline_s
        with self._in_use:
            if self._stopped.is_set():
                raise DecoderFailed
            try:
                if self._unsent:
                    self._write_some()
                prefix = self._read(wire.PREFIX.size, until_s)
                return wire.decode(prefix, self._read(self._announced_bytes(prefix), until_s))
            except BadFrame as error:
                self.distrust()
                raise DecoderFailed from error
            except OSError as error:
                raise DecoderFailed from error

    def distrust(self) -> None:
        """It answered with nonsense: what it has in hand by now need not be the job that is waited for."""
        self.is_trusted = False

    def _announced_bytes(self, prefix: bytearray) -> int:
        size_bytes = wire.frame_bytes(prefix)
        if size_bytes > self._max_frame_bytes:
            raise BadFrame(f"{size_bytes} bytes; accepted: {self._max_frame_bytes}")
        return size_bytes

    def _read(self, size_bytes: int, until_s: float) -> bytearray:
        """Read so many bytes into where they stay."""
        data = bytearray(size_bytes)
        left = memoryview(data)
        while left:
            count = self._read_some(left)
            if not count:
                self._wait(until_s)
            left = left[count:]
        return data

    def _read_some(self, room: memoryview) -> int:
        """Read what is there; 0 when nothing is."""
        try:
            count = os.readv(self._output.fileno(), [room])
        except BlockingIOError:
            return 0
        if not count:
            raise DecoderFailed
        return count

    def _wait(self, until_s: float) -> None:
        """Wait until there is something to read, and write what is queued meanwhile."""
        left_s = until_s - time.monotonic()
        if left_s <= 0 or self._stopped.is_set():
            raise DecoderFailed
        for descriptor, _ in self._poll.poll(1000 * left_s + 1):
            if descriptor == self._input.fileno():
                self._write_some()

    def _write_some(self) -> None:
        """Write what fits. When the child has gone, what it answered before must still be read."""
        try:
            self._unsent = self._unsent[os.write(self._input.fileno(), self._unsent[:_CHUNK_BYTES]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._unsent = memoryview(b"")
        if not self._unsent:
            self._poll.unregister(self._input)

    def stop(self) -> None:
        """Kill the process, and close the pipes once nobody waits on them."""
        self._stopped.set()
        self._process.kill()
        self._process.wait()
        with self._in_use:
            self.in_hand = self._in_hand.read()
            self._in_hand.close()
            self._input.close()
            self._output.close()


def _environment() -> dict[str, str]:
    """The package's own folder first; one BLAS thread, and an allocator that gives memory back."""
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    allocator = {
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": "1048576",
        "MALLOC_TRIM_THRESHOLD_": "16777216",  # else what a file took is asked for again by the next
        "ARROW_DEFAULT_MEMORY_POOL": "system",  # the others reserve address space ahead
    }
    return {**os.environ, **threads, **allocator, "PYTHONPATH": path}
