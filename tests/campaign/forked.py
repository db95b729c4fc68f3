"""Children of a process that has loaded everything: a trial costs milliseconds instead of seconds."""

import gc
import json
import os
import select
import signal
import time
import traceback
from collections.abc import Callable
from typing import Any

HUNG_S = 60.0


class Report:
    """The child's end of a pipe; what was said last counts, also when the child is gone right after."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._write = os.write  # the real one, before any fault is put in
        self.said: dict[str, Any] = {}

    def say(self, **fields: Any) -> None:
        self.said |= fields
        self._write(self._descriptor, json.dumps(self.said).encode() + b"\n")


def in_child(job: Callable[[Report], None], *, timeout_s: float = HUNG_S) -> dict[str, Any]:
    """Run ``job`` in a fork; return what it said, with ``status`` (exit code, negative for a signal)."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(ours)
            gc.disable()
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 2)
            report = Report(theirs)
            try:
                job(report)
                status = 0
            except BaseException:  # noqa: BLE001 - whatever it is, the parent is told
                report.say(crash=traceback.format_exc()[-1500:])
        finally:
            os._exit(status)
    os.close(theirs)
    said = _read(ours, pid, timeout_s)
    os.close(ours)
    _, status = os.waitpid(pid, 0)
    return {**said, "status": os.waitstatus_to_exitcode(status)}


def _read(descriptor: int, pid: int, timeout_s: float) -> dict[str, Any]:
    data, until_s = b"", time.monotonic() + timeout_s
    while True:
        ready, _, _ = select.select([descriptor], [], [], max(0.0, until_s - time.monotonic()))
        part = os.read(descriptor, 1 << 16) if ready else b""
        if not ready:
            os.kill(pid, signal.SIGKILL)
        if not part:
            break
        data += part
    lines = data.split(b"\n")[:-1]
    return {} if not lines else json.loads(lines[-1])
