"""Decoder: parses inbound files in a child process with limits on memory and time.

A file can crash its parser, exhaust memory or hang; here that costs one child process and one verdict. The
child is a fresh interpreter (never a fork of a process that holds torch), started on first use.
"""

import contextlib
import fcntl
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from experience import wire
from experience.codec.contract import Decoded, Limits
from experience.decode_child import settings_json
from experience.errors import BadFrame, DecoderDied, Problem
from experience.in_hand import NONE, InHandFile

DEFAULT_ADDRESS_SPACE_BYTES = 512 * 2**20
"""numpy and pyarrow map 288 MB of it; a file of 64 MiB with 128 MiB decoded fits into the rest."""
DEFAULT_DEADLINE_S = 30.0
"""The largest accepted file takes under 5 s on a slow machine."""

_START_DEADLINE_S = 60.0
_PIPE_BYTES = 2**20
"""How far the child reads ahead while the learner is busy: 60 files of 15 kB."""
_CHUNK_BYTES = 2**18
_MANY_JOBS, _GATHER_S = 8, 0.002
"""While many results are to come, about ten of small files at a time: where both processes share a core, each
switch between them costs them what they have in the caches."""
TOGETHER = 16
"""Jobs that the child works on in step: beyond, nothing is gained."""


@dataclass(frozen=True, kw_only=True)
class DecodeJob:
    """One claimed file.

    Attributes:
        claim_path: the claimed file.
        work_path: where the daemon's own copy of it goes.
        name: the name that the client gave it; its extension decides the format.
        ingested_at: when it was first seen, UTC seconds.
    """

    claim_path: str
    work_path: str
    name: str
    ingested_at: float


@dataclass(frozen=True, kw_only=True)
class DecodeResult:
    """What became of one job: exactly one of ``decoded``, ``problem`` and ``died`` is set.

    Attributes:
        job: the job.
        decoded: the file's episodes, and a problem for each bad one.
        problem: why the whole file cannot be read.
        died: the child ended or overran its deadline on this file.
        mtime: when the claimed file was last written, UTC seconds; 0 unless ``decoded``.
    """

    job: DecodeJob
    decoded: Decoded | None = None
    problem: Problem | None = None
    died: bool = False
    mtime: float = 0.0


