"""What a version acted with outlives it, as long as files that it acted in may be admitted."""

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from store_tools import SPEC, delta, dying, folders, initial, publish

from policies import actor_archive
from policies.behavior import log_probs
from policies.errors import NotAVersion, VersionDamaged, VersionPruned
from policies.manifest import version_folder
from policies.normalizer import RunningStatistics
from policies.spec import ContinuousSpace
from policies.store import CheckpointStore

KEEP = {"keep_last": 2, "keep_every": 0, "keep_minutes": 0.0, "keep_bytes": 10**12}


def chain(state, count, *, base=None, spec=SPEC, **fields):
    store, checkpoint = CheckpointStore(state), base or initial(spec)
    observed = RunningStatistics.of(np.random.default_rng(0).normal(size=(50, 2)))
    for _ in range(count):
        change = delta(0.01, spec=spec, observed=observed, **fields)
        checkpoint = store.publish(change, base=checkpoint, writer="daemon", episodes=[])
    return store


def prune(store, max_staleness, **keep):
    return store.prune(**KEEP | keep, now_s=time.time() + 9, max_staleness=max_staleness)


def files(state):
    folder = state / "actors"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("spec", [SPEC, replace(SPEC, action=ContinuousSpace(size=3), normalize=True)])
def test_a_pruned_version_still_gives_its_log_probabilities(state, spec):
    store = chain(state, 6, spec=spec)
    obs = np.random.default_rng(1).normal(size=(40, 2)).astype(np.float32)
    action = np.arange(40) % 2 if spec is SPEC else obs @ np.ones((2, 3), np.float32)
    before = {version: store.load(version) for version in (2, 3, 4)}
    assert prune(store, 3) == [1, 2, 3, 4]
    assert files(state) == [f"0000000{version}.safetensors" for version in (2, 3, 4)]
    for version, whole in before.items():
        acting = CheckpointStore(state).actor(version)
        assert (acting.version, acting.updates, acting.spec) == (version, version, spec)
        np.testing.assert_array_equal(log_probs(acting, obs, action), log_probs(whole, obs, action))
        assert not any(name.startswith("value") for name in acting.weights)
    with pytest.raises(VersionPruned):
        store.actor(1)
    with pytest.raises(NotAVersion):
        store.actor(7)


def test_a_version_that_is_there_needs_no_file(state):
    store = chain(state, 2)
    assert store.actor(1).updates == 1
    assert files(state) == []


def test_files_go_when_nothing_of_their_version_can_be_admitted(state):
    store = chain(state, 6)
    prune(store, 3)
    chain(state, 3, base=store.head())
    assert prune(store, 3) == [5, 6, 7]
    assert files(state) == [f"0000000{version}.safetensors" for version in (5, 6, 7)]
    chain(state, 1, base=store.head(), updates=100)
    prune(store, 3)
    assert files(state) == ["00000008.safetensors"]  # it bounds the staleness of those before


def test_staleness_counts_updates_not_versions(state):
    chain(state, 3, updates=0)
    store = chain(state, 5, base=CheckpointStore(state).head(), updates=10)
    assert prune(store, 20) == [1, 2, 3, 4, 5, 6]
    assert files(state) == ["00000005.safetensors", "00000006.safetensors"]
    assert list(store.updates_above(0)) == [(8, 50), (7, 40), (6, 30), (5, 20)]
    assert list(store.updates_above(7)) == [(8, 50)]


@pytest.mark.parametrize("bound", ["MOST_FILES", "MOST_BYTES"])
def test_their_number_and_size_are_bounded(state, monkeypatch, bound):
    store = chain(state, 8)
    size = 3 if bound == "MOST_FILES" else 3 * len(actor_archive._encode(store.actor(1))) + 99
    monkeypatch.setattr(actor_archive, bound, size)
    prune(store, 100)
    assert files(state) == [f"0000000{version}.safetensors" for version in (4, 5, 6)]


def test_a_single_flipped_bit_or_a_missing_byte_is_noticed(state):
    store = chain(state, 3)
    prune(store, 100)
    path = state / "actors" / "00000001.safetensors"
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        with pytest.raises(VersionDamaged):
            store.actor(1)
    for cut in (0, 7, 8, 100, len(data) - 1):
        path.write_bytes(data[:cut])
        with pytest.raises(VersionDamaged):
            store.actor(1)
    assert dict(store.updates_above(0)) == {2: 2, 3: 3}
    path.write_bytes(data)
    assert store.actor(1).updates == 1


def test_a_file_under_another_number_is_not_trusted(state):
    store = chain(state, 4)
    prune(store, 100)
    (state / "actors" / "00000001.safetensors").replace(state / "actors" / "00000002.safetensors")
    with pytest.raises(VersionDamaged, match="is version 1"):
        store.actor(2)


def test_a_damaged_version_leaves_no_file_unless_its_policy_is_whole(state):
    chain(state, 5)
    for version, name in ((1, "model.safetensors"), (2, "manifest.json"), (3, "optimizer.safetensors")):
        path = version_folder(state, version) / name
        path.write_bytes(path.read_bytes()[:-1])
    store = CheckpointStore(state)
    prune(store, 100)
    assert files(state) == ["00000003.safetensors"]
    assert store.actor(3).updates == 3


def test_a_discarded_version_off_the_lineage_keeps_its_file(state):
    base = chain(state, 2).load(1)
    (version_folder(state, 2) / "ledger.parquet").write_bytes(b"")
    store = CheckpointStore(state)
    assert publish(store, base, 1).version == 3
    store.discard(2)
    assert folders(state) == ["00000001", "00000003"]
    assert store.actor(2).updates == 2


def test_the_file_is_durable_before_its_version_goes(state, monkeypatch):
    store = chain(state, 3)
    (state / "actors").mkdir()
    events = []

    def fsync(descriptor, real=os.fsync):
        events.append(("fsync", Path(f"/proc/self/fd/{descriptor}").readlink().parent.name))
        real(descriptor)

    def rename(source, target, real=os.rename):
        events.append(("rename", Path(source).name))
        real(source, target)

    def replaced(source, target, real=os.replace):
        events.append(("replace", Path(target).name))
        real(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(os, "replace", replaced)
    prune(store, 100)
    expected = [
        *[("fsync", "actors"), ("replace", "00000001.safetensors"), ("fsync", state.name)],
        ("rename", "00000001"),
    ]
    assert events[-len(expected) :] == expected


def test_killed_at_any_call_a_prune_loses_nothing_that_may_be_admitted(state):
    at = 0
    while True:
        site = state / str(at)
        store = chain(site, 5)
        with dying(at):
            prune(store, 100)
            break
        again = CheckpointStore(site)
        assert [again.actor(version).updates for version in range(1, 6)] == [1, 2, 3, 4, 5]
        prune(again, 100)
        assert [again.actor(version).updates for version in range(1, 6)] == [1, 2, 3, 4, 5]
        at += 1
    assert at > 15


def test_what_a_killed_prune_left_aside_is_swept(state):
    store = chain(state, 3)
    (state / "actors").mkdir()
    (state / "actors" / ".tmp-x").write_bytes(b"half")
    os.utime(state / "actors" / ".tmp-x", (1, 1))
    prune(store, 100)
    assert ".tmp-x" in files(state)
    store.sweep()
    assert files(state) == ["00000001.safetensors"]
