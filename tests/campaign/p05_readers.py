"""Promise 5: a reader never sees half a version, while others publish and prune."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import telling
from outcome import Outcome

from policies.manifest import read_current

NUMBER = 5
PROMISE = "A reader never sees half a version, nor an older one after a newer one"
FULL = 1_000_000  # reads
SAMPLE = 2_000
SHARES = {"actor": 0.5, "contract": 0.4, "store": 0.1}
WRITERS = ("daemon", "online")
ROOT = Path(__file__).parents[2]


def run(*, trials, seed, progress):
    """Two writers publish and prune all the time; three readers of different kinds check every weight."""
    with tempfile.TemporaryDirectory(prefix="learnerd-p05-") as folder:
        state = Path(folder)
        telling.publish_first(state)
        writers = [_start("publish", state, writer) for writer in WRITERS]
        readers = {
            kind: _start("read", state, kind, str(round(trials * part))) for kind, part in SHARES.items()
        }
        try:
            while any(reader.poll() is None for reader in readers.values()):
                _replace_dead(writers)
                time.sleep(0.05)
        finally:
            for process in writers:
                process.kill()
                process.wait()
        found, versions, pruned = [], 0, 0
        for kind, reader in readers.items():
            seen, missed, wrong = (reader.stdout.read().strip() + "  ").split(" ", 2)
            reader.stdout.close()
            versions, pruned = versions + int(seen or 0), pruned + int(missed or 0)
            if wrong.strip() or reader.returncode != 0:
                found.append(f"{kind}: {wrong.strip() or reader.returncode}")
        published = read_current(state)
    progress(trials)
    figure = (
        f"{trials:,} reads while {published:,} versions were published and pruned: {len(found)} wrong "
        f"({versions:,} times another version than before, {pruned:,} times pruned under the reader)"
    )
    return Outcome(trials=trials, violations=tuple(found), figure=figure)


def _start(*arguments):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).with_name("telling.py")), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def _replace_dead(writers):
    for process in writers:
        if process.poll() is not None:
            raise AssertionError(f"a writer ended with {process.returncode}")
