"""Rollbacks: old weights under a new number, counts that go on, and what becomes of the rejected versions."""

import contextlib
import dataclasses
import shutil
import time

import numpy as np
import pytest
from store_tools import (
    CHANGES,
    READS,
    Killed,
    added,
    delta,
    entries,
    entry,
    fail_at,
    initial,
    publish,
    scalar,
)

from policies.checkpoint import Average, Delta
from policies.errors import (
    AlreadyLearned,
    BadDelta,
    BaseRejected,
    NotAVersion,
    NothingToRollBack,
    StoreError,
    TrainAgain,
    VersionDamaged,
    VersionPruned,
)
from policies.manifest import version_folder
from policies.normalizer import RunningStatistics
from policies.rollback import Rejected, Rejection
from policies.store import CheckpointStore

FOREVER = {"keep_every": 0, "keep_minutes": 0.0, "keep_bytes": 10**12}


def chain(store, count):
    """Publish versions after each other; each adds 1 and learns the episode of its number."""
    checkpoint = store.head() or initial()
    for _ in range(count):
        checkpoint = publish(store, checkpoint, 1, f"e{checkpoint.version + 1}")
    return checkpoint


def rollback(store, to, reason="worse", **fields):
    return store.rollback(to, writer="operator", reason=reason, **fields)


def learned(store, *names):
    return {key.episode_id: hit.version for key, hit in store.lookup(e.key for e in entries(*names)).items()}


def test_the_old_weights_are_published_as_a_new_version(state):
    store = CheckpointStore(state, clock=lambda: 1000.0)
    chain(store, 5)
    done = rollback(store, 2, "returns fell")
    for version in (done, CheckpointStore(state).head()):
        assert (version.version, version.parents, version.writer) == (6, (5, 2), "operator")
        assert (added(version), version.saved_at) == (2.0, 1000.0)
        assert version.manifest["rollback"] == {"to": 2, "rejected": [[3, 5]], "reason": "returns fell"}
        assert version.manifest["rejected"] == [[3, 5]]
        assert version.counters == {"updates": 5, "episodes": 5}
        assert version.manifest["keys"] == []
    assert store.current() == 6
    assert store.delta(6) is None
    assert store.damaged(thorough=True) == []


def test_episodes_of_the_rejected_versions_stay_learned(state):
    store = CheckpointStore(state)
    chain(store, 5)
    rollback(store, 2)
    expected = {f"e{i}": i for i in range(1, 6)}
    for reader in (store, CheckpointStore(state)):
        assert learned(reader, *expected, "new") == expected
        with pytest.raises(AlreadyLearned):
            publish(reader, reader.head(), 1, "e4")
    assert publish(store, store.head(), 1, "new").counters == {"updates": 6, "episodes": 6}


def test_everything_that_the_learner_goes_on_with_is_restored_exactly(state):
    store, rng = CheckpointStore(state), np.random.default_rng(0)

    def step(base):
        shapes = base.spec.shapes()
        averages = {
            f"{kind}.{name}": Average(value=rng.random(shape).astype(np.float32), retained=0.5)
            for kind in ("adam_m", "adam_v", "prox")
            for name, shape in shapes.items()
        }
        change = Delta(
            weights={name: rng.normal(size=shape) for name, shape in shapes.items()},
            averages=averages | {"popart_mean": scalar(rng.normal(), 0.9), "popart_std": scalar(2, 0.9)},
            observed=RunningStatistics.of(rng.normal(size=(7, 2))),
            counters={"updates": 1, "steps": 7, "adam_policy": 16, "adam_value": 16},
        )
        return store.publish(change, base=base, writer="daemon", episodes=[])

    first = step(initial())
    second = step(first)
    step(second)
    done = rollback(store, 2)
    for name in second.weights:
        np.testing.assert_array_equal(done.weights[name], second.weights[name])
    assert done.averages.keys() == second.averages.keys()
    for name in second.averages:
        np.testing.assert_array_equal(done.averages[name], second.averages[name])
    assert done.normalizer.count == second.normalizer.count == 14
    np.testing.assert_array_equal(done.normalizer.m2, second.normalizer.m2)
    assert done.counters == {"updates": 3, "steps": 21, "adam_policy": 32, "adam_value": 32, "episodes": 0}
    assert done.manifest["adam_steps"] == {"policy": 32, "value": 32}


def test_going_back_to_initial_weights_gives_a_learner_fresh_moments(state):
    """Adam's steps are counted beside its moments: a count without them would be negative after an update."""
    store = CheckpointStore(state)
    first = store.publish(Delta(weights={}), base=initial(), writer="daemon", episodes=[])
    store.publish(delta(1, updates=1), base=first, writer="daemon", episodes=[])
    store.publish(
        Delta(weights={}, counters={"adam_policy": 5}), base=store.head(), writer="daemon", episodes=[]
    )
    assert rollback(store, 1).counters == {"updates": 1, "adam_policy": 0, "episodes": 0}


