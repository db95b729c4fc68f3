"""``learnerd status``, from the command to its end: what a shell prompt or a health check pays."""

import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from speed_figures import Figure
from speed_site import scratch

ROOT = Path(__file__).parents[2]
STATUS = (sys.executable, "-m", "learnerd", "status", "--config")
MEMORY = """
import os, resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def measure(*, small):
    """Processor seconds, which a busy neighbor lengthens less than it does the wait, and peak memory."""
    with scratch() as folder:
        config = folder / "config.toml"
        config.write_text("")
        command = [*STATUS, str(config)]
        runs = [_run(command) for _ in range(3 if small else 15)]
        peak = subprocess.run(
            [sys.executable, "-c", MEMORY, *command], env=_env(), capture_output=True, text=True, check=True
        )
        empty = [_run([sys.executable, "-c", ""]) for _ in range(3)]
    parts = {
        "wait, s": statistics.median(wait_s for _, wait_s in runs),
        "of which an empty interpreter, s of processor": statistics.median(busy_s for busy_s, _ in empty),
    }
    busy_s = statistics.median(busy_s for busy_s, _ in runs)
    return [
        Figure(work="learnerd status, processor time", value=busy_s, unit="s", most=0.3, parts=parts),
        Figure(work="learnerd status, peak memory", value=int(peak.stdout) / 1024, unit="MB", most=45.0),
    ]


def _env():
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def _run(command):
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, env=_env(), stdout=subprocess.DEVNULL, check=False)
    wait_s = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wait_s
