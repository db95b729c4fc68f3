"""The spool as a state machine: whatever is done and wherever it is killed, no file is lost or doubled."""

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from experience.archive import read_shard
from experience.durable import ASIDE
from experience.episode import Episode
from experience.errors import Problem
from experience.spool import Spool

PROBLEM = Problem(reason="truncated", field="file", value="x", accepted="y")
NAMES = st.sampled_from(["a.npz", "b\n.jsonl", "c\udcff", "d" * 250])
FATES = st.sampled_from(["archive", "refuse", "quarantine"])


def episode(content):
    return Episode(
        episode_id=content,
        action=np.array([0]),
        reward=np.array([1.0]),
        obs=np.zeros((1, 1), np.float32),
        terminated=True,
        truncated=False,
    )


class Killed(BaseException):
    pass


class SpoolStates(RuleBasedStateMachine):
    waiting = Bundle("waiting")

    def __init__(self):
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(os, "fsync", lambda file: None)  # counted by ``die_after``, not waited for
        self.read = {}
        self.spool = Spool(self.root)
        self.spool.make_folders()
        self.deposited = {}
        self.version = 0

    def teardown(self):
        self.patch.undo()
        shutil.rmtree(self.root)

    @rule(target=waiting, name=NAMES)
    def deposit(self, name):
        content = f"episode-{len(self.deposited)}"
        unique = f"{len(self.deposited)}{name}"
        aside = self.root / "in" / f".tmp-{len(self.deposited)}"
        aside.write_text(content)
        aside.rename(self.root / "in" / unique)
        self.deposited[content] = unique
        return content

    @rule(content=waiting)
    def claim_and_die(self, content):
        with dying(0):
            self.spool.claim(self.deposited[content])

    @rule(kill=st.integers(0, 3))
    def attempt_and_die(self, kill):
        with dying(kill):
            for claim in self.spool.resume():
                self.spool.attempt(claim)

    @rule(kill=st.integers(0, 6))
    def start_and_die(self, kill):
        with dying(kill):
            self.spool.make_folders()
            self.spool.sweep(time.time() + 90_000)

    @rule(content=consumes(waiting))
    def claim(self, content):
        name = self.deposited[content]
        claim = self.spool.claim(name)
        assert (claim is None) == (content not in self.places("claimed"))
        assert self.spool.claim(name) is None

    @rule()
    def attempt_all(self):
        for claim in self.spool.resume():
            again = self.spool.attempt(claim)
            assert (again.id, again.name, again.attempt) == (claim.id, claim.name, claim.attempt + 1)
            self.spool.work_path(again).write_text(again.path.read_text())

    @rule(fate=FATES, kill=st.integers(0, 40))
    def end_batch(self, fate, kill):
        """What the daemon does with its claims, killed at some call, then started again."""
        version = self.version + 1
        for budget in (kill, None):
            with pytest.MonkeyPatch.context() as patch:
                if budget is not None:
                    die_after(patch, budget)
                try:
                    self.run(fate, version)
                except Killed:
                    self.spool = Spool(self.root)
            self.each_file_is_somewhere()
        self.version = version

    def run(self, fate, version):
        claims = self.spool.resume()
        episodes = [episode(claim.path.read_text()) for claim in claims]
        if fate == "archive" and claims:
            self.spool.archive(version, episodes, published_at=1e9)
        for claim, one in zip(claims, episodes, strict=True):
            if fate == "quarantine":
                self.spool.quarantine(claim, PROBLEM, now=1e9)
            else:
                if fate == "refuse":
                    self.spool.refuse(claim, "mask", [one])
                self.spool.finish(claim)

    @rule()
    def restart_and_sweep(self):
        self.spool = Spool(self.root)
        self.spool.make_folders()
        self.spool.sweep(time.time() + 90_000)
        copies = set((self.root / "work").iterdir())
        assert copies <= {self.spool.work_path(claim) for claim in self.spool.resume()}

    def places(self, where):
        if where in ("archive", "refused"):
            shards = (self.root / where).rglob("*.parquet")
            return [one for shard in shards for one in self.ids(shard)]
        files = (path for path in (self.root / where).rglob("*") if path.is_file())
        return [
            path.read_text() for path in files if not path.name.startswith(".tmp-") and not is_record(path)
        ]

    def ids(self, shard):
        inode = shard.stat().st_ino, shard.stat().st_mtime_ns
        if inode not in self.read:
            self.read[inode] = [one.episode_id for one in read_shard(shard)]
        return self.read[inode]

    def each_file_is_somewhere(self):
        """Between a kill and the next start a claim may be there beside what it became."""
        held = self.places("in") + self.places("claimed") + self.places("quarantine")
        kept = self.places("archive") + self.places("refused")
        assert len(held) == len(set(held))
        assert len(kept) == len(set(kept))
        assert {*held, *kept} == set(self.deposited)

    @invariant()
    def each_file_is_in_exactly_one_place(self):
        found = [
            one
            for where in ("in", "claimed", "archive", "refused", "quarantine")
            for one in self.places(where)
        ]
        assert sorted(found) == sorted(self.deposited)

    @invariant()
    def each_quarantined_file_has_one_record(self):
        found = [path for path in (self.root / "quarantine").rglob("*") if path.is_file()]
        files = [path for path in found if not path.name.startswith(ASIDE)]  # for the sweep
        records = {path.name[:36] for path in files if path.name.endswith(".json")}
        assert records == {path.name[:36] for path in files if not path.name.endswith(".json")}


def is_record(path):
    return path.name.endswith(".json") and path.parent.parent.name == "quarantine"


@contextlib.contextmanager
def dying(budget):
    """The process ends after so many calls that change the disk."""
    with pytest.MonkeyPatch.context() as patch:
        die_after(patch, budget)
        with contextlib.suppress(Killed):
            yield


def die_after(patch, budget):
    left = [budget]

    def patched(real):
        def call(*args, **kwargs):
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return real(*args, **kwargs)

        return call

    for name in ("write", "fsync", "mkdir", "rename", "replace", "unlink"):
        patch.setattr(os, name, patched(getattr(os, name)))


SpoolStates.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestSpoolStates = SpoolStates.TestCase
