import contextlib
import errno
import io
import json
import math
import os
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from store_tools import SPEC, added, delta, entries, entry, folders, initial, publish, scalar

from policies import publishing, scratch
from policies.checkpoint import Delta
from policies.errors import (
    AlreadyLearned,
    BadDelta,
    DriftTooLarge,
    NotAVersion,
    StoreBusy,
    StoreError,
    VersionDamaged,
    VersionPruned,
)
from policies.manifest import version_folder
from policies.merge import MergeSettings
from policies.pruning import Pruner
from policies.publishing import write_merge_settings
from policies.scratch import hold, scratch_folder
from policies.store import CheckpointStore

FOREVER = {"keep_every": 0, "keep_minutes": 0.0, "keep_bytes": 10**12}


@pytest.fixture
def store(state):
    return CheckpointStore(state, clock=lambda: 1000.0)


def chain(store, count, *, base=None):
    """Publish `count` versions after each other; each adds 1 and learns the episode of its number."""
    checkpoint = base or initial()
    for _ in range(count):
        checkpoint = publish(store, checkpoint, 1, f"e{checkpoint.version + 1}")
    return checkpoint


def damage(state, version, name="model.safetensors"):
    path = version_folder(state, version) / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def learned(store, *names):
    return {key.episode_id: hit.version for key, hit in store.lookup(e.key for e in entries(*names)).items()}


def test_a_fresh_folder_is_empty_and_stays_untouched(state):
    store = CheckpointStore(state)
    assert store.head() is None
    assert store.current() is None
    assert store.versions() == []
    assert store.damaged() == []
    assert store.lookup([entry("a").key]) == {}
    assert store.repair_current() is None
    assert store.prune(keep_last=1, now_s=0.0, **FOREVER) == []
    store.sweep()
    assert not state.exists()
    with pytest.raises(NotAVersion):
        store.load(1)


def test_the_first_version_has_no_parents(store, state):
    first = store.publish(
        Delta(weights={}), base=initial(), writer="daemon", episodes=[], saved_at=7.0, record={"seed": 3}
    )
    assert (first.version, first.parents, first.saved_at) == (1, (), 7.0)
    assert first.manifest["record"] == {"seed": 3}
    assert first.manifest["published_at"] == 1000.0
    assert (state / "CURRENT").read_bytes() == b"00000001\n"
    assert added(CheckpointStore(state).load(1)) == 0.0


def test_forced_order_keeps_both_changes_and_both_counts(state):
    ours, theirs = CheckpointStore(state), CheckpointStore(state)
    chain(ours, 1)
    base = ours.head()
    publish(theirs, theirs.head(), 10, "b1", "b2", writer="online")
    third = publish(ours, base, 100, "a1")
    assert added(third) == 111.0
    assert third.parents == (2, 1)
    assert third.counters == {"updates": 3, "episodes": 4}
    assert third.manifest["episodes_total"] == 4
    again = CheckpointStore(state)
    assert added(again.head()) == 111.0
    assert again.current() == 3
    assert learned(again, "e1", "b1", "b2", "a1", "x") == {"e1": 1, "b1": 2, "b2": 2, "a1": 3}


def test_initial_weights_merge_with_a_head_that_was_first(state):
    ours, theirs = CheckpointStore(state), CheckpointStore(state)
    publish(theirs, initial(), 10)
    second = publish(ours, initial(), 100)
    assert (second.version, second.parents) == (2, (1, 0))
    assert added(second) == 110.0


def test_another_spec_than_the_heads_is_refused(store):
    chain(store, 1)
    other = replace(SPEC, hidden=(4,))
    with pytest.raises(BadDelta, match=r"base\.spec"):
        store.publish(delta(spec=other), base=initial(other), writer="daemon", episodes=[])
    assert store.head().version == 1


def test_episodes_that_the_head_has_learned_are_named(state):
    ours, theirs = CheckpointStore(state), CheckpointStore(state)
    base = chain(ours, 1)
    publish(theirs, theirs.head(), 10, "x", "y", writer="online")
    with pytest.raises(AlreadyLearned) as caught:
        publish(ours, base, 100, "x", "z", "e1")
    assert [key.episode_id for key in caught.value.keys] == ["x", "e1"]
    assert added(ours.head()) == 11.0
    assert added(publish(ours, base, 100, "z")) == 111.0


