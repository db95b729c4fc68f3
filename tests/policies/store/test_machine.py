"""A store under two writers, rollbacks, kills, retention, damage and reopening, against a model of it."""

import contextlib
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from store_tools import added, dying, entries, initial, publish

from policies.errors import (
    AlreadyLearned,
    BaseRejected,
    NothingToRollBack,
    StoreError,
    VersionDamaged,
    VersionPruned,
)
from policies.manifest import version_folder
from policies.rollback import Rejected
from policies.store import CheckpointStore

WRITERS = ("daemon", "online")
WRITER = st.sampled_from(WRITERS)
STALE = st.sampled_from([0, 2, 100])
KEEP = {"keep_minutes": 0.0, "keep_bytes": 10**12, "now_s": 1e12}
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


class StoreMachine(RuleBasedStateMachine):
    """A model of the lineage.

    `lines` maps each version of the present lineage to (sum of changes, ids learned by then, updates), and
    `rejected` to the versions that are rejected as far as it knows.
    """

    @initialize()
    def open(self):
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY, prefix="learnerd-test-"))
        self.state = self.folder / "state"
        self.lines, self.rejected = {}, {}
        self.there = set()
        self.acting = set()
        self.highest = 0
        self.bases = {writer: initial() for writer in WRITERS}
        self.names = 0
        self.reopen()

    def teardown(self):
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)

    @rule()
    def reopen(self):
        self.stores = {writer: CheckpointStore(self.state) for writer in WRITERS}

    @rule(writer=WRITER)
    def take_the_head(self, writer):
        self.bases[writer] = self.stores[writer].head() or initial()

    @rule(writer=WRITER, change=st.integers(-50, 50), episodes=st.integers(0, 3))
    def publish(self, writer, change, episodes):
        names = self.fresh(episodes)
        if self.is_rejected(writer):
            with pytest.raises(BaseRejected):
                publish(self.stores[writer], self.bases[writer], change, *names, writer=writer)
            self.names -= episodes
            return
        version = publish(self.stores[writer], self.bases[writer], change, *names, writer=writer)
        self.expect(version.version, change, names)
        self.bases[writer] = version

    @precondition(lambda self: self.lines)
    @rule(writer=WRITER, data=st.data(), at=st.none() | st.integers(0, 22))
    def roll_back(self, writer, data, at):
        """Go back to any version of the lineage; None: without being killed."""
        to, head = data.draw(st.sampled_from(sorted(self.lines))), max(self.lines)
        if to in self.lines.keys() - self.there:
            with pytest.raises(StoreError):
                self.stores[writer].rollback(to, writer=writer, reason="")
            return
        with dying(at), contextlib.suppress(NothingToRollBack):
            self.stores[writer].rollback(to, writer=writer, reason="")
        if at is not None:
            self.reopen()
        newest = self.stores[writer].head().version
        if newest != head:
            self.expect_rollback(newest, to)
        self.stores[writer].repair_current()

    @precondition(lambda self: self.learned())
    @rule(writer=WRITER, data=st.data())
    def publish_again(self, writer, data):
        old = data.draw(st.sampled_from(sorted(self.learned())))
        if self.is_rejected(writer):
            return
        with pytest.raises(AlreadyLearned) as caught:
            publish(self.stores[writer], self.bases[writer], 1, *self.fresh(1), old, writer=writer)
        assert [key.episode_id for key in caught.value.keys] == [str(old)]

    @rule(writer=WRITER, change=st.integers(1, 50), at=st.integers(0, 22))
    def publish_and_die(self, writer, change, at):
        if self.is_rejected(writer):
            return
        names, before = self.fresh(2), self.stores[writer].head()
        with dying(at):
            publish(self.stores[writer], self.bases[writer], change, *names, writer=writer)
        self.reopen()
        head = self.stores[writer].head()
        if head is not None and (before is None or head.version != before.version):
            self.expect(head.version, change, names)
        self.stores[writer].repair_current()

    @rule(writer=WRITER, keep_last=st.integers(0, 5), keep_every=st.sampled_from([0, 3]), stale=STALE)
    def prune(self, writer, keep_last, keep_every, stale):
        removed = self.stores[writer].prune(
            **KEEP, keep_last=keep_last, keep_every=keep_every, max_staleness=stale
        )
        assert not self.lines or max(self.lines) not in removed
        self.acting &= self.fresh_enough(stale) | (self.there - set(removed))
        self.there -= set(removed)

    @rule(writer=WRITER, keep_last=st.integers(0, 3), at=st.integers(0, 60), stale=STALE)
    def prune_and_die(self, writer, keep_last, at, stale):
        with dying(at):
            self.stores[writer].prune(**KEEP, keep_last=keep_last, keep_every=0, max_staleness=stale)
        self.reopen()
        self.acting &= self.fresh_enough(stale) | self.on_disk()
        if self.lines:
            self.there &= self.on_disk()

    @rule(writer=WRITER, at=st.integers(0, 12))
    def start_and_die(self, writer, at):
        """A daemon's start clears away and repairs; it may be killed at that."""
        with dying(at):
            self.stores[writer].sweep()
            self.stores[writer].repair_current()
        self.reopen()

    @precondition(lambda self: len(self.there & self.lines.keys()) > 1)
    @rule(name=st.sampled_from(["model.safetensors", "ledger.parquet", "manifest.json"]))
    def damage_the_newest(self, name):
        newest = max(self.lines)
        path = version_folder(self.state, newest) / name
        data = bytearray(path.read_bytes())
        data[len(data) // 3] ^= 1
        path.write_bytes(data)
        self.there.discard(newest)
        self.acting.discard(newest)
        head = max(self.there & self.lines.keys())
        self.lines = {version: line for version, line in self.lines.items() if version <= head}
        self.rejected = {version: self.rejected[version] for version in self.lines}
        self.reopen()
        assert newest in self.stores["daemon"].damaged()
        assert self.stores["daemon"].repair_current() == head

    @invariant()
    def everything_is_there_once(self):
        if not hasattr(self, "stores"):
            return
        for store in self.stores.values():
            head = store.head()
            assert (0 if head is None else head.version) == max(self.lines, default=0)
            if head is not None:
                assert (added(head), head.counters["episodes"]) == (self.total(), len(self.learned()))
                assert store.current() == head.version
                told = Rejected.of(head)
                assert {n for n in range(1, self.highest + 1) if told.find(n)} == self.rejected[head.version]
            known = store.lookup(entry.key for entry in entries(*range(self.names)))
            assert {int(key.episode_id) for key in known} == self.learned()
            assert all(hit.version in self.lines for hit in known.values())

    @invariant()
    def what_acted_is_told_exactly_or_not_at_all(self):
        if not hasattr(self, "stores"):
            return
        store, known = self.stores["online"], set()
        for version, (total, _, updates) in self.lines.items():
            try:
                acting = store.actor(version)
            except (VersionPruned, VersionDamaged):
                continue
            assert (acting.version, acting.updates, added(acting)) == (version, updates, total)
            known.add(version)
        assert known >= self.acting & self.lines.keys()
        told = dict(store.updates_above(0))
        assert {version: told.get(version) for version in known} == {v: self.lines[v][2] for v in known}

    def fresh_enough(self, stale):
        newest = self.lines[max(self.lines)][2] if self.lines else 0
        return {version for version, (_, _, updates) in self.lines.items() if newest - updates <= stale}

    def on_disk(self):
        folder = self.state / "checkpoints"
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        return {int(name) for name in names if name.isdigit()}

    def fresh(self, count):
        self.names += count
        return range(self.names - count, self.names)

    def learned(self):
        return self.lines[max(self.lines)][1] if self.lines else frozenset()

    def total(self):
        return self.lines[max(self.lines)][0] if self.lines else 0

    def expect(self, version, change, names):
        assert version == self.highest + 1
        self.highest = version
        updates = self.lines[max(self.lines)][2] + 1 if self.lines else 1
        known = self.rejected[max(self.lines)] if self.lines else set()
        self.lines[version] = (self.total() + change, self.learned() | set(names), updates)
        self.rejected[version] = known
        self.there.add(version)
        self.acting.add(version)

    def expect_rollback(self, version, to):
        assert version == self.highest + 1
        self.highest = version
        self.lines[version] = (self.lines[to][0], self.learned(), self.lines[max(self.lines)][2])
        self.rejected[version] = self.rejected[to] | set(range(to + 1, version))
        self.there.add(version)
        self.acting.add(version)

    def is_rejected(self, writer):
        return bool(self.lines) and self.bases[writer].version in self.rejected[max(self.lines)]


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
