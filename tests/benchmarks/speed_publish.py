"""A durable publish of 10,000 parameters; against the same bytes in one file: write, fsync, rename, fsync.

Beside both stand the calls of a publish alone: a version's files and ``CURRENT`` written, flushed and renamed
as the protocol has it, from bytes that are there already. What a publish takes beyond that is Python.
"""

import itertools
import os
import time

import numpy as np
from speed_figures import Figure, side_by_side
from speed_site import SPEC, episodes, scratch

from experience.durable import fsync_folder
from policies.checkpoint import Delta, LedgerEntry
from policies.flushing import write_new
from policies.initial import initial_checkpoint
from policies.scratch import hold
from policies.store import CheckpointStore

EPISODES = 8


def measure(*, small):
    """One figure; the learner's part, building the delta, is not in it."""
    with scratch() as folder:
        store = CheckpointStore(folder / "state")
        base = initial_checkpoint(SPEC, seed=0)
        writer = _Writer(store, base)
        writer.publish()
        version = folder / "state" / "checkpoints" / "00000001"
        files = {path.name: path.read_bytes() for path in version.iterdir()}
        n_bytes = sum(map(len, files.values()))
        works = {
            "raw": lambda: _raw(folder, os.urandom(n_bytes)),
            "calls alone": _Calls(folder / "calls", files).publish,
            "publish": writer.publish,
        }
        rounds = 5 if small else 200
        found = side_by_side(works, rounds=rounds)
        busy = side_by_side(works, rounds=rounds, clock=time.process_time)
        parameters = sum(array.size for array in base.weights.values())
    return [
        Figure(
            work=f"durable publish, {parameters:,} parameters, against raw bytes",
            value=found["publish"] / found["raw"],
            unit="x",
            most=2.0,
            parts={f"{name}, ms": 1e3 * seconds for name, seconds in found.items()}
            | {f"{name}, processor ms": 1e3 * seconds for name, seconds in busy.items()}
            | {"kB": n_bytes / 1e3},
        )
    ]


class _Calls:
    """Makes the calls of a publish, one version after another."""

    def __init__(self, state, files):
        self._state, self._files, self._numbers = state, files, itertools.count(1)
        for name in ("checkpoints", "lock"):
            (state / name).mkdir(parents=True)

    def publish(self):
        number, checkpoints = next(self._numbers), self._state / "checkpoints"
        scratch, aside = checkpoints / f".tmp-{number}", self._state / f".tmp-{number}"
        scratch.mkdir()
        files = {f"{scratch}/{name}": data for name, data in self._files.items()}
        write_new({**files, str(aside): b"00000000\n"}, folder=str(scratch))
        with hold(self._state / "lock" / "publish", 1.0):
            scratch.rename(checkpoints / f"{number:08d}")
            fsync_folder(checkpoints)
            aside.replace(self._state / "CURRENT")
        fsync_folder(self._state)


class _Writer:
    """Publishes one version after another, each on the one before."""

    def __init__(self, store, base):
        self._store, self._base = store, base
        self._made = episodes(EPISODES, policy=base)
        self._count = 0

    def publish(self):
        self._count += 1
        change = {name: np.full(array.shape, 1e-6) for name, array in self._base.weights.items()}
        self._base = self._store.publish(
            Delta(weights=change, counters={"updates": 1}),
            base=self._base,
            writer="daemon",
            episodes=[_entry(episode, self._count) for episode in self._made],
        )


def _entry(episode, round_):
    return LedgerEntry(
        key=episode.key._replace(episode_id=f"{round_}-{episode.episode_id}"),
        row_sha256=episode.row_sha256,
        source_name="a.npz",
        source_sha256="0" * 64,
        claim_id="0" * 36,
        policy_version=1,
        n_steps=episode.n_steps,
        total_reward=episode.total_reward,
        ingested_at=episode.ingested_at,
        update=0,
    )


def _raw(folder, data):
    aside, target = folder / "raw.tmp", folder / "raw"
    file = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.write(file, data)
    os.fsync(file)
    os.close(file)
    aside.rename(target)
    file = os.open(folder, os.O_RDONLY)
    os.fsync(file)
    os.close(file)