def test_a_hit_tells_the_same_row_from_another(store):
    mine = entry("a", row="one")
    store.publish(delta(), base=initial(), writer="daemon", episodes=[mine])
    hit = store.lookup([mine.key])[mine.key]
    assert hit.version == 1
    assert hit.is_same_row(mine.row_sha256)
    assert not hit.is_same_row(entry("a", row="two").row_sha256)


def test_keys_of_other_clients_segments_and_agents_are_others(store):
    store.publish(delta(), base=initial(), writer="daemon", episodes=[entry("a")])
    key = entry("a").key
    others = [key._replace(client_id="d"), key._replace(segment=1), key._replace(agent_id="x")]
    assert store.lookup(others) == {}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (Delta(weights={"policy.9.weight": np.zeros(3)}), "weights['policy.9.weight']"),
        (Delta(weights={"policy.0.bias": np.zeros(4)}), "weights['policy.0.bias']"),
        (Delta(weights={"policy.0.bias": np.zeros(3, np.int64)}), "weights['policy.0.bias']"),
        (Delta(weights={"policy.0.bias": np.array([0, math.nan, 0])}), "weights['policy.0.bias']"),
        (Delta(weights={"policy.0.bias": np.array([0, math.inf, 0])}), "weights['policy.0.bias']"),
        (Delta(weights={"policy.0.bias": np.full(3, 1e300)}), "weights['policy.0.bias']"),
        (Delta(weights={}, averages={"baseline": scalar(math.nan, 0.5)}), "averages['baseline']"),
        (Delta(weights={}, averages={"baseline": scalar(1, 1.5)}), "averages['baseline'].retained"),
        (Delta(weights={}, averages={"baseline": scalar(1, math.nan)}), "averages['baseline'].retained"),
        (Delta(weights={}, averages={"popart_std": scalar(0, 0.5)}), "averages['popart_std']"),
        (
            Delta(weights={}, averages={"adam_m.policy.0.bias": scalar(0, 0.5)}),
            "averages['adam_m.policy.0.bias']",
        ),
        (Delta(weights={}, counters={"updates": -1}), "counters['updates']"),
        (Delta(weights={}, counters={"updates": 1.0}), "counters['updates']"),
        (Delta(weights={}, counters={"episodes": 1}), "counters['episodes']"),
    ],
)
def test_a_delta_that_does_not_fit_is_refused_naming_the_field(store, state, change, field):
    with pytest.raises(BadDelta) as caught:
        store.publish(change, base=initial(), writer="daemon", episodes=[])
    assert caught.value.field == field
    assert store.head() is None
    assert not state.exists() or folders(state) == []


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"writer": ""}, "writer"),
        ({"writer": "a\nb"}, "writer"),
        ({"saved_at": math.nan}, "saved_at"),
        ({"episodes": entries("a", "b", "a")}, "episodes"),
        ({"episodes": [replace(entry("a"), row_sha256="xyz")]}, "episodes[0].row_sha256"),
        ({"record": {"x": object()}}, "record"),
    ],
)
def test_an_unusable_save_is_refused_naming_the_field(store, changes, field):
    arguments = {"base": initial(), "writer": "daemon", "episodes": []} | changes
    with pytest.raises(BadDelta) as caught:
        store.publish(delta(), **arguments)
    assert caught.value.field == field
    assert store.head() is None


def test_a_metric_that_is_not_finite_does_not_stop_a_publish(store):
    record = {"kl": math.nan, "rates": np.array([1.5, math.inf]), "n": np.int64(3)}
    first = store.publish(delta(), base=initial(), writer="daemon", episodes=[], record=record)
    assert first.manifest["record"] == {"kl": None, "rates": [1.5, None], "n": 3}


def test_a_base_from_nowhere_is_refused(store):
    first = chain(store, 1)
    with pytest.raises(NotAVersion):
        publish(store, replace(first, version=2), 1)


def test_an_online_writers_change_is_scaled_when_it_is_rebased(state):
    write_merge_settings(state, MergeSettings(online_weight=0.5))
    daemon, online = CheckpointStore(state), CheckpointStore(state)
    first = chain(daemon, 1)
    publish(daemon, first, 10)
    assert added(publish(online, first, 100, writer="online")) == 61.0
    assert added(publish(online, online.head(), 1000, writer="online")) == 1061.0
    assert added(publish(daemon, first, 10000)) == 11061.0


