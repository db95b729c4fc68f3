"""Decoder: parses inbound files in a child process with limits on memory and time.

A file can crash its parser, exhaust memory or hang; here that costs one child process and one verdict. The
child is a fresh interpreter (never a fork of a process that holds torch), started on first use.
"""

import contextlib
import json
import threading
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from experience import wire
from experience.codec.contract import Decoded, Limits
from experience.decode_child import settings_json
from experience.decoder_process import DecoderFailed, DecoderProcess
from experience.errors import DecoderDied, Problem
from experience.in_hand import NONE, SEVERAL

DEFAULT_ADDRESS_SPACE_BYTES = 512 * 2**20
"""numpy and pyarrow map 288 MB of it; a file of 64 MiB with 128 MiB decoded fits into the rest."""
DEFAULT_DEADLINE_S = 30.0
"""The largest accepted file takes under 5 s on a slow machine."""

_START_DEADLINE_S = 60.0
TOGETHER = 16
"""Jobs that the child works on in step: beyond, nothing is gained."""


@dataclass(frozen=True, kw_only=True)
class DecodeJob:
    """One claimed file.

    Attributes:
        claim_path: the claimed file.
        work_path: the work file that the daemon's own copy of it goes to.
        name: the name that the client gave it; its extension decides the format.
        ingested_at: when it was first seen, UTC seconds.
        slot: in which place of the work file.
    """

    claim_path: str
    work_path: str
    name: str
    ingested_at: float
    slot: int = 0


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


_Jobs = Sequence[tuple[int, DecodeJob]]
"""With their numbers."""

Meanwhile = Callable[[], Iterable[DecodeJob]]


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
        self._child: DecoderProcess | None = None
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
        self, jobs: Sequence[DecodeJob], *, meanwhile: Meanwhile = lambda: ()
    ) -> Iterator[DecodeResult]:
        """Yield one result a job, in order; the child works ahead while the caller looks at them.

        Ends early when ``close`` is called meanwhile. Leaving the iterator before its end stops the child.

        Args:
            jobs: the files.
            meanwhile: what must be done before the first result counts, and returns further jobs; the child
                has begun by then.

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
        self, jobs: Sequence[DecodeJob], *, meanwhile: Meanwhile = lambda: ()
    ) -> Generator[list[DecodeResult], None, None]:
        """As ``decode``, in lists of what has come together: at least one each."""
        left = deque(enumerate(jobs))
        died: set[int] = set()
        together = TOGETHER
        while left and not self._closed:
            child = None
            groups = _groups([each for each in left if each[0] not in died], together)
            try:
                with contextlib.suppress(DecoderFailed):
                    child = self._begin(groups)
                    more = list(enumerate(meanwhile(), len(jobs)))
                    meanwhile = lambda: ()  # noqa: E731 - once, however many children it takes
                    if child is not None:
                        left += more
                        groups += _groups(more, together)
                        child.send_more(_lines(_groups(more, together)))
                        yield from self._results(child, left, died)
            finally:
                if left:
                    self._drop_child()
            if left and not self._closed:
                culprit = _culprit(child, [number for number, _ in left if number not in died], groups)
                if culprit is None:
                    together = 1  # each alone, it shows
                    continue
                died.add(culprit)
                if dead := _dead(left, died):
                    yield dead

    def _begin(self, groups: Sequence[_Jobs]) -> DecoderProcess | None:
        """Give a child the jobs that are left; None when closed."""
        child = self._ready_child()
        if child is not None:
            child.send(_lines(groups))
        return child

    def _results(
        self, child: DecoderProcess, left: deque[tuple[int, DecodeJob]], died: set[int]
    ) -> Iterator[list[DecodeResult]]:
        """Yield results and take their jobs off ``left``, until the child fails."""
        while left:
            messages = child.receive(self._deadline_s)
            results: list[DecodeResult] = []
            expected = True
            for message in messages:
                expected = bool(left) and _answers(message, left[0][0])
                if not expected:
                    break
                results += [_result(left.popleft()[1], message), *_dead(left, died)]
            if results:
                yield results
            if not expected:
                child.distrust()
                raise DecoderFailed

    def close(self) -> None:
        """Stop the child at once; nothing that it does needs finishing."""
        self._closed = True
        self._drop_child()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ready_child(self) -> DecoderProcess | None:
        """Start a child if none runs; None when closed."""
        if self._child is not None and not self._child.is_running():
            self._drop_child()
        with self._lock:
            if self._closed or self._child is not None:
                return self._child
            child = self._child = DecoderProcess(self._arguments, self._max_frame_bytes)
        try:
            child.receive(_START_DEADLINE_S)
        except DecoderFailed as error:
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


def _answers(message: wire.Message, number: int) -> bool:
    """Whether it says what became of the job with this number."""
    return message.job == number and (message.decoded is None) != (message.problem is None)


def _result(job: DecodeJob, message: wire.Message) -> DecodeResult:
    return DecodeResult(job=job, decoded=message.decoded, problem=message.problem, mtime=message.mtime_s)


def _culprit(child: DecoderProcess | None, numbers: Sequence[int], groups: Sequence[_Jobs]) -> int | None:
    """Number of the job that ended the child, of those without an answer; None: it cannot be told.

    The one in hand, or the first. After nonsense in place of an answer the one in hand may be far ahead of
    what was wrong: then, as where several were in hand, it is the first, if that was read alone.
    """
    in_hand = NONE if child is None else child.in_hand
    if child is None or (child.is_trusted and in_hand != SEVERAL):
        return in_hand if in_hand in numbers else numbers[0]
    beside = next(group for group in groups if numbers[0] in dict(group))
    return numbers[0] if len(beside) == 1 else None


def _dead(left: deque[tuple[int, DecodeJob]], died: Collection[int]) -> list[DecodeResult]:
    """Take those that died off the front of ``left``."""
    dead = []
    while left and left[0][0] in died:
        dead.append(DecodeResult(job=left.popleft()[1], died=True))
    return dead


def _groups(left: _Jobs, together: int) -> list[_Jobs]:
    """As many at a time as the child is to work on together."""
    return [left[at : at + together] for at in range(0, len(left), together)]


def _lines(groups: Iterable[_Jobs]) -> bytes:
    """Groups as the child takes them."""
    return b"".join(
        [
            json.dumps([{"job": number, **vars(job)} for number, job in group]).encode() + b"\n"
            for group in groups
        ]
    )
