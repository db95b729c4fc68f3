"""Two real processes publish to one store; nothing is lost, doubled or seen half."""

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from store_tools import added, entries, folders, initial, publish

from policies.manifest import read_actor, read_current
from policies.store import CheckpointStore

PUBLISHES = 40
CHANGES = {"daemon": 1.0, "online": 1000.0}


def start(state, writer, lock):
    path = os.pathsep.join([str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")])
    worker = Path(__file__).with_name("publish_worker.py")
    process = subprocess.Popen(
        [sys.executable, worker, state, writer, str(CHANGES[writer]), str(PUBLISHES), lock],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert process.stdout.readline() == "ready\n"
    return process


def follow(state, processes):
    """Read whatever CURRENT names until both are done; the numbers in the order seen."""
    seen = []
    while any(process.poll() is None for process in processes):
        version = read_current(state)
        if version is not None and version not in seen[-1:]:
            read_actor(state, version)
            seen.append(version)
        time.sleep(0.001)
    return seen


@pytest.mark.parametrize("lock", ["lock", "none"])
def test_two_processes_lose_nothing(state, lock):
    publish(CheckpointStore(state), initial(), 0)
    processes = [start(state, writer, lock) for writer in CHANGES]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.close()
    seen = follow(state, processes)
    for process in processes:
        process.stdout.close()
        assert process.wait() == 0
    store = CheckpointStore(state)
    last = 1 + 2 * PUBLISHES
    versions = [store.load(version) for version in range(1, last + 1)]
    assert folders(state) == [f"{version:08d}" for version in range(1, last + 1)]
    merged, mixed = 0, 0
    for parent, version in itertools.pairwise(versions):
        assert added(version) == added(parent) + CHANGES[version.writer]
        assert version.parents[0] == parent.version
        merged += len(version.parents) == 2
        mixed += version.writer != parent.writer
    assert min(merged, mixed) > PUBLISHES // 4  # they did get into each other's way
    assert added(versions[-1]) == PUBLISHES * sum(CHANGES.values())
    assert versions[-1].counters == {"updates": last, "episodes": 2 * PUBLISHES}
    names = [f"{writer}-{i}" for writer in CHANGES for i in range(PUBLISHES)]
    assert len(store.lookup(entry.key for entry in entries(*names))) == 2 * PUBLISHES
    assert store.current() == last
    assert store.damaged(thorough=True) == []
    if lock == "lock":
        assert seen == sorted(seen)
