"""Processes: what the demo starts, and how it is certain to end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from learnerd.errors import LearnerdError

LAUNCHER = Path(__file__).with_name("launch.py")
LAST_CHARACTERS = 2000
POLL_S = 0.05


class ProcessEnded(LearnerdError):  # noqa: N818 - a fact about the process
    """A process of the demo ended by itself."""

    def __init__(self, *, name: str, status: int, log: Path) -> None:
        how = f"exit code {status}" if status >= 0 else f"signal {-status}"
        super().__init__(f"the {name} ended by itself ({how}); its log: {log}\n{last_lines(log)}".rstrip())


@dataclass(frozen=True, kw_only=True)
class _Running:
    process: subprocess.Popen[bytes]
    log: Path


class Processes:
    """A group of child processes, none of which outlives the ``with`` block or this process.

    Each runs in a session of its own, so that Ctrl-C reaches this process alone, and output goes to files, so
    that no child ever waits for a reader.

    Args:
        folder: working directory and home of the logs.
        environment: of every process.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = dict(environment)
        self._running: dict[str, _Running] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for running in self._running.values():
            _kill(running.process)

    def start(self, name: str, arguments: Sequence[str]) -> Path:
        """Start ``python ARGUMENTS``; returns the file that takes its standard output.

        Standard error goes to ``<name>.log`` beside it.
        """
        output, log = self._folder / f"{name}.out", self._folder / f"{name}.log"
        argv = [sys.executable, str(LAUNCHER), str(os.getpid()), sys.executable, *arguments]
        with output.open("wb") as stdout, log.open("wb") as stderr:
            process = subprocess.Popen(  # noqa: S603 - our own programs
                argv,
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        self._running[name] = _Running(process=process, log=log)
        return output

    def check(self) -> None:
        """Notice a process that is gone.

        Raises:
            ProcessEnded: naming it, how it ended and its log's last lines.
        """
        for name, running in self._running.items():
            status = running.process.poll()
            if status is not None:
                raise ProcessEnded(name=name, status=status, log=running.log)

    def stop(self, *names: str, timeout_s: float, hurry: Callable[[], bool] = lambda: False) -> bool:
        """Send SIGTERM to the named processes and wait for them.

        Args:
            names: which.
            timeout_s: after that they are killed.
            hurry: they are killed as soon as it says so.

        Returns:
            Whether all of them ended in time.
        """
        chosen = [self._running[name].process for name in names if name in self._running]
        for process in chosen:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline_s = time.monotonic() + timeout_s
        while any(process.poll() is None for process in chosen):
            if hurry() or time.monotonic() > deadline_s:
                for process in chosen:
                    _kill(process)
                return False
            time.sleep(POLL_S)
        return True


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process, and what it started in its session, at once; does nothing when it has ended."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def last_lines(log: Path) -> str:
    """The end of a log, as much of it as belongs on a screen."""
    try:
        text = log.read_text(errors="replace")
    except OSError:
        return ""
    return text[-LAST_CHARACTERS:].strip()