def test_an_online_writers_change_is_weighted_by_the_episodes_of_both_branches(state):
    write_merge_settings(state, MergeSettings(weighting="episodes", online_weight=0.5))
    store = CheckpointStore(state)
    first = chain(store, 1)
    publish(store, first, 10, *(f"daemon-{i}" for i in range(8)))
    online = publish(store, first, 64, "one", "two", writer="online")
    assert added(online) == 11.0 + 0.5 * 64 * 2 / 8
    assert online.manifest["merge"]["weight"] == 0.125
    assert (online.manifest["merge"]["ours_episodes"], online.manifest["merge"]["theirs_episodes"]) == (2, 8)
    many = publish(store, first, 64, *(f"online-{i}" for i in range(20)), writer="online")
    assert added(many) == added(online) + 0.5 * 64
    unnamed = publish(store, first, 64, writer="online")
    assert added(unnamed) == added(many) + 0.5 * 64
    assert added(publish(store, first, 1000, "late")) == added(unnamed) + 1000


def test_an_online_writers_change_decays_with_its_age(state):
    write_merge_settings(state, MergeSettings(weighting="age", half_life_s=100.0))
    store = CheckpointStore(state)
    first = chain(store, 1)
    publish(store, first, 10, saved_at=5000.0)
    online = publish(store, first, 64, writer="online", saved_at=4800.0)
    assert added(online) == 11.0 + 64 / 4
    assert online.manifest["merge"]["weight"] == 0.25
    assert online.manifest["merge"]["ours_saved_at"] == online.saved_at == 4800.0
    assert online.manifest["merge"]["theirs_saved_at"] == 5000.0
    newer = publish(store, first, 64, writer="online", saved_at=9000.0)
    assert added(newer) == added(online) + 64
    daemons = publish(store, first, 64, saved_at=1000.0)
    assert added(daemons) == added(newer) + 64


def test_a_plain_successor_is_never_weighted(state):
    write_merge_settings(state, MergeSettings(weighting="age", online_weight=0.5))
    store = CheckpointStore(state)
    first = chain(store, 1)
    online = publish(store, first, 64, writer="online", saved_at=first.saved_at - 1e9)
    assert added(online) == added(first) + 64
    assert online.manifest["merge"] == {"rebased": False, "weight": 1.0}


def test_settings_that_cannot_be_used_stop_a_publish_and_name_the_file(store, state):
    state.mkdir()
    (state / "merge.json").write_text('{"weighting": "newest"}')
    with pytest.raises(StoreError, match=r"merge\.json: weighting is 'newest'; accepted: 'none', 'episodes'"):
        chain(store, 1)


def test_too_long_a_rebase_is_refused_when_a_limit_is_set(state):
    write_merge_settings(state, MergeSettings(drift_limit=0.5))
    store = CheckpointStore(state)
    first = chain(store, 1)
    second = publish(store, first, 100)
    with pytest.raises(DriftTooLarge) as caught:
        publish(store, first, 1)
    assert (caught.value.base, caught.value.head) == (1, 2)
    assert added(publish(store, second, 1)) == 102.0


def test_the_delta_is_kept_unless_the_daemon_just_went_on(store):
    first = chain(store, 2)
    merged = publish(store, store.load(1), 5)
    online = publish(store, merged, 7, writer="online")
    assert [store.delta(version) is not None for version in (1, 2, 3, 4)] == [False, False, True, True]
    assert store.delta(online.version).weights["policy.0.bias"].tolist() == [7.0, 7.0, 7.0]
    assert store.delta(online.version).counters == {"updates": 1}
    assert first.version == 2


def test_a_damaged_head_is_skipped_reported_and_its_episodes_are_off_the_ledger(state):
    chain(CheckpointStore(state), 3)
    damage(state, 3)
    store = CheckpointStore(state)
    assert store.head().version == 2
    assert store.damaged() == [3]
    assert learned(store, "e2", "e3") == {"e2": 2}
    with pytest.raises(VersionDamaged, match=r"model\.safetensors"):
        store.load(3)
    fourth = publish(store, store.head(), 100, "e3")
    assert (fourth.version, fourth.parents) == (4, (2,))
    assert added(fourth) == 102.0
    again = CheckpointStore(state)
    assert learned(again, "e1", "e2", "e3") == {"e1": 1, "e2": 2, "e3": 4}
    assert again.damaged() == [3]
    assert [info.version for info in again.versions()] == [1, 2, 3, 4]


