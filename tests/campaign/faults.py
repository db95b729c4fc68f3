"""Faults at the calls through which Python code changes a file system: kills, torn writes and OS errors.

Counted are open for writing, write, fsync, ftruncate, rename, replace, link, symlink, unlink, mkdir and
rmdir, of regular files and folders, from every thread of this process.
"""

import contextlib
import errno
import io
import os
import random
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

KILLED = 77
NAMES = (
    "fsync",
    "fdatasync",
    "ftruncate",
    "rename",
    "replace",
    "link",
    "symlink",
    "unlink",
    "mkdir",
    "rmdir",
)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens at the k-th call.

    Attributes:
        k: which call, from 0.
        kind: "kill" (the call is not made), "torn" (a write is half made, then the process is gone), "error"
            (the call fails), "flaky" (from the k-th call on, each fails with probability 1/8).
        number: the errno of "error" and "flaky".
        lasts: how many calls fail, from the k-th on.
        then_kill: the process is gone after the last of them; else the disk works again.
        only: the calls that are counted; all when empty.
    """

    k: int
    kind: str
    number: int = 0
    lasts: int = 1
    then_kill: bool = False
    only: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"{self.kind} at call {self.k}"
        if self.number:
            end = ", then a kill" if self.then_kill else ""
            text += f" ({errno.errorcode[self.number]}, {self.lasts} times{end})"
        return f"{text} of {'/'.join(self.only)}" if self.only else text


class Injector:
    """Counts calls, and brings about one fault.

    Args:
        fault: None: only count.
        last_words: called with a description of the call before the process is ended.
        watcher: is told of every call that is let through or failed, as ``(name, arguments, error, call)``;
            it makes the call itself by ``call()``. None: nobody watches.
        seed: of "flaky".
    """

    def __init__(
        self,
        fault: Fault | None,
        *,
        last_words: Callable[[str], None] = lambda _: None,
        watcher=None,
        seed: int = 0,
    ) -> None:
        self.fault = fault
        self.calls: list[str] = []
        self.hits: list[str] = []
        self._last_words = last_words
        self._watcher = watcher
        self._random = random.Random(seed)
        self._lock = threading.RLock()
        self._off = False

    def stop(self) -> None:
        """Let everything through from now on."""
        self._off = True

    def call(self, name: str, real: Callable, *args, **keywords):
        """Make the call, or fail, or end the process."""
        if self._off:
            return real(*args, **keywords)
        if self._watcher is None:
            error = self._next(name, args, real)
            if error is not None:
                raise error
            return real(*args, **keywords)
        with self._lock:
            error = self._next(name, args, real)
            return self._watcher(name, args, error, lambda: real(*args, **keywords))

    def _next(self, name: str, args: tuple, real: Callable) -> OSError | None:
        with self._lock:
            fault = self.fault
            if fault is not None and fault.only and name not in fault.only:
                return None
            at = len(self.calls)
            self.calls.append(name)
            if fault is None or at < fault.k:
                return None
            if fault.kind in ("kill", "torn"):
                self._end(name, args, real if fault.kind == "torn" and name == "write" else None)
            if fault.kind == "flaky" and self._random.random() > 1 / 8:
                return None
            if len(self.hits) >= fault.lasts:
                if fault.then_kill:
                    self._end(name, args, None)
                return None
            self.hits.append(_describe(name, args))
            return OSError(fault.number, f"injected at {name}")

    def _end(self, name: str, args: tuple, write: Callable | None) -> None:
        if write is not None:
            with contextlib.suppress(OSError):
                write(args[0], bytes(memoryview(args[1]).cast("B"))[: memoryview(args[1]).nbytes // 2])
        self._last_words(_describe(name, args))
        os._exit(KILLED)


class _Descriptor:
    """A raw file whose every write is a counted call, as Path.write_bytes and .write_text make them."""

    def __init__(self, injector: Injector, raw: io.FileIO) -> None:
        self._injector = injector
        self._raw = raw

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._raw.close()

    def __getattr__(self, name):
        return getattr(self._raw, name)

    def write(self, data):
        payload = data.encode() if isinstance(data, str) else data
        self._injector.call("write", _write_fd, self._raw.fileno(), payload)
        return len(data)


_real_write = os.write
_real_open = io.open


def _write_fd(descriptor: int, data) -> int:
    rest = memoryview(data).cast("B")
    while rest:
        rest = rest[_real_write(descriptor, rest) :]
    return len(data)


@contextlib.contextmanager
def injected(injector: Injector) -> Iterator[Injector]:
    """Put an injector under ``os`` and ``io`` for a while."""
    saved = {name: getattr(os, name) for name in (*NAMES, "open", "write")}

    def counted(name: str, real: Callable) -> Callable:
        return lambda *args, **keywords: injector.call(name, real, *args, **keywords)

    def open_(path, flags, *args, **keywords):
        if not flags & WRITING:
            return saved["open"](path, flags, *args, **keywords)
        return injector.call("open", saved["open"], path, flags, *args, **keywords)

    def write(descriptor, data):
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return saved["write"](descriptor, data)
        return injector.call("write", saved["write"], descriptor, data)

    def io_open(file, mode="r", *args, **keywords):
        if isinstance(file, int) or not set(mode) & set("wax+"):
            return _real_open(file, mode, *args, **keywords)
        assert mode in ("w", "wb"), mode
        return _Descriptor(
            injector,
            injector.call("open", lambda name, _: io.FileIO(name, "w"), file, os.O_WRONLY | os.O_TRUNC),
        )

    try:
        for name in NAMES:
            setattr(os, name, counted(name, saved[name]))
        os.open, os.write, io.open = open_, write, io_open
        yield injector
    finally:
        injector.stop()
        for name, real in saved.items():
            setattr(os, name, real)
        io.open = _real_open


def _describe(name: str, args: tuple) -> str:
    shown = [os.fspath(a) if isinstance(a, os.PathLike) else a for a in args[:2]]
    named = []
    for argument in shown:
        if isinstance(argument, str):
            named.append("/".join(argument.split("/")[-3:]))
        elif isinstance(argument, int) and not named and name in ("fsync", "write", "ftruncate"):
            with contextlib.suppress(OSError):
                named.append("/".join(str(Path(f"/proc/self/fd/{argument}").readlink()).split("/")[-3:]))
    return f"{name}({', '.join(named)})"
