"""An update beside busy processes, one on each core that it may use: it should lose its share and no more."""

import os
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager

import torch
from speed_figures import Figure
from speed_site import SPEC, episodes

from experience.collate import collate
from learnerd.threads import pin_threads, thread_count
from policies.initial import initial_checkpoint
from policies.learner import Learner
from policies.settings import LearnerSettings

BUSY = "while True: pass"
EPISODES = 8


def measure(*, small):
    """The median update with neighbors, in the median update without; taken in turns."""
    from learnerd.config import Config  # noqa: PLC0415 - loads pydantic

    pin_threads(Config())
    torch.set_num_threads(thread_count(Config()))
    base = initial_checkpoint(SPEC, seed=0)
    batch = collate(episodes(EPISODES, policy=base), observation_shape=SPEC.observation_shape)
    learner = Learner(base, LearnerSettings(), device="cpu", seed=0)
    learner.update(batch, seed=0)
    alone, beside = [], []
    for _ in range(2 if small else 10):
        alone += _updates(learner, batch)
        with _neighbors():
            beside += _updates(learner, batch)
    cores = len(os.sched_getaffinity(0))
    parts = {
        "alone, ms": 1e3 * statistics.median(alone),
        "beside, ms": 1e3 * statistics.median(beside),
        "neighbors": cores,
    }
    value = statistics.median(beside) / statistics.median(alone)
    return [Figure(work="update beside busy neighbors", value=value, unit="x", most=2.2, parts=parts)]


def _updates(learner, batch):
    seconds = []
    for seed in range(5):
        started = time.perf_counter()
        learner.update(batch, seed=seed)
        seconds.append(time.perf_counter() - started)
    return seconds


@contextmanager
def _neighbors():
    """One busy process a core."""
    others = []
    try:
        for core in os.sched_getaffinity(0):
            others.append(subprocess.Popen([sys.executable, "-c", BUSY]))
            os.sched_setaffinity(others[-1].pid, {core})
        time.sleep(0.2)
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()
