"""Flushing: the files of a version written, and all of them made durable at once.

A disk takes what waits together in one go, so that every flush waits in a thread of its own. Where an fsync
takes half a millisecond, futures and an executor would cost as much again: hence bare queues.
"""

import functools
import os
import threading
from collections.abc import Callable, Iterable, Mapping
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
            os.close(descriptor)


def close_later(descriptor: int) -> None:
    """Close a file that nobody waits for: where it has no name any more, the disk frees it first."""
    _waiting().put((os.close, descriptor, _Outcomes()))


def _begin(descriptor: int) -> None:
    """Let the kernel begin to write a file.

    A journaling file system then has a place for each when the first flush commits, so that the others need
    no commit of their own.
    """
    if hasattr(os, "posix_fadvise"):  # a hint, and not everywhere
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def _flush(descriptors: Iterable[int]) -> None:
    first, *others = descriptors
    outcomes = _Outcomes()
    for descriptor in others:
        _waiting().put((os.fsync, descriptor, outcomes))
    errors = [_outcome(os.fsync, first), *(outcomes.get() for _ in others)]
    for error in errors:
        if error is not None:
            raise error


def _outcome(call: _Call, descriptor: int) -> BaseException | None:
    try:
        call(descriptor)
    except BaseException as error:  # noqa: BLE001 - raised by the caller, when all have come back
        return error
    return None


@functools.cache
def _waiting() -> SimpleQueue[_Job]:
    """What the threads take from. They stay: to start one takes as long as an fsync on a quick disk."""
    queue: SimpleQueue[_Job] = SimpleQueue()
    for number in range(_THREADS):
        threading.Thread(target=_serve, args=(queue,), name=f"fsync-{number}", daemon=True).start()
    return queue


def _serve(queue: SimpleQueue[_Job]) -> None:
    while True:
        call, descriptor, outcomes = queue.get()
        outcomes.put(_outcome(call, descriptor))


os.register_at_fork(after_in_child=_waiting.cache_clear)  # a child has none of the threads
