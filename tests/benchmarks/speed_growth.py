"""Cost as work grows: steps a second of processor, and memory, with a thousand to ten million spooled.

A run also costs what it costs to publish once and to end; so each size is held against the one before, and
the rate is that of the steps between them. Processor seconds, of daemon and decoder together, as a run of
many minutes meets more and less busy times.
"""

import itertools
import os
import shutil
import time

import numpy as np
from speed_daemon import Daemon, busy_s, memory_mb
from speed_figures import Figure
from speed_site import SPEC, deposit, episodes, scratch

from policies.initial import initial_checkpoint

SIZES = (10**3, 10**5, 10**6, 10**7)
SMALL_SIZES = (10**3, 10**4)
STEPS = 1000
SETTINGS = "[learner]\nepochs = 1\nminibatches = 1\n"  # the learner's own speed is measured elsewhere
SETTLED_S = 60.0
LOOK_S = 0.02


def measure(*, small):
    """The slowest later rate in the first, and the largest daemon in the smallest."""
    used, sizes = {}, {}
    for wanted in SMALL_SIZES if small else SIZES:
        with scratch() as folder:
            steps, used_s, sizes[wanted] = _run(folder, wanted)
            used[steps] = used_s
    parts = {f"{steps:,} steps, s": used_s for steps, used_s in used.items()}
    memory = {f"{steps:,} steps, MB": size for steps, size in sizes.items()}
    rates = [(more - less) / max(used[more] - used[less], LOOK_S) for less, more in itertools.pairwise(used)]
    parts |= {f"steps/s up to {steps:,}": rate for steps, rate in zip(list(used)[1:], rates, strict=True)}
    slowest = min(rates[1:], default=rates[0]) / rates[0]
    largest = max(sizes.values()) / min(sizes.values())
    return [
        Figure(
            work="steps a second of processor as the spool grows, slowest in first",
            value=slowest,
            unit="x",
            least=0.8,
            parts=parts,
        ),
        Figure(
            work="memory as the spool grows, most in least", value=largest, unit="x", most=1.5, parts=memory
        ),
    ]


def _run(folder, steps):
    """Steps, seconds of processor between READY and the end, and the peak of its memory in MB."""
    daemon = Daemon(folder, SETTINGS)
    inbox = daemon.spool / "in"
    made = episodes(1, policy=initial_checkpoint(SPEC, seed=0), steps=STEPS, version=0)
    total = _fill(folder, inbox, made, steps)
    process = daemon.run("--until-idle")
    daemon.wait_until_ready(process)
    before_s, used_s, peak_mb = busy_s(process.pid), 0.0, 0.0
    while process.poll() is None:
        try:
            used_s, peak_mb = busy_s(process.pid) - before_s, max(peak_mb, memory_mb(process.pid))
        except (OSError, IndexError):  # it is ending
            continue
        time.sleep(LOOK_S)
    if process.returncode:
        raise RuntimeError((folder / "daemon.log").read_text()[-2000:])
    return total, used_s, peak_mb


def _fill(folder, inbox, made, steps):
    """Deposit copies of one episode; the file name gives each an id of its own."""
    (file,) = deposit(folder / "made", made)
    with np.load(file) as arrays:
        plain = {name: arrays[name] for name in arrays.files if name != "meta"}
    inbox.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "one.npz", **plain, truncated=np.ones(1), terminated=np.zeros(1))
    count = max(1, steps // made[0].n_steps)
    for index in range(count):
        shutil.copyfile(folder / "one.npz", inbox / f"{index}.npz")
        os.utime(inbox / f"{index}.npz", (time.time() - SETTLED_S,) * 2)
    return count * made[0].n_steps