def test_a_damaged_ancestor_stays_in_the_ledger(state):
    chain(CheckpointStore(state), 3)
    damage(state, 2, "ledger.parquet")
    store = CheckpointStore(state)
    assert learned(store, "e1", "e2", "e3") == {"e1": 1, "e2": 2, "e3": 3}
    assert store.damaged() == [2]


def test_an_ancestor_whose_ids_are_lost_is_reported_and_never_pruned(state):
    chain(CheckpointStore(state), 6)
    damage(state, 2, "manifest.json")
    store = CheckpointStore(state)
    assert learned(store, "e1", "e2", "e3") == {"e1": 1, "e3": 3}
    assert store.prune(keep_last=2, now_s=time.time() + 9, **FOREVER) == [1, 3, 4]
    assert 2 in store.damaged(thorough=True)


def test_ids_that_come_back_before_those_of_an_earlier_version_count_at_once(state):
    chain(CheckpointStore(state), 4)
    damage(state, 2, "manifest.json")
    damage(state, 3, "manifest.json")
    store = CheckpointStore(state)
    assert learned(store, "e1", "e2", "e3") == {"e1": 1}
    store.keep_ids(3, entries("e3"))
    assert learned(store, "e1", "e2", "e3") == {"e1": 1, "e3": 3}
    store.keep_ids(2, entries("e2"))
    assert learned(store, "e1", "e2", "e3") == {"e1": 1, "e2": 2, "e3": 3}
    assert learned(CheckpointStore(state), "e1", "e2", "e3", "e4") == {"e1": 1, "e2": 2, "e3": 3, "e4": 4}


def test_ids_that_come_back_after_others_were_compacted_are_durable(state):
    chain(CheckpointStore(state), 6)
    damage(state, 2, "manifest.json")
    store = CheckpointStore(state)
    assert store.prune(keep_last=2, now_s=time.time() + 9, **FOREVER) == [1, 3, 4]
    store.keep_ids(2, entries("e2"))
    assert store.versions_without_ids() == []
    assert learned(store, "e1", "e2", "e3") == {"e1": 1, "e2": 2, "e3": 3}
    again = CheckpointStore(state)
    again.sweep()
    assert learned(again, "e1", "e2", "e3") == {"e1": 1, "e2": 2, "e3": 3}


def test_the_last_whole_copy_in_memory_goes_on(state):
    store = CheckpointStore(state)
    held = chain(store, 2)
    damage(state, 1)
    damage(state, 2)
    again = CheckpointStore(state)
    assert again.head() is None
    third = publish(again, held, 10, "new")
    assert (third.version, third.parents, added(third)) == (3, (2,), 12.0)
    assert learned(again, "e1", "e2", "new") == {"e1": 1, "e2": 2, "new": 3}


def test_a_damaged_store_begins_again_from_initial_weights_under_a_new_number(state):
    chain(CheckpointStore(state), 2)
    damage(state, 1)
    damage(state, 2)
    store = CheckpointStore(state)
    third = publish(store, initial(), 10, "e1")
    assert (third.version, third.parents, added(third)) == (3, (), 10.0)
    assert learned(CheckpointStore(state), "e1", "e2") == {"e1": 3}


def test_pruning_never_forgets_an_id(state):
    store = CheckpointStore(state)
    names = [f"e{i}" for i in range(1, 31)]
    checkpoint = None
    for _ in range(10):
        checkpoint = chain(store, 3, base=checkpoint)
        store.prune(keep_last=3, now_s=time.time() + 9, **FOREVER | {"keep_every": 10})
    assert folders(state) == ["00000010", "00000020", "00000028", "00000029", "00000030"]
    for reader in (store, CheckpointStore(state)):
        assert learned(reader, *names, "x") == {name: int(name[1:]) for name in names}
        with pytest.raises(AlreadyLearned):
            publish(reader, reader.head(), 1, "e1")
    hit = store.lookup([entry("e1").key])[entry("e1").key]
    assert hit.is_same_row(entry("e1").row_sha256)
    with pytest.raises(VersionPruned):
        store.load(1)
    assert added(publish(store, checkpoint, 1)) == 31.0