def test_a_change_of_a_rejected_base_is_refused_by_name(state):
    store = CheckpointStore(state)
    chain(store, 3)
    bases = [store.load(version) for version in (1, 2, 3)]
    done = rollback(store, 1)
    for base in bases[1:]:
        with pytest.raises(BaseRejected) as caught:
            publish(store, base, 100, "late", writer="online")
        assert (caught.value.base, caught.value.head) == (base.version, 4)
        assert (caught.value.to, caught.value.by) == (1, 4)
        assert isinstance(caught.value, TrainAgain)
        assert "a change of version 4" in str(caught.value)
    assert store.head().version == 4
    assert learned(store, "late") == {}
    merged = publish(store, bases[0], 100, "late", writer="online")
    assert (merged.parents, added(merged)) == ((4, 1), 101.0)
    assert added(publish(store, done, 10)) == 111.0
    assert publish(store, initial(), 5).version == 7


def test_a_repeated_rollback_does_nothing(state):
    store = CheckpointStore(state)
    chain(store, 3)
    with pytest.raises(NothingToRollBack, match="version 3, the newest, has the weights of version 3"):
        rollback(store, 3)
    rollback(store, 1)
    for to in (1, 4):
        with pytest.raises(NothingToRollBack, match="has the weights of version"):
            rollback(CheckpointStore(state), to)
    assert store.highest_used() == 4
    chain(store, 1)
    assert rollback(store, 1).manifest["rejected"] == [[2, 5]]


def test_an_automatic_one_does_nothing_when_its_version_is_rejected_already(state):
    store = CheckpointStore(state)
    chain(store, 4)
    rollback(CheckpointStore(state), 3)
    chain(store, 1)
    with pytest.raises(NothingToRollBack):
        rollback(store, 2, worse=4)
    assert rollback(store, 5, worse=6).version == 7


def test_rejected_ranges_follow_what_is_gone_back_to(state):
    store = CheckpointStore(state)
    chain(store, 4)
    assert rollback(store, 2).manifest["rejected"] == [[3, 4]]
    chain(store, 2)
    assert rollback(store, 6).manifest["rejected"] == [[3, 4], [7, 7]]
    assert rollback(store, 4).manifest["rejected"] == [[5, 8]]  # the first one was a mistake
    found = Rejected.of(store.head())
    assert [found.find(version) is not None for version in (3, 4, 5, 8, 9)] == [
        False,
        False,
        True,
        True,
        False,
    ]
    assert found.find(6) == Rejection(first=5, last=8)
    assert (found.find(6).to, found.find(6).by) == (4, 9)
    assert chain(store, 1).manifest["rejected"] == [[5, 8]]
    assert "rollback" not in store.head().manifest


def test_what_cannot_be_gone_back_to_says_so(state):
    store = CheckpointStore(state)
    chain(store, 5)
    store.prune(keep_last=3, now_s=time.time() + 9, **FOREVER)
    path = version_folder(state, 4) / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    for to, error in ((1, VersionPruned), (4, VersionDamaged), (6, NotAVersion), (0, NotAVersion)):
        with pytest.raises(error):
            rollback(store, to)
    with pytest.raises(BadDelta):
        store.rollback(3, writer="", reason="x")
    assert store.head().version == 5


def test_no_ancestor_is_gone_back_to(state):
    """Its episodes are in no ledger: they would be learned once more."""
    store = CheckpointStore(state)
    chain(store, 3)
    shutil.copytree(version_folder(state, 3), state / "copy")
    (version_folder(state, 3) / "model.safetensors").write_bytes(b"")
    chain(CheckpointStore(state), 1)
    shutil.rmtree(version_folder(state, 3))
    shutil.move(state / "copy", version_folder(state, 3))
    with pytest.raises(StoreError, match="version 3 is no ancestor of version 4"):
        rollback(CheckpointStore(state), 3)


def test_damaged_versions_above_the_head_are_rejected_with_it(state):
    store = CheckpointStore(state)
    chain(store, 4)
    (version_folder(state, 4) / "model.safetensors").write_bytes(b"")
    done = rollback(CheckpointStore(state), 2)
    assert (done.version, done.manifest["skipped"], done.manifest["rejected"]) == (5, [[4, 4]], [[3, 4]])


def test_retention_spares_pins_and_what_a_rollback_names(state):
    store = CheckpointStore(state)
    chain(store, 6)
    rollback(store, 3)
    chain(store, 6)
    store.pin(1)
    assert store.prune(keep_last=2, now_s=time.time() + 9, **FOREVER) == [2, 4, 5, 8, 9, 10, 11]
    assert [info.version for info in store.versions()] == [1, 3, 6, 7, 12, 13]
    size = max(info.size_bytes for info in store.versions())
    store.prune(**FOREVER | {"keep_bytes": size}, keep_last=2, now_s=time.time() + 9)
    assert [info.version for info in store.versions()] == [1, 12, 13]
    assert rollback(store, 1).manifest["rejected"] == [[2, 13]]


