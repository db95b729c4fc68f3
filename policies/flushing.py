"""Flushing: the files of a version written, and all of them made durable at once.

A disk takes what waits together in one go, so that every flush waits in a thread of its own. Where an fsync
takes half a millisecond, futures and an executor would cost as much again: hence bare queues.

Whoever takes a descriptor from the queue closes it. So no interrupt makes the caller close one, whose number
may soon be another file's, that a thread has yet to flush.
"""

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Mapping
from queue import SimpleQueue

_THREADS = 6
"""Beside the caller's: a version has four or five files, a folder and the next CURRENT."""
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_Outcomes = SimpleQueue[BaseException | None]
_Call = Callable[[int], None]
_Job = tuple[_Call, int, _Outcomes]


def write_new(files: Mapping[str, bytes], *, folder: str) -> None:
    """Write files that are not there yet, and make them and the names in a folder durable.

    Args:
        files: path -> content.
        folder: the folder.

    Raises:
        OSError: some of it is not there, or not durable. An fsync that failed must not be repeated on the
            same data: the kernel may have dropped the pages, and would report success the second time.
    """
    opened: list[int] = []
    try:
        for path, data in files.items():
            opened.append(os.open(path, _NEW, 0o666))
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(opened[-1], rest) :]
        for descriptor in opened:
            _begin(descriptor)
        opened.append(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        _flush(opened)
    finally:
        for descriptor in opened:
            _outcome(os.close, descriptor)  # what went wrong before is raised


def close_later(descriptor: int) -> None:
    """Close a file that nobody waits for: where it has no name any more, the disk frees it first."""
    _hand_over(os.close, descriptor, _Outcomes())


def _begin(descriptor: int) -> None:
    """Let the kernel begin to write a file.

    A journaling file system then has a place for each when the first flush commits, so that the others need
    no commit of their own.
    """
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):  # a hint, and not everywhere
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def _flush(opened: list[int]) -> None:
    """Flush and close all; what is left in ``opened`` is the caller's to close."""
    outcomes, count = _Outcomes(), len(opened)
    while len(opened) > 1:
        _hand_over(_fsync_and_close, opened.pop(1), outcomes)
    outcomes.put(_outcome(_fsync_and_close, opened.pop()))
    for error in [outcomes.get() for _ in range(count)]:
        if error is not None:
            raise error


def _fsync_and_close(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _hand_over(call: _Call, descriptor: int, outcomes: _Outcomes) -> None:
    waiting = _waiting()
    if waiting is None:
        outcomes.put(_outcome(call, descriptor))
    else:
        waiting.put((call, descriptor, outcomes))


def _outcome(call: _Call, descriptor: int) -> BaseException | None:
    try:
        call(descriptor)
    except BaseException as error:  # noqa: BLE001 - raised by the caller, when all have come back
        return error
    return None


@functools.cache
def _waiting() -> SimpleQueue[_Job] | None:
    """What the threads take from; None where none can be started, as when the interpreter ends.

    They stay: to start one takes as long as an fsync on a quick disk.
    """
    queue: SimpleQueue[_Job] = SimpleQueue()
    serve = functools.partial(threading.Thread, target=_serve, args=(queue,), daemon=True)
    threads = [serve(name=f"fsync-{number}") for number in range(_THREADS)]
    with contextlib.suppress(RuntimeError):
        for thread in threads:
            thread.start()
    return queue if threads[0].is_alive() else None


def _serve(queue: SimpleQueue[_Job]) -> None:
    while True:
        call, descriptor, outcomes = queue.get()
        outcomes.put(_outcome(call, descriptor))


os.register_at_fork(after_in_child=_waiting.cache_clear)  # a child has none of the threads