def test_pruned_numbers_are_never_used_again(state):
    chain(CheckpointStore(state), 5)
    CheckpointStore(state).prune(keep_last=2, now_s=time.time() + 9, **FOREVER)
    for version in (4, 5):
        shutil.rmtree(version_folder(state, version))
    store = CheckpointStore(state)
    assert store.head() is None
    assert publish(store, initial(), 1).version == 6


def test_a_pruned_base_still_merges(state):
    store = CheckpointStore(state)
    base = chain(store, 1)
    chain(store, 4, base=base)
    store.prune(keep_last=1, now_s=time.time() + 9, **FOREVER)
    assert folders(state) == ["00000004", "00000005"]
    late = publish(store, base, 100)
    assert (late.parents, added(late)) == ((5, 1), 105.0)


def test_bytes_win_but_never_take_the_last_two_or_current_or_a_pin(state):
    store = CheckpointStore(state)
    chain(store, 6)
    (state / "CURRENT").write_bytes(b"00000002\n")
    store.pin(3)
    keep = {"keep_last": 80, "keep_every": 1, "keep_minutes": 1e9}
    size = store.versions()[-1].size_bytes
    assert store.prune(**keep, keep_bytes=size * 9 // 2, now_s=0.0) == [1, 4]
    assert [info.pinned for info in store.versions()] == [False, True, False, False]
    assert store.prune(**keep, keep_bytes=0, now_s=0.0) == []
    assert store.unpin(3)
    assert not store.unpin(3)
    assert store.prune(**keep, keep_bytes=0, now_s=0.0) == [3]
    assert folders(state) == ["00000002", "00000005", "00000006"]


def test_ids_stay_when_a_prune_is_killed_after_they_are_durable(state, monkeypatch):
    store = CheckpointStore(state)
    chain(store, 6)
    monkeypatch.setattr(Pruner, "_remove", lambda *_, **__: (_ for _ in ()).throw(OSError(5, "io")))
    with pytest.raises(StoreError):
        store.prune(keep_last=2, now_s=time.time() + 9, **FOREVER)
    monkeypatch.undo()
    again = CheckpointStore(state)
    assert learned(again, "e1", "e4", "e6") == {"e1": 1, "e4": 4, "e6": 6}
    assert again.prune(keep_last=2, now_s=time.time() + 9, **FOREVER) == [1, 2, 3, 4]
    assert learned(again, "e1", "e4", "e6") == {"e1": 1, "e4": 4, "e6": 6}


def test_another_process_prunes_under_a_sleeper(state):
    sleeper, busy = CheckpointStore(state), CheckpointStore(state)
    base = chain(sleeper, 2)
    chain(busy, 20, base=busy.head())
    busy.prune(keep_last=1, now_s=time.time() + 9, **FOREVER)
    assert sleeper.head().version == 22
    assert learned(sleeper, "e2", "e3", "e22") == {"e2": 2, "e3": 3, "e22": 22}
    assert added(publish(sleeper, base, 100)) == 122.0


def test_a_number_that_was_used_and_pruned_meanwhile_is_not_used_again(state, monkeypatch):
    """A rename onto it would succeed: the version would stand below the head, and count for nothing."""
    slow, busy = CheckpointStore(state), CheckpointStore(state)
    base = chain(slow, 3)

    def publish_and_prune():
        chain(busy, 5, base=base)
        assert 4 in busy.prune(keep_last=2, now_s=time.time() + 9, **FOREVER)

    overtaken_once(monkeypatch, publish_and_prune)
    published = publish(slow, base, 100, "mine")
    assert (published.version, published.parents, added(published)) == (9, (8, 3), 108.0)
    assert learned(CheckpointStore(state), "e4", "e8", "mine") == {"e4": 4, "e8": 8, "mine": 9}


def overtaken_once(monkeypatch, then):
    """Let ``then`` happen when the next version has been written and not yet renamed."""
    real = publishing.write_new

    def write_new(*arguments, **keywords):
        real(*arguments, **keywords)
        monkeypatch.undo()
        then()

    monkeypatch.setattr(publishing, "write_new", write_new)


def test_what_another_writer_published_is_not_taken_for_what_failed(state, monkeypatch):
    slow, busy = CheckpointStore(state), CheckpointStore(state)
    base = chain(slow, 3)

    def publish_and_fail():
        chain(busy, 1, base=base)
        raise OSError(errno.ENOSPC, "injected")

    overtaken_once(monkeypatch, publish_and_fail)
    with pytest.raises(StoreError, match=r"publishing failed: .*injected"):
        publish(slow, base, 100, "mine")
    assert learned(slow, "e4", "mine") == {"e4": 4}


def test_a_rename_that_is_lost_is_tried_again_under_the_next_number(state, monkeypatch):
    """As where another writer honors no lock."""
    slow, busy = CheckpointStore(state), CheckpointStore(state)
    base, real = chain(slow, 3), slow._catalog.highest_used
    stale = iter([3])

    def overtake():
        chain(busy, 1, base=base)
        monkeypatch.setattr(slow._catalog, "highest_used", lambda: next(stale, None) or real())

    overtaken_once(monkeypatch, overtake)
    published = publish(slow, base, 100, "mine")
    assert next(stale, None) is None
    assert (published.version, published.parents, added(published)) == (5, (4, 3), 104.0)


def test_numbers_end_with_an_error(state):
    store = CheckpointStore(state)
    base = chain(store, 1)
    (state / "CURRENT").write_text("99999999\n")
    with pytest.raises(StoreError, match="more than eight digits"):
        publish(store, base, 1, "e2")
    assert folders(state) == ["00000001"]


def test_a_publish_leaves_nothing_open(state):
    store = CheckpointStore(state)
    base, before = chain(store, 2), open_descriptors()
    chain(store, 20, base=base)
    ends_s = time.monotonic() + 10.0
    while open_descriptors() > before and time.monotonic() < ends_s:
        time.sleep(0.01)  # the old CURRENT is closed by another thread
    assert open_descriptors() <= before


def open_descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_names_are_made_durable_by_an_fsync_of_something_new(state, monkeypatch):
    """One that failed before may succeed without having written anything."""
    store, changed = CheckpointStore(state), []
    chain(store, 1)
    checkpoints, real = state / "checkpoints", publishing.fsync_folder
    os.utime(checkpoints, (5, 5))

    def fsync_folder(path):
        changed.append(path == checkpoints and path.stat().st_mtime > 5)
        real(path)

    monkeypatch.setattr(publishing, "fsync_folder", fsync_folder)
    store.repair_current()
    assert changed == [True]


def test_damaged_versions_that_repair_needs_are_never_pruned(state):
    chain(CheckpointStore(state), 8)
    for version in (5, 6, 7, 8):
        damage(state, version)
    store = CheckpointStore(state)
    assert store.prune(keep_last=1, now_s=time.time() + 9, **FOREVER) == [1, 2, 3]
    assert folders(state) == [f"{version:08d}" for version in (4, 5, 6, 7, 8)]


def test_what_is_published_during_a_prune_keeps_its_ids(state, monkeypatch):
    pruner, busy = CheckpointStore(state), CheckpointStore(state)
    chain(pruner, 3)
    scan = pruner._catalog.scan

    def overtaken():
        chain(busy, 5, base=busy.head())
        return scan()

    pruner.head()
    monkeypatch.setattr(pruner._catalog, "scan", overtaken)
    pruner.prune(keep_last=1, now_s=time.time() + 9, **FOREVER)
    monkeypatch.undo()
    names = [f"e{i}" for i in range(1, 9)]
    assert learned(CheckpointStore(state), *names) == {name: int(name[1:]) for name in names}


@pytest.mark.parametrize("content", [None, b"", b"0000", b"00000002\n", b"00000009\n"])
def test_current_is_repaired(state, content):
    chain(CheckpointStore(state), 3)
    (state / "CURRENT").unlink()
    if content is not None:
        (state / "CURRENT").write_bytes(content)
    store = CheckpointStore(state)
    assert store.repair_current() == 3
    assert (state / "CURRENT").read_bytes() == b"00000003\n"
    assert learned(CheckpointStore(state), "e1", "e3") == {"e1": 1, "e3": 3}
    following = 10 if content == b"00000009\n" else 4
    assert publish(CheckpointStore(state), store.head(), 1).version == following


def test_current_leaves_a_damaged_version(state):
    chain(CheckpointStore(state), 3)
    damage(state, 3)
    assert CheckpointStore(state).repair_current() == 2
    assert publish(CheckpointStore(state), initial(), 1).version == 4


def test_current_never_moves_backwards_when_the_lock_is_ignored(state, monkeypatch):
    slow, quick = CheckpointStore(state), CheckpointStore(state)
    chain(slow, 1)
    replace_path = type(state).replace

    def overtaken(path, target):
        monkeypatch.undo()
        quick._publisher.locked = lambda name: contextlib.nullcontext()
        publish(quick, quick.head(), 10, writer="online")
        return replace_path(path, target)

    monkeypatch.setattr(type(state), "replace", overtaken)
    second = publish(slow, slow.head(), 1)
    assert second.version == 2
    assert slow.current() == 3
    assert added(slow.head()) == 12.0


def test_a_writer_that_always_loses_takes_the_lock_for_the_whole_build(state, monkeypatch):
    loser, winner = CheckpointStore(state), CheckpointStore(state)
    base = chain(loser, 1)
    publisher = loser._publisher
    attempt, swap, holding, beaten = publisher._attempt, publisher._swap, [], []

    def attempt_noted(save, lock):
        holding.append(lock is contextlib.nullcontext)
        return attempt(save, lock)

    def swap_too_late(folder, number):
        if not holding[-1]:
            winner._publisher.locked = lambda name: contextlib.nullcontext()
            beaten.append(publish(winner, winner.head(), 1, writer="online"))
        return swap(folder, number)

    monkeypatch.setattr(publisher, "_attempt", attempt_noted)
    monkeypatch.setattr(publisher, "_swap", swap_too_late)
    last = publish(loser, base, 100)
    assert holding == [False] * 8 + [True]
    assert added(last) == 1.0 + len(beaten) + 100.0


def test_a_busy_lock_ends_in_an_error_that_says_where(state):
    store = CheckpointStore(state, lock_timeout_s=0.05)
    chain(store, 1)
    ready, done = threading.Event(), threading.Event()

    def other():
        with hold(state / "lock" / "publish", 1.0):
            ready.set()
            done.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    ready.wait(10)
    try:
        with pytest.raises(StoreBusy) as caught:
            publish(store, store.head(), 1)
    finally:
        done.set()
        thread.join()
    assert caught.value.path.endswith("lock/publish")
    assert folders(state) == ["00000001"]
    assert publish(store, store.head(), 1).version == 2


def test_a_lock_is_waited_for_and_handed_over(tmp_path):
    path, order, taken = tmp_path / "publish", [], threading.Event()

    def other():
        with hold(path, 10.0):
            order.append("first")
            taken.set()
            time.sleep(0.02)
            order.append("gives it back")

    thread = threading.Thread(target=other)
    thread.start()
    taken.wait(10)
    with hold(path, 10.0):
        order.append("second")
    thread.join()
    assert order == ["first", "gives it back", "second"]


def test_a_lock_is_open_to_every_writer_of_the_group(tmp_path):
    before = os.umask(0o077)
    try:
        with hold(tmp_path / "publish", 1.0):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "publish").stat().st_mode & 0o777 == 0o660