class Decoder:
    """Runs jobs in a child process. One thread decodes; ``close`` may come from another.

    Args:
        limits: what a file may hold.
        address_space_bytes: RLIMIT_AS of the child.
        deadline_s: longest time without a result while one is waited for.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        address_space_bytes: int = DEFAULT_ADDRESS_SPACE_BYTES,
        deadline_s: float = DEFAULT_DEADLINE_S,
    ) -> None:
        self._arguments = settings_json(limits or Limits(), address_space_bytes)
        self._max_frame_bytes = address_space_bytes
        self._deadline_s = deadline_s
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._closed = False

    @property
    def pid(self) -> int | None:
        """The child's process id; None when none runs."""
        child = self._child
        return child.pid if child else None

    def start(self) -> None:
        """Start the child unless it runs, and wait until it is ready; ``decode`` does so too.

        Raises:
            DecoderDied: the child cannot be started.
        """
        self._ready_child()

    def decode(
        self, jobs: Sequence[DecodeJob], *, meanwhile: Callable[[], object] = lambda: None
    ) -> Iterator[DecodeResult]:
        """Yield one result a job, in order; the child works ahead while the caller looks at them.

        Ends early when ``close`` is called meanwhile. Leaving the iterator before its end stops the child.

        Args:
            jobs: the files.
            meanwhile: what must be done before the first result counts; the child has begun by then.

        Raises:
            DecoderDied: the child cannot be started.
        """
        try:
            for some in self.decode_some(jobs, meanwhile=meanwhile):
                yield from some
        except GeneratorExit:
            self._drop_child()
            raise

    def decode_some(
        self, jobs: Sequence[DecodeJob], *, meanwhile: Callable[[], object] = lambda: None
    ) -> Generator[list[DecodeResult], None, None]:
        """As ``decode``, in lists of what has come together: at least one each."""
        left = deque(enumerate(jobs))
        died: set[int] = set()
        while left and not self._closed:
            child = None
            try:
                with contextlib.suppress(_ChildFailedError):
                    child = self._begin([each for each in left if each[0] not in died])
                    meanwhile()
                    meanwhile = lambda: None  # noqa: E731 - once, however many children it takes
                    if child is not None:
                        yield from self._results(child, left, died)
            finally:
                if left:
                    self._drop_child()
            if left and not self._closed:
                died.add(_culprit(child, [number for number, _ in left if number not in died]))
                if dead := _dead(left, died):
                    yield dead

    def _begin(self, left: Sequence[tuple[int, DecodeJob]]) -> "_Child | None":
        """Give a child the jobs that are left; None when closed."""
        child = self._ready_child()
        if child is not None:
            child.send(_lines(left))
        return child

    def _results(
        self, child: "_Child", left: deque[tuple[int, DecodeJob]], died: set[int]
    ) -> Iterator[list[DecodeResult]]:
        """Yield results and take their jobs off ``left``, until the child fails."""
        while left:
            messages = child.receive(self._deadline_s, gather=len(left) >= _MANY_JOBS)
            results: list[DecodeResult] = []
            expected = True
            for message in messages:
                expected = bool(left) and message.job == left[0][0]
                if not expected:
                    break
                results += [_result(left.popleft()[1], message), *_dead(left, died)]
            if results:
                yield results
            if not expected:
                raise _ChildFailedError

    def close(self) -> None:
        """Stop the child at once; nothing that it does needs finishing."""
        self._closed = True
        self._drop_child()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ready_child(self) -> "_Child | None":
        """Start a child if none runs; None when closed."""
        if self._child is not None and not self._child.is_running():
            self._drop_child()
        with self._lock:
            if self._closed or self._child is not None:
                return self._child
            child = self._child = _Child(self._arguments, self._max_frame_bytes)
        try:
            child.receive(_START_DEADLINE_S)
        except _ChildFailedError as error:
            self._drop_child()
            if self._closed:
                return None
            raise DecoderDied(f"the decoder process did not start (exit status {child.status})") from error
        return child

    def _drop_child(self) -> None:
        with self._lock:
            child, self._child = self._child, None
        if child is not None:
            child.stop()


class _ChildFailedError(Exception):
    """The child ended, overran its deadline or wrote what is no frame."""


