"""Staleness in updates, over versions that come, go, and are damaged."""

import shutil
import time

import numpy as np
import pytest

from learnerd.lineage import Lineage
from policies.checkpoint import Delta
from policies.initial import initial_checkpoint
from policies.manifest import version_folder
from policies.spec import DiscreteSpace, PolicySpec
from policies.store import CheckpointStore

SPEC = PolicySpec(observation_shape=(2,), action=DiscreteSpace(n=2), hidden=(3,))


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path)


def publish(store, *updates):
    head = store.head() or initial_checkpoint(SPEC, seed=0)
    for count in updates:
        change = Delta(weights={"policy.0.bias": np.ones(3)}, counters={"updates": count})
        head = store.publish(change, base=head, writer="w", episodes=[])


def prune(store, max_staleness):
    keep = {"keep_last": 1, "keep_every": 0, "keep_minutes": 0.0, "keep_bytes": 10**12}
    return store.prune(**keep, now_s=time.time() + 9, max_staleness=max_staleness)


def told(lineage, *versions):
    lineage.refresh()
    return [lineage.staleness(version) for version in versions]


def test_updates_between_a_version_and_the_head(store):
    publish(store, 0, 2, 0, 3)
    assert told(Lineage(store, 64), 1, 2, 3, 4) == [5, 3, 3, 0]


def test_what_was_never_published_has_none(store):
    lineage = Lineage(store, 64)
    assert told(lineage, 1) == [None]
    publish(store, 1)
    assert told(lineage, 0, -1, 1, 2) == [None, None, 0, None]
    publish(store, 1)
    assert told(lineage, 2, 3) == [0, None]


def test_it_follows_one_version_or_many(store):
    lineage = Lineage(store, 64)
    for updates in ((1,), (1,), (2, 0, 3), (1,), (4, 4)):
        publish(store, *updates)
        fresh = Lineage(CheckpointStore(store._state_dir), 64)
        versions = range(1, store.head().version + 1)
        assert told(lineage, *versions) == told(fresh, *versions)
    assert told(lineage, 1, 4, 8) == [15, 12, 0]


def test_pruned_versions_are_exact_while_their_actors_are_kept(store):
    publish(store, 1, 5, 1, 1, 1, 1)
    assert prune(store, 3) == [1, 2, 3, 4]
    assert told(Lineage(store, 3), 3, 4, 5, 6) == [3, 2, 1, 0]


def test_a_version_gone_without_a_trace_is_at_least_as_old_as_the_next(store):
    publish(store, 1, 5, 1, 1)
    for version in (1, 2):
        shutil.rmtree(version_folder(store._state_dir, version))
    assert told(Lineage(store, 64), 1, 2, 3) == [1, 1, 1]


def test_beyond_max_staleness_it_is_larger_whatever_it_is(store):
    publish(store, *[1] * 9)
    prune(store, 2)
    lineage = Lineage(store, 2)
    assert told(lineage, 9, 8, 7) == [0, 1, 2]
    assert min(told(lineage, 1, 5, 6)) > 2
    publish(store, 1, 1)
    assert told(lineage, 11, 10, 9) == [0, 1, 2]
    assert min(told(lineage, 1, 5, 7, 8)) > 2


def test_memory_does_not_grow_with_the_versions(store):
    lineage = Lineage(store, 5)
    for _ in range(15):
        publish(store, 0, 1)
        lineage.refresh()
    assert len(lineage._versions) <= 7
    assert told(lineage, 30, 29, 28, 27, 20) == [0, 1, 1, 2, 5]
    assert told(lineage, 18)[0] > 5


def test_a_head_that_was_damaged_is_no_reason_to_refuse(store):
    publish(store, 1, 1, 1)
    lineage = Lineage(CheckpointStore(store._state_dir), 64)
    assert told(lineage, 1, 3) == [2, 0]
    (version_folder(store._state_dir, 3) / "manifest.json").write_bytes(b"")
    assert told(lineage, 1, 2, 3, 4) == [1, 0, 0, None]
    publish(CheckpointStore(store._state_dir), 1)
    assert told(lineage, 1, 2, 3, 4) == [2, 1, 0, 0]
