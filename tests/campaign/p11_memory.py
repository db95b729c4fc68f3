"""Promise 11: memory is flat: in training and publishing, in the decoder, and when nothing happens.

The processes' own memory, that is. The ids of pruned versions lie in mapped files, 40 bytes an episode; what
of them is in memory is the system's cache.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from live import ROOT, Live, drop, episode_text
from memory_driver import own_bytes
from outcome import Outcome

NUMBER = 11
PROMISE = "Memory is flat"
FULL = 10_000
SAMPLE = 60

LIMIT_MB = 1.0
WARM_UP = 0.25
"""The first part of the samples, in which libraries allocate what they keep."""
FILES_A_BATCH = 5
SAMPLES = 200
IDLE_S_A_BATCH = 0.012
LEAST_IDLE_S = 5.0
NOISE_MB, SHORT, SHORT_NOISE_MB = 4.0, 1_000, 16.0
"""A short run's slope says little: pages come and go, and batches differ in size up to sixtyfold. What it
grew by in all must be small then."""


def run(*, trials, seed, progress):
    """``trials`` batches, as many with replay, five times as many decoded files, and an idle daemon."""
    memory = Path("/dev/shm")
    parent = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="p11-", dir=parent))
    try:
        curves = {
            "batches": _drive("train", folder / "train", trials, seed, progress),
            "batches with replay": _drive("replay", folder / "replay", trials, seed, lambda _: None),
            "decoded files": _drive(
                "decode", folder / "decode", trials * FILES_A_BATCH, seed, lambda _: None
            ),
        }
        if trials * IDLE_S_A_BATCH >= LEAST_IDLE_S:
            curves["idle rounds"] = _idle(folder / "idle", trials * IDLE_S_A_BATCH)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    slopes = {name: slope_mb(curve) for name, curve in curves.items()}
    noise_mb = NOISE_MB if trials >= SHORT else SHORT_NOISE_MB
    violations = [
        f"{name}: {slope:.2f} MB per 1,000 after warm-up"
        for name, slope in slopes.items()
        if slope >= LIMIT_MB and growth_mb(curves[name]) >= noise_mb
    ]
    figure = "MB per 1,000 after warm-up: " + ", ".join(
        f"{name} {slope:+.3f} (at {curves[name][-1][1] / 2**20:.0f} MB after {curves[name][-1][0]:,.0f})"
        for name, slope in slopes.items()
    )
    return Outcome(trials=trials, violations=tuple(violations), figure=figure)


def slope_mb(curve):
    """Least-squares slope after the warm-up, in MB per 1,000."""
    done, resident = np.array(_warm(curve), float).T
    return float(np.polyfit(done / 1000.0, resident / 1e6, 1)[0])


def growth_mb(curve):
    """How much more the last samples are than the first after the warm-up, in MB."""
    resident = [sample[1] for sample in _warm(curve)]
    part = max(1, len(resident) // 5)
    return (np.median(resident[-part:]) - np.median(resident[:part])) / 1e6


def _warm(curve):
    return curve[int(len(curve) * WARM_UP) :]


def _drive(part, folder, count, seed, progress):
    """Run one part in a process of its own; returns [(done, bytes of its own memory)]."""
    folder.mkdir()
    every = max(1, count // SAMPLES)
    driver = Path(__file__).with_name("memory_driver.py")
    command = [sys.executable, str(driver), part, str(folder), str(count), str(every), str(seed)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    curve = []
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            done, resident = map(int, line.split())
            curve.append((done, resident))
            progress(done)
    if process.returncode != 0:
        raise RuntimeError(f"the {part} part ended with {process.returncode}")
    shutil.rmtree(folder)
    return curve


def _idle(folder, seconds):
    """A real daemon with nothing to do, but woken often by files that it must not touch."""
    config = (
        '[policy]\nobservation_shape = [2]\naction = { kind = "discrete", n = 2 }\n'
        "[schedule]\nrescan_s = 0.05\n"
    )
    curve, rounds = [], 0
    with Live(folder, config=config) as live:
        live.start()
        drop(live.inbox, "one", episode_text("one", ended_at=time.time()))
        live.wait(live.learned, what="one episode to be learned")
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            (live.inbox / ".ignored").write_text("")
            (live.inbox / ".ignored").unlink()
            rounds += 1
            curve.append((rounds, own_bytes(live.process.pid)))
            time.sleep(0.02)
        live.stop()
    return curve
