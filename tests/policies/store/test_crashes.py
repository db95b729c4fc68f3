"""A publish that fails or is killed at any call leaves either the old head or the new one."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from store_tools import CHANGES, READS, Killed, added, entries, fail_at, initial, publish

from policies.checkpoint import Checkpoint
from policies.errors import AlreadyLearned, NotDurable, StoreError
from policies.store import CheckpointStore


def check_reopened(state, *, published):
    """The store holds version 1, or 1 and 2, whole; publishing the same again never doubles it."""
    store = CheckpointStore(state)
    head = store.head()
    assert head.version in ((1, 2) if published is None else (2,) if published else (1,))
    assert store.damaged(thorough=True) == []
    known = {key.episode_id for key in store.lookup(entry.key for entry in entries("a", "b"))}
    assert added(head) == (11.0 if head.version == 2 else 1.0)
    assert known == ({"a", "b"} if head.version == 2 else {"a"})
    assert store.repair_current() == head.version
    if head.version == 2:
        with pytest.raises(AlreadyLearned):
            publish(store, store.load(1), 10, "b")
    else:
        assert publish(store, head, 10, "b").version == 2
    assert added(store.head()) == 11.0
    assert store.head().counters == {"updates": 2, "episodes": 2}
    assert store.current() == 2
    return head.version


def published_once(state) -> tuple[CheckpointStore, Checkpoint]:
    store = CheckpointStore(state)
    return store, publish(store, initial(), 1, "a")


def test_an_error_at_any_call_is_a_store_error_or_none(state, monkeypatch):
    k, published, failed = 0, 0, 0
    while True:
        store, first = published_once(state / str(k))
        result = None
        with monkeypatch.context() as patch:
            calls = fail_at(patch, k, OSError(5, "injected"), once=True, names=CHANGES + READS)
            try:
                result = publish(store, first, 10, "b")
            except StoreError:
                failed += 1
        if len(calls) <= k:
            break
        if result is not None:
            published += 1
            assert (result.version, added(result)) == (2, 11.0)
        check_reopened(state / str(k), published=result is not None)
        k += 1
    assert k > 40
    assert published > 5
    assert failed > 20


@pytest.mark.parametrize("number", [28, 30, 24])
def test_errors_that_stay_end_in_a_store_error(state, monkeypatch, number):
    """A full or read-only disk: every later write fails too."""
    for k in range(0, 200, 3):
        store, first = published_once(state / str(k))
        result = None
        with monkeypatch.context() as patch:
            calls = fail_at(patch, k, OSError(number, "injected"), once=False, names=CHANGES)
            with contextlib.suppress(StoreError):
                result = publish(store, first, 10, "b")
        if len(calls) <= k:
            return
        check_reopened(state / str(k), published=True if result is not None else None)
    pytest.fail("a publish makes fewer calls than that")


def test_a_kill_at_any_call_leaves_the_old_head_or_the_new_one(state, monkeypatch):
    k, heads = 0, []
    while True:
        store, first = published_once(state / str(k))
        with monkeypatch.context() as patch:
            calls = fail_at(patch, k, Killed(), once=False, names=CHANGES)
            with contextlib.suppress(Killed):
                publish(store, first, 10, "b")
        if len(calls) <= k:
            break
        heads.append(check_reopened(state / str(k), published=None))
        k += 1
    assert heads == sorted(heads)
    assert set(heads) == {1, 2}
    assert len(heads) > 15


def test_a_process_that_dies_at_any_call_leaves_the_old_head_or_the_new_one(state):
    state.mkdir()
    worker = Path(__file__).with_name("crash_worker.py")
    path = os.pathsep.join([str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, worker, state],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert result.returncode == 0, result.stderr
    calls = int(result.stdout)
    heads = [check_reopened(state / str(k), published=None) for k in range(calls)]
    assert calls > 15
    assert heads == sorted(heads)
    assert set(heads) == {1, 2}


def test_everything_is_durable_before_it_is_visible(state, monkeypatch):
    store, first = published_once(state)
    events = []

    def fsync(descriptor, real=os.fsync):
        events.append(("fsync", Path(f"/proc/self/fd/{descriptor}").readlink()))
        real(descriptor)

    def rename(source, target, real=os.rename):
        events.append(("rename", Path(target)))
        real(source, target)

    def replace(source, target, real=os.replace):
        events.append(("replace", Path(target)))
        real(source, target)

    for call in (fsync, rename, replace):
        monkeypatch.setattr(os, call.__name__, call)
    publish(store, first, 10, "b")
    visible = events.index(("rename", state / "checkpoints" / "00000002"))
    scratch = [path for _, path in events[:visible] if path.parent.name.startswith(".tmp-")]
    assert {path.name for path in scratch} == {
        path.name for path in (state / "checkpoints" / "00000002").iterdir()
    }
    assert ("fsync", scratch[0].parent) in events[:visible]
    after = events[visible + 1 :]
    assert after == [
        ("fsync", state / "checkpoints"),
        ("replace", state / "CURRENT"),
        ("fsync", state),
    ]


def fsyncs_of_folders(patch, *, failing=0):
    """Record the folders that are flushed; the first ones fail."""
    flushed = []

    def fsync(descriptor, real=os.fsync):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_dir() and not path.name.startswith("."):
            flushed.append(path.name)
            if flushed.count("checkpoints") <= failing and path.name == "checkpoints":
                raise OSError(5, "injected")
        real(descriptor)

    patch.setattr(os, "fsync", fsync)
    return flushed


def test_a_name_whose_fsync_failed_is_flushed_anew_before_it_is_acknowledged(state, monkeypatch):
    store, first = published_once(state)
    flushed = fsyncs_of_folders(monkeypatch, failing=1)
    assert publish(store, first, 10, "b").version == 2
    assert flushed.count("checkpoints") == 2
    assert store.current() == 2


def test_a_version_that_cannot_be_made_durable_is_not_acknowledged(state, monkeypatch):
    store, first = published_once(state)
    with monkeypatch.context() as patch:
        flushed = fsyncs_of_folders(patch, failing=99)
        with pytest.raises(NotDurable) as caught:
            publish(store, first, 10, "b")
        assert caught.value.version == 2
        with pytest.raises(StoreError):
            store.lookup(entry.key for entry in entries("b"))
    flushed = fsyncs_of_folders(monkeypatch)
    assert len(store.lookup(entry.key for entry in entries("b"))) == 1
    assert flushed == ["checkpoints", "state"]  # CURRENT follows
    assert (store.current(), added(store.head())) == (2, 11.0)


def test_a_restart_makes_durable_what_a_killed_writer_had_only_renamed(state, monkeypatch):
    published_once(state)
    flushed = fsyncs_of_folders(monkeypatch)
    CheckpointStore(state).repair_current()
    assert flushed == ["checkpoints"]