class _Child:
    """The process and its two pipes, read and written without blocking.

    Attributes:
        in_hand: number of the job that it worked on when it was stopped.
    """

    def __init__(self, arguments: str, max_frame_bytes: int) -> None:
        self.in_hand, self._in_hand = NONE, InHandFile()
        descriptor = self._in_hand.descriptor
        command = [sys.executable, "-P", "-m", "experience.decode_child", arguments, str(descriptor)]
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_environment(),
            bufsize=0,
            pass_fds=[descriptor],
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        for pipe in (self._input, self._output):
            os.set_blocking(pipe.fileno(), False)
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._output.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._max_frame_bytes = max_frame_bytes
        self._received, self._chunk = bytearray(), bytearray(_CHUNK_BYTES)
        self._unsent = memoryview(b"")
        self._gather_s = 0.0
        self._poll = select.poll()
        self._poll.register(self._output, select.POLLIN)
        self._stopped = threading.Event()
        self._in_use = threading.Lock()

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_running(self) -> bool:
        return self._process.poll() is None

    @property
    def status(self) -> int | None:
        return self._process.returncode

    def send(self, data: bytes) -> None:
        """Write what fits into the pipe; the rest goes out while results are waited for."""
        self._in_hand.clear()
        self._unsent = memoryview(data)
        self._poll.register(self._input, select.POLLOUT)
        self._write_some()

    def receive(self, deadline_s: float, *, gather: bool = False) -> list[wire.Message]:
        """Wait for the next frame, and write what is queued meanwhile; return all that have come by then.

        Args:
            deadline_s: seconds to wait.
            gather: when it has to wait, let some more frames come, so as not to be woken by each.
        """
        until_s = time.monotonic() + deadline_s
        self._gather_s = _GATHER_S if gather else 0.0
        with self._in_use:
            if self._stopped.is_set():
                raise _ChildFailedError
            try:
                frames = [self._frame(until_s)]
                while self._has_frame():
                    frames.append(self._frame(until_s))
                return [wire.decode(prefix, rest) for prefix, rest in frames]
            except (BadFrame, OSError) as error:
                raise _ChildFailedError from error

    def _frame(self, until_s: float) -> tuple[bytes, bytes]:
        prefix = self._read(wire.PREFIX.size, until_s)
        size_bytes = wire.frame_bytes(prefix)
        if size_bytes > self._max_frame_bytes:
            raise _ChildFailedError
        return prefix, self._read(size_bytes, until_s)

    def _has_frame(self) -> bool:
        """Whether all of the next frame has come."""
        prefix = bytes(self._received[: wire.PREFIX.size])
        return len(prefix) == wire.PREFIX.size and len(self._received) >= len(prefix) + wire.frame_bytes(
            prefix
        )

    def _read(self, size_bytes: int, until_s: float) -> bytes:
        while len(self._received) < size_bytes:
            if self._unsent or not self._fill():
                self._wait(until_s)
        result = bytes(memoryview(self._received)[:size_bytes])
        del self._received[:size_bytes]
        return result

    def _wait(self, until_s: float) -> None:
        left_s = until_s - time.monotonic()
        if left_s <= 0 or self._stopped.is_set():
            raise _ChildFailedError
        for descriptor, _ in self._poll.poll(1000 * left_s + 1):
            if descriptor == self._output.fileno():
                time.sleep(self._gather_s)
                self._fill()
            else:
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

    def _fill(self) -> bool:
        """Read what is there; False when nothing is."""
        try:
            count = os.readv(self._output.fileno(), [self._chunk])
        except BlockingIOError:
            return False
        if not count:
            raise _ChildFailedError
        self._received += memoryview(self._chunk)[:count]
        return True

    def stop(self) -> None:
        """Kill the process, and close the pipes once nobody waits on them."""
        self._stopped.set()
        self._process.kill()
        self._process.wait()
        self.in_hand = self._in_hand.read()
        self._in_hand.close()
        with self._in_use:
            self._input.close()
            self._output.close()


def _result(job: DecodeJob, message: wire.Message) -> DecodeResult:
    return DecodeResult(job=job, decoded=message.decoded, problem=message.problem, mtime=message.mtime_s)


def _culprit(child: _Child | None, numbers: Sequence[int]) -> int:
    """Number of the job that ended the child: the one in hand, or the first."""
    in_hand = NONE if child is None else child.in_hand
    return in_hand if in_hand in numbers else numbers[0]


def _dead(left: deque[tuple[int, DecodeJob]], died: Collection[int]) -> list[DecodeResult]:
    """Take those that died off the front of ``left``."""
    dead = []
    while left and left[0][0] in died:
        dead.append(DecodeResult(job=left.popleft()[1], died=True))
    return dead


def _lines(left: Sequence[tuple[int, DecodeJob]]) -> bytes:
    """The jobs as the child takes them, so many a line as it works on together."""
    jobs = [{"job": number, **vars(job)} for number, job in left]
    groups = [jobs[at : at + TOGETHER] for at in range(0, len(jobs), TOGETHER)]
    return b"".join(json.dumps(group).encode() + b"\n" for group in groups)


def _environment() -> dict[str, str]:
    """The package's own folder first; one BLAS thread, and an allocator that gives memory back."""
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    allocator = {
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": "1048576",
        "ARROW_DEFAULT_MEMORY_POOL": "system",  # the others reserve address space ahead
    }
    return {**os.environ, **threads, **allocator, "PYTHONPATH": path}
