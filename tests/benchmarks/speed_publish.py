"""A durable publish of 10,000 parameters; against the same bytes in one file: write, fsync, rename, fsync."""

import os

import numpy as np
from speed_figures import Figure, side_by_side
from speed_site import SPEC, episodes, scratch

from policies.checkpoint import Delta, LedgerEntry
from policies.initial import initial_checkpoint
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
        n_bytes = sum(path.stat().st_size for path in version.iterdir())
        works = {"raw": lambda: _raw(folder, os.urandom(n_bytes)), "publish": writer.publish}
        found = side_by_side(works, rounds=5 if small else 200)
        parameters = sum(array.size for array in base.weights.values())
    return [
        Figure(
            work=f"durable publish, {parameters:,} parameters, against raw bytes",
            value=found["publish"] / found["raw"],
            unit="x",
            most=2.0,
            parts={f"{name}, ms": 1e3 * seconds for name, seconds in found.items()} | {"kB": n_bytes / 1e3},
        )
    ]


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
