"""A daemon as a process of its own, for the benchmarks that look at it from outside."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from speed_site import SPEC

ROOT = Path(__file__).parents[2]
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


class Daemon:
    """``learnerd run`` in ``folder``, which holds spool and state."""

    def __init__(self, folder, settings):
        self.folder, self.state, self.spool = folder, folder / "state", folder / "spool"
        self._config = folder / "config.toml"
        policy = f"[policy]\nobservation_shape = {list(SPEC.observation_shape)}\n"
        action = f'action = {{ kind = "discrete", n = {SPEC.action.n} }}\n'
        self._config.write_text(policy + action + settings)

    def run(self, *arguments):
        """Start it; ``arguments`` follow ``learnerd run``."""
        command = [sys.executable, "-m", "learnerd", "run", *arguments, "--config", str(self._config)]
        with (self.folder / "daemon.log").open("ab") as log:
            return subprocess.Popen(
                command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=log, stderr=log
            )

    def version(self):
        """What CURRENT names; 0 before the first."""
        try:
            return int((self.state / "CURRENT").read_text())
        except FileNotFoundError:
            return 0

    def status(self):
        """The last status document that it wrote; None before the first."""
        try:
            return json.loads((self.state / "status.json").read_bytes())
        except FileNotFoundError:
            return None

    def wait_until_ready(self, process, timeout_s=120.0):
        until_s = time.monotonic() + timeout_s
        while (document := self.status()) is None or document["daemon"]["state"] != "running":
            if process.poll() is not None or time.monotonic() > until_s:
                raise RuntimeError((self.folder / "daemon.log").read_text()[-2000:])
            time.sleep(0.05)


@contextmanager
def running(daemon):
    """A daemon that is ready; stopped at the end."""
    process = daemon.run()
    try:
        daemon.wait_until_ready(process)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=120)


def family(pid):
    """A process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(member for child in children for member in family(int(child)))]


def busy_s(pid):
    """Processor seconds of a process and its children so far."""
    fields = [Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split() for one in family(pid)]
    return sum(int(each[11]) + int(each[12]) for each in fields) / TICKS_A_SECOND


def memory_mb(pid):
    """Resident memory of a process and its children; what they share counts once for each."""
    sizes = [Path(f"/proc/{one}/statm").read_text().split()[1] for one in family(pid)]
    return sum(int(size) for size in sizes) * os.sysconf("SC_PAGE_SIZE") / 2**20