def test_the_lock_is_held_briefly_and_its_file_stays(state, monkeypatch):
    store = CheckpointStore(state)
    first = chain(store, 1)
    inode = (state / "lock" / "publish").stat().st_ino
    publish(store, first, 1)
    assert (state / "lock" / "publish").stat().st_ino == inode
    assert (state / "lock" / "publish").stat().st_mode & 0o777 == 0o660


def test_leftovers_of_dead_writers_are_swept_and_living_ones_spared(state):
    store = CheckpointStore(state, clock=lambda: time.time() + 10_000)
    chain(store, 2)
    dead = state / "checkpoints" / ".tmp-dead"
    dead.mkdir()
    (dead / "model.safetensors").write_bytes(b"half")
    pruned = state / "checkpoints" / ".pruned-00000001-x"
    pruned.mkdir()
    (state / ".tmp-aside").write_bytes(b"0000")
    with scratch_folder(state / "checkpoints") as living:
        store.sweep()
        assert living.is_dir()
    assert folders(state) == ["00000001", "00000002"]
    assert not list(state.glob(".tmp-*"))


def test_young_leftovers_are_spared(state):
    store = CheckpointStore(state)
    chain(store, 1)
    (state / "checkpoints" / ".tmp-young").mkdir()
    store.sweep()
    assert ".tmp-young" in folders(state)