@pytest.mark.parametrize(("version", "error"), [(1, VersionPruned), (9, NotAVersion), (0, NotAVersion)])
def test_what_is_not_there_cannot_be_pinned(state, version, error):
    store = CheckpointStore(state)
    chain(store, 5)
    store.prune(keep_last=2, now_s=time.time() + 9, **FOREVER)
    with pytest.raises(error):
        store.pin(version)
    store.pin(4)
    store.pin(4)
    assert [info.version for info in store.versions() if info.pinned] == [4]


def test_it_wins_against_a_writer_that_publishes_meanwhile(state, monkeypatch):
    store, other = CheckpointStore(state), CheckpointStore(state)
    chain(store, 3)
    real, times = store._publisher._parent, [0]

    def parent(save):
        found = real(save)
        if times[0] < 3:
            times[0] += 1
            publish(other, other.head(), 1, f"other{times[0]}")
        return found

    monkeypatch.setattr(store._publisher, "_parent", parent)
    done = rollback(store, 1)
    assert (done.version, done.manifest["rejected"], added(done)) == (7, [[2, 6]], 1.0)
    assert done.counters == {"updates": 6, "episodes": 6}
    assert learned(store, "other3") == {"other3": 6}


def prepared(state):
    store = CheckpointStore(state)
    chain(store, 3)
    return store


def check_reopened(state, *, done):
    """The store holds the old head or the rollback, whole; asking again gives the rollback, once."""
    store = CheckpointStore(state)
    head = store.head()
    assert head.version in ((3, 4) if done is None else (4,) if done else (3,))
    assert store.damaged(thorough=True) == []
    assert (added(head), Rejected.of(head).to_json()) == ((1.0, [[2, 3]]) if head.version == 4 else (3.0, []))
    assert store.repair_current() == head.version
    with contextlib.suppress(NothingToRollBack):
        rollback(store, 1)
    for reader in (store, CheckpointStore(state)):
        assert (reader.head().version, added(reader.head()), reader.current()) == (4, 1.0, 4)
        assert reader.head().counters == {"updates": 3, "episodes": 3}
        assert learned(reader, "e1", "e2", "e3") == {"e1": 1, "e2": 2, "e3": 3}
    return head.version


def test_an_error_at_any_call_is_a_store_error_or_none(state, monkeypatch):
    k, done, failed = 0, 0, 0
    while True:
        store, result = prepared(state / str(k)), None
        with monkeypatch.context() as patch:
            calls = fail_at(patch, k, OSError(5, "injected"), once=True, names=CHANGES + READS)
            try:
                result = rollback(store, 1)
            except StoreError:
                failed += 1
        if len(calls) <= k:
            break
        done += result is not None
        check_reopened(state / str(k), done=result is not None)
        k += 1
    assert done > 5
    assert failed > 20


def test_a_kill_at_any_call_leaves_the_old_head_or_the_rollback(state, monkeypatch):
    k, heads = 0, []
    while True:
        store = prepared(state / str(k))
        with monkeypatch.context() as patch:
            calls = fail_at(patch, k, Killed(), once=False, names=CHANGES)
            with contextlib.suppress(Killed):
                rollback(store, 1)
        if len(calls) <= k:
            break
        heads.append(check_reopened(state / str(k), done=None))
        k += 1
    assert heads == sorted(heads)
    assert set(heads) == {3, 4}
    assert len(heads) > 15


def test_a_kill_at_any_call_of_a_pin_leaves_it_pinned_or_not(state, monkeypatch):
    k, seen = 0, set()
    while True:
        store = prepared(state / str(k))
        with monkeypatch.context() as patch:
            calls = fail_at(patch, k, Killed(), once=False, names=CHANGES)
            with contextlib.suppress(Killed):
                store.pin(1)
        again = CheckpointStore(state / str(k))
        pinned = [info.version for info in again.versions() if info.pinned]
        removed = again.prune(keep_last=1, now_s=time.time() + 9, **FOREVER)
        assert (pinned, removed) in (([1], []), ([], [1]))
        seen.add(bool(pinned))
        if len(calls) <= k:
            break
        k += 1
    assert seen == {True, False}


def test_a_manifest_from_before_rollbacks_rejects_nothing(state):
    head = dataclasses.replace(chain(CheckpointStore(state), 1), manifest={})
    assert Rejected.of(head) == Rejected.of(None) == Rejected()


def test_the_mean_return_of_what_a_version_learned_is_in_its_manifest(state):
    store = CheckpointStore(state)
    rows = [entry("a", total_reward=1.0), entry("b", total_reward=4.0)]
    first = store.publish(delta(), base=initial(), writer="daemon", episodes=rows)
    assert first.manifest["return_mean"] == 2.5
    assert chain(store, 1).manifest["return_mean"] == 0.0
    odd = [entry("c", total_reward=float("nan"))]
    assert store.publish(delta(), base=store.head(), writer="d", episodes=odd).manifest["return_mean"] is None
    assert rollback(store, 1).manifest["return_mean"] is None
