"""The daemon's side of the dashboard: a process that is started, watched, started again, never waited for."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import structlog

from learnerd.config import Config

log = structlog.get_logger(__name__)

PACKAGES = Path(__file__).parents[2]
RETRY_S = 10.0
END_S = 5.0


class DashboardProcess:
    """Keeps the dashboard running, from a thread of its own.

    Args:
        config: handed over as it is in force here.

    Attributes:
        problem: why it does not run; None when it does.
    """

    def __init__(self, config: Config, *, retry_s: float = RETRY_S) -> None:
        self._config = config
        self._retry_s = retry_s
        self._stop = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self.problem: str | None = None
        self._thread = threading.Thread(target=self._run, name="dashboard", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._stop.set()
        if self._process is not None:
            self._process.terminate()
        self._thread.join(timeout=END_S)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._serve()
            except OSError as error:
                self._failed(str(error))
            self._stop.wait(self._retry_s)

    def _serve(self) -> None:
        """Run one process to its end."""
        path = os.pathsep.join(filter(None, (str(PACKAGES), os.environ.get("PYTHONPATH"))))
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "learnerd.dashboard"],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the daemon, which drains first
        )
        self._process = process
        with process:
            if self._stop.is_set():
                process.terminate()
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(self._config.model_dump_json() + "\n")
                process.stdin.flush()
            said = _parse(process.stdout.readline())
            if "url" in said:
                self.problem = None
                log.info("dashboard_ready", url=said["url"])
            status = process.wait()
        if not self._stop.is_set():
            self._failed(said.get("problem") or f"its process ended with status {status}")

    def _failed(self, problem: str) -> None:
        self.problem = problem


def _parse(line: str) -> dict[str, str]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
