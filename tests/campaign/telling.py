"""Versions that tell when they are torn: every weight of version v is v - 1, whoever published it.

Each publish adds one to every weight, so that this holds through merges too.
"""

import dataclasses
import os
import sys
import time
from pathlib import Path

import numpy as np
from oracle import base_checkpoint

from learnerd.demo.clients import by_contract
from policies.actor import Actor
from policies.checkpoint import Delta
from policies.errors import StoreError, VersionPruned
from policies.manifest import read_current
from policies.normalizer import RunningStatistics
from policies.spec import DiscreteSpace, PolicySpec
from policies.store import CheckpointStore

SPEC = PolicySpec(observation_shape=(16,), action=DiscreteSpace(n=4), hidden=(64, 64), activation="relu")
KEPT = {"keep_last": 3, "keep_every": 0, "keep_minutes": 0.0, "keep_bytes": 1 << 40}


def publish_first(state):
    """Version 1: all weights 0."""
    zeros = {name: np.zeros(shape, np.float32) for name, shape in SPEC.shapes().items()}
    empty = RunningStatistics.empty(SPEC.inputs)
    base = dataclasses.replace(base_checkpoint(), spec=SPEC, weights=zeros, normalizer=empty)
    CheckpointStore(state).publish(Delta(weights={}), base=base, writer="daemon", episodes=[])


def publish_for_ever(state, writer):
    """Publish and prune without a pause until killed."""
    store = CheckpointStore(state)
    ones = Delta(weights={name: np.ones(shape) for name, shape in SPEC.shapes().items()})
    while True:
        store.publish(ones, base=store.head(), writer=writer, episodes=[])
        store.prune(**KEPT, now_s=time.time())


def check(version, arrays):
    """What is wrong with these arrays of a version; "" when nothing is."""
    for array in arrays:
        if not (array == version - 1).all():
            return f"version {version} holds {np.unique(array)[:3]}"
    return ""


class ActorReader:
    """Every other read by an actor that lives on, the rest by one that begins anew."""

    def __init__(self, state):
        self._state = state
        self._actor = Actor(state, seed=0)
        self._reads = 0

    def read(self):
        self._reads += 1
        if self._reads % 2:
            self._actor.refresh()
            actor = self._actor
        else:
            actor = Actor(self._state, seed=0)
        if actor.version is None or (actor.problem and "Pruned" not in actor.problem):
            return None, str(actor.problem)
        actor.act(np.ones(16, np.float32))
        forward = actor._draw._forward
        return actor.version, [forward._last_matrix, *(matrix for _, matrix, _ in forward._hidden)]


class ContractReader:
    """As a client in any language: CURRENT, the manifest, the hash, the arrays; whole at every read."""

    def __init__(self, state):
        self._state = state

    def read(self):
        name = (self._state / "CURRENT").read_text().strip()
        try:
            policy = by_contract.load_version(self._state / "checkpoints" / name)
        except FileNotFoundError as error:
            return None, f"Pruned: {error}"
        return policy.version, [array for layer in policy.layers for array in layer]


class StoreReader:
    """Everything that a version holds, each hash checked."""

    def __init__(self, state):
        self._state = state
        self._store = CheckpointStore(state)

    def read(self):
        try:
            checkpoint = self._store.load(read_current(self._state))
        except VersionPruned as error:
            return None, f"Pruned: {error}"
        return checkpoint.version, checkpoint.weights.values()


READERS = {"actor": ActorReader, "contract": ContractReader, "store": StoreReader}


def follow(state, kind, count):
    """Read ``count`` times; report reads, versions seen, misses by pruning, and what was wrong."""
    reader, last, versions, pruned = READERS[kind](state), 0, 0, 0
    for _ in range(count):
        try:
            version, arrays = reader.read()
        except (StoreError, OSError, ValueError) as error:
            return versions, pruned, f"{type(error).__name__}: {error}"
        if version is None:
            pruned += 1
            wrong = "" if "Pruned" in arrays else arrays
        else:
            wrong = check(version, arrays)
            if version < last:
                wrong = f"version {version} after {last}"
            versions += version > last
            last = version
        if wrong:
            return versions, pruned, wrong
    return versions, pruned, ""


def main():
    """``telling.py publish STATE WRITER`` or ``telling.py read STATE KIND COUNT``."""
    role, state, *rest = sys.argv[1:]
    if role == "publish":
        publish_for_ever(Path(state), rest[0])
    versions, pruned, wrong = follow(Path(state), rest[0], int(rest[1]))
    sys.stdout.write(f"{versions} {pruned} {wrong}\n")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
