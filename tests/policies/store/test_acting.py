"""Versions that are held back: published in order and learned on from, but not acted with before a word."""

import contextlib

import pytest
from store_tools import CHANGES, added, dying, entries, fail_at, initial, publish

from policies import Actor
from policies.acting import Acting, acting_version, is_held
from policies.errors import NothingToPromote, StoreError, VersionDamaged
from policies.manifest import version_folder
from policies.store import CheckpointStore

HELD = Acting(version=0, held=True)


def held_chain(store, count, *, acting=1):
    """Version 1 acts, the others are held back; each adds 1 and learns the episode of its number."""
    checkpoint = store.head() or publish(store, initial(), 1, "e1", acting=Acting(held=True))
    while checkpoint.version < count:
        name = f"e{checkpoint.version + 1}"
        checkpoint = publish(store, checkpoint, 1, name, acting=Acting(version=acting, held=True))
    return checkpoint


def test_held_versions_are_published_and_learned_on_from_but_not_acted_with(state):
    store = CheckpointStore(state)
    head = held_chain(store, 4)
    actor = Actor(state)
    assert (head.version, added(head), store.current(), store.acting(), actor.version) == (4, 4.0, 1, 1, 1)
    assert {hit.version for hit in store.lookup(e.key for e in entries("e1", "e4")).values()} == {1, 4}
    assert [acting_version(store.manifest(v)) for v in (1, 2, 3, 4)] == [1, 1, 1, 1]
    assert store.repair_current() == 1
    publish(store, head, 1, "e5", acting=Acting(version=3, held=True))
    assert (store.current(), actor.refresh(), actor.version) == (3, True, 3)


def test_a_writer_that_says_nothing_leaves_it_as_it_is(state):
    store = CheckpointStore(state)
    head = held_chain(store, 2)
    head = publish(store, head, 1, "online", writer="online")
    assert (store.current(), is_held(head.manifest)) == (1, True)
    head = publish(store, head, 1, "off", acting=Acting())
    assert (store.current(), is_held(head.manifest)) == (4, False)
    publish(store, head, 1, "after", writer="online")
    assert store.current() == 5


def test_it_never_runs_backwards(state):
    store = CheckpointStore(state)
    head = held_chain(store, 4)
    head = publish(store, head, 1, "a", acting=Acting(version=4, held=True))
    head = publish(store, head, 1, "b", acting=Acting(version=2, held=True))
    assert (store.current(), acting_version(head.manifest)) == (4, 4)


def test_none_acts_before_the_first_word(state):
    store = CheckpointStore(state)
    head = publish(store, initial(), 1, "e1", acting=HELD)
    publish(store, head, 1, "e2", acting=HELD)
    assert (store.current(), store.acting(), store.repair_current()) == (None, None, None)
    assert Actor(state).version is None
    store.promote(writer="operator", reason="good")
    assert store.current() == 3


def test_promotion_of_one_and_of_the_newest(state):
    store = CheckpointStore(state)
    held_chain(store, 4)
    done = store.promote(3, writer="operator", reason="earns more")
    assert (done.version, added(done), store.current()) == (5, 4.0, 3)
    assert done.manifest["record"] == {"promoted": {"version": 3, "reason": "earns more"}}
    done = store.promote(writer="operator", reason="newest")
    assert (done.version, added(done), store.current()) == (6, 4.0, 6)
    assert is_held(done.manifest)
    assert done.counters == {"updates": 4, "episodes": 4}
    head = publish(store, done, 1, "next")
    assert store.current() == 6 < head.version


def test_what_may_not_act_is_not_promoted(state):
    store = CheckpointStore(state)
    held_chain(store, 4, acting=1)
    store.promote(2, writer="operator", reason="")
    for version, why in ((2, "version 2 acts"), (1, "version 2 acts"), (99, "no version 99")):
        with pytest.raises(StoreError, match=why):
            store.promote(version, writer="operator", reason="")
    (version_folder(state, 4) / "model.safetensors").write_bytes(b"")
    with pytest.raises(VersionDamaged):
        store.promote(4, writer="operator", reason="")
    store.rollback(2, writer="operator", reason="")
    with pytest.raises(NothingToPromote, match="version 6 acts"):
        store.promote(3, writer="operator", reason="")
    assert store.current() == 6


def test_a_rollback_acts_at_once_and_the_next_ones_stay_held(state):
    store = CheckpointStore(state)
    held_chain(store, 4)
    done = store.rollback(2, writer="daemon", reason="worse")
    assert (done.version, store.current()) == (5, 5)
    publish(store, done, 1, "next")
    assert store.current() == 5


@pytest.mark.parametrize("ruin", ["missing", "torn", "ahead"])
def test_current_is_repaired_to_what_acts(state, ruin):
    store = CheckpointStore(state)
    head = held_chain(store, 4)
    publish(store, head, 1, "e5", acting=Acting(version=3, held=True))
    current = state / "CURRENT"
    current.unlink() if ruin == "missing" else current.write_text("0000" if ruin == "torn" else "00000009\n")
    assert CheckpointStore(state).repair_current() == 3


def test_a_promotion_whose_version_is_damaged_is_not_taken_back(state):
    store = CheckpointStore(state)
    held_chain(store, 4)
    store.promote(3, writer="operator", reason="")
    (version_folder(state, 5) / "model.safetensors").write_bytes(b"")
    again = CheckpointStore(state)
    assert (again.head().version, again.repair_current()) == (4, 3)


def test_when_what_acts_is_damaged_the_one_before_it_does(state):
    store = CheckpointStore(state)
    head = held_chain(store, 4)
    publish(store, head, 1, "e5", acting=Acting(version=3, held=True))
    (version_folder(state, 3) / "model.safetensors").write_bytes(b"")
    assert CheckpointStore(state).repair_current() == 1


def test_a_kill_anywhere_leaves_only_what_may_act(state):
    """Of a publish that lets version 3 act while 4 is held, and of one that holds all."""
    for acting in (1, 3):
        for k in range(200):
            folder = state / f"{acting}-{k}"
            store = CheckpointStore(folder)
            head = held_chain(store, 3)
            with dying(k):
                publish(store, head, 1, "e4", acting=Acting(version=acting, held=True))
            after = CheckpointStore(folder)
            assert after.current() in (1, acting)
            expected = acting if after.head().version == 4 else 1
            assert after.repair_current() == expected
            if after.current() == acting and after.head().version == 4 and k > 60:
                break
        else:
            pytest.fail("a publish makes fewer calls than that")


def test_an_error_anywhere_leaves_only_what_may_act(state, monkeypatch):
    for k in range(200):
        store = CheckpointStore(state / str(k))
        head = held_chain(store, 3)
        with monkeypatch.context() as patch:
            calls = fail_at(patch, k, OSError(5, "injected"), once=True, names=CHANGES)
            with contextlib.suppress(StoreError):
                publish(store, head, 1, "e4", acting=Acting(version=2, held=True))
        if len(calls) <= k:
            return
        after = CheckpointStore(state / str(k))
        assert after.repair_current() == (2 if after.head().version == 4 else 1)
    pytest.fail("a publish makes fewer calls than that")


def test_retention_keeps_what_acts(state):
    store = CheckpointStore(state)
    held_chain(store, 8)
    store.prune(keep_last=2, keep_every=0, keep_minutes=0.0, keep_bytes=10**12, now_s=1e12)
    assert [info.version for info in store.versions()] == [1, 7, 8]
