"""Promise 2: after a power cut no version is torn, and none that was acknowledged is gone.

A whole learnerd works on a file system whose disk is recorded write by write and flush by flush. For each
trial a disk is built as a power cut may leave it (everything flushed, and any part of what was not, down to
single sectors), the kernel mounts it and replays its journal, and what is there is judged before and after
the daemon has started on it. Needs root, loop devices, /dev/fuse, util-linux; XFS and btrfs need their mkfs.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from outcome import Outcome
from power.devices import FILE_SYSTEMS, FileSystem, missing

NUMBER = 2
PROMISE = "Power cut: no torn version, no acknowledged version vanishes"
FULL = 1200
SAMPLE = 6

CAMPAIGN = Path(__file__).parent
NAMESPACE = (
    "setpriv",
    "--pdeathsig",
    "KILL",
    "unshare",
    "--mount",
    "--propagation",
    "private",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
)
LEAST_TRIALS = 100  # a file system with fewer is not worth its recording
MOST_VIOLATIONS = 50


def run(*, trials: int, seed: int, progress: Callable[[int], None]) -> Outcome:
    """Cut the power ``trials`` times, spread over the file systems that this machine has."""
    if reason := _unprivileged():
        return Outcome(trials=0, violations=(), figure="not run", skipped=f"NOT RUN: {reason}")
    reasons = {system.name: missing(system) for system in FILE_SYSTEMS}
    systems = [system for system in FILE_SYSTEMS if not reasons[system.name]]
    if not systems:
        return Outcome(
            trials=0, violations=(), figure="not run", skipped=f"NOT RUN: {'; '.join(reasons.values())}"
        )
    used = systems[: max(1, trials // LEAST_TRIALS)]
    violations: list[str] = []
    done: Counter[str] = Counter()
    writes = 0
    for i, system in enumerate(used):
        share = trials * (i + 1) // len(used) - trials * i // len(used)
        for line in _lines(system, share, seed):
            done[system.name] += line.get("image", 0)
            writes += line.get("figures", {}).get("writes", 0)
            violations += [line["violation"]] if "violation" in line else []
            progress(done.total())
    skipped = "; ".join(f"{name} not run: {reason}" for name, reason in reasons.items() if reason)
    figure = f"{_figure(done)}; cut from {writes:,} recorded writes; {len(violations)} violations"
    return Outcome(
        trials=done.total(), violations=tuple(violations[:MOST_VIOLATIONS]), figure=figure, skipped=skipped
    )


def _figure(done: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,} images" for name, count in done.items())


def _unprivileged() -> str:
    """Why power cuts cannot be staged here; "" when they can."""
    if os.geteuid() != 0:
        return "power cuts need root, to mount file systems"
    devices = [name for name in ("/dev/fuse", "/dev/loop-control") if not Path(name).exists()]
    programs = ("setpriv", "unshare", "losetup", "mount", "umount")
    commands = [name for name in programs if shutil.which(name) is None]
    if devices or commands:
        return f"power cuts need {', '.join(devices + commands)}"
    probe = subprocess.run(
        [*NAMESPACE, "mount", "-t", "tmpfs", "probe", "/mnt"], capture_output=True, check=False
    )
    return "" if probe.returncode == 0 else f"no mounts here: {probe.stderr.decode().strip()}"


def _lines(system: FileSystem, trials: int, seed: int) -> Iterator[dict]:
    """Run the trials in a process of their own: its end, however it comes, undoes every mount."""
    path = os.pathsep.join((str(CAMPAIGN), str(CAMPAIGN.parents[1])))
    command = [*NAMESPACE, sys.executable, "-m", "power.trial", system.name, str(trials), str(seed)]
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="power-"))
        environment = {**os.environ, "PYTHONPATH": path, "TMPDIR": folder, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        stack.enter_context(process)
        stack.callback(process.kill)
        assert process.stdout is not None
        yield from map(json.loads, process.stdout)
        process.wait()
    if process.returncode != 0:
        yield {"violation": f"{system.name}: the trials ended with exit code {process.returncode}"}