def test_where_folders_cannot_be_locked_age_alone_decides(state, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(scratch.fcntl, "flock", refuse)
    state.mkdir()
    with scratch_folder(state) as folder:
        assert not scratch._is_dead(folder, time.time() + 30.0)
        assert scratch._is_dead(folder, time.time() + 90.0)


def test_too_many_open_files_is_no_damage(state, monkeypatch):
    chain(CheckpointStore(state), 2)
    store = CheckpointStore(state)

    def refuse(*_):
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(type(state), "read_bytes", refuse)
    with pytest.raises(StoreError, match="too many open files"):
        store.head()
    monkeypatch.undo()
    assert store.head().version == 2


def test_a_publish_costs_the_same_in_a_store_with_many_versions(state, monkeypatch):
    def calls_of_a_publish(store, base):
        calls = []
        with monkeypatch.context() as patch:
            for module, name in ((os, "stat"), (os, "lstat"), (os, "listdir"), (os, "scandir"), (io, "open")):
                real = getattr(module, name)
                patch.setattr(module, name, lambda *a, real=real, **k: calls.append(a) or real(*a, **k))
            publish(store, base, 1, "counted")
        return len(calls)

    young, old = CheckpointStore(state / "young"), CheckpointStore(state / "old")
    few = calls_of_a_publish(young, chain(young, 3))
    many = calls_of_a_publish(old, chain(old, 120))
    assert many == few
    assert few < 80


def test_the_head_is_cached_but_a_new_version_is_seen_at_once(state):
    ours, theirs = CheckpointStore(state), CheckpointStore(state)
    chain(ours, 1)
    assert ours.head() is ours.head()
    publish(theirs, theirs.head(), 10, writer="online")
    assert added(ours.head()) == 11.0


def test_versions_are_listed_from_their_manifests(state, store):
    chain(store, 2)
    publish(store, store.load(1), 5, "x", writer="online", saved_at=5.0)
    damage(state, 2, "manifest.json")
    first, second, third = store.versions()
    assert (first.version, first.parents, first.episodes, first.updates_total) == (1, (), 1, 1)
    assert second.damaged
    assert (third.parents, third.writer, third.saved_at) == ((2, 1), "online", 5.0)
    assert (third.episodes_total, third.current) == (3, True)
    assert not first.current


def test_nothing_of_the_manifest_is_left_to_chance(store):
    first = chain(store, 1)
    json.dumps(first.manifest, allow_nan=False)
    assert first.manifest["adam_steps"] == {"policy": 0, "value": 0}
    counters = {"updates": 1, "steps": 40, "adam_policy": 16, "adam_value": 16}
    second = store.publish(Delta(weights={}, counters=counters), base=first, writer="daemon", episodes=[])
    third = store.publish(Delta(weights={}, counters=counters), base=first, writer="daemon", episodes=[])
    assert third.manifest["adam_steps"] == {"policy": 32, "value": 32}
    assert third.counters["steps"] == 80
    assert third.manifest["parents_saved_at"] == [second.saved_at, first.saved_at]


def test_what_another_store_object_published_need_not_be_read(state, store, monkeypatch):
    beside = CheckpointStore(state)
    first = publish(store, initial(), 1, "a")
    assert learned(beside, "a") == {"a": 1}
    second = publish(store, first, 1, "b")
    beside.note(second, entries("b"))

    def read(*_):
        raise AssertionError("a file was read")

    with monkeypatch.context() as patched:
        patched.setattr("policies.catalog.read_checkpoint", read)
        patched.setattr("policies.ledger.read_manifest", read)
        assert beside.head() is second
        assert learned(beside, "a", "b", "c") == {"a": 1, "b": 2}
    third = publish(CheckpointStore(state), second, 1, "c")
    fourth = publish(store, third, 1, "d")
    beside.note(fourth, entries("d"))  # the one before was never told of
    assert learned(beside, "a", "b", "c", "d") == {"a": 1, "b": 2, "c": 3, "d": 4}
    assert beside.highest_used() == 4
