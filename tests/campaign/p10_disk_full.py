"""Promise 10: a full disk, or one without inodes: nothing corrupt, clients read on, it recovers by itself."""

import contextlib
import json
import random
import shutil
import subprocess
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
from live import Live, episode_text
from outcome import Outcome
from small_disk import Disk

from experience.archive import read_shard
from policies.actor import Actor
from policies.errors import NoPolicyYet
from policies.store import CheckpointStore

NUMBER = 10
PROMISE = "Disk or inodes full: nothing corrupt, clients read on, recovers by itself"
FULL = 120
SAMPLE = 1
START_AFTER = 4
"""A site that was filled so often is also started while it is full."""

RESCAN_S = 1.0
EARLY = 0.6
"""How often the disk is full already when files are renamed in; else it fills up while they are worked on."""
MOST_S = 15.0
"""A rescan, a decoder that starts anew and an update take 3 s; on a machine that others keep busy more."""
GOOD = 12

CONFIG = f"""
[policy]
observation_shape = [2]
action = {{ kind = "discrete", n = 2 }}
hidden = [16]
[batch]
min_episodes = 4
max_wait_s = 0.2
[admission]
settle_s = 0.5
[schedule]
rescan_s = {RESCAN_S}
[learner]
epochs = 1
minibatches = 1
[store]
keep_last = 100000
[disk]
min_free_bytes = 0
"""


class Client:
    """Acts all the time with the newest policy, as a game would; notes what broke."""

    def __init__(self, state):
        self.broken = []
        self.acts = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._act, args=(Actor(state, seed=0),))
        self._thread.start()

    def _act(self, actor):
        newest = 0
        while not self._stop.wait(0.002):
            try:
                actor.refresh()
                actor.act(np.zeros(2, np.float32))
                self.acts += 1
            except NoPolicyYet:
                continue
            except Exception as error:  # noqa: BLE001 - whatever a client meets is a violation
                self.broken.append(f"a client met {type(error).__name__}: {error}")
                return
            if actor.problem is not None:
                self.broken.append(f"a client could not read: {actor.problem}")
            if actor.version < newest:
                self.broken.append(f"a client went from version {newest} to {actor.version}")
            newest = actor.version

    def close(self):
        self._stop.set()
        self._thread.join()


def run(*, trials, seed, progress):
    """Fill disks in four ways under a daemon at work, and free them again."""
    folder = Path(tempfile.mkdtemp(prefix="p10-"))
    sites, violations, done = [], [], 0
    try:
        probe = Disk(folder / "probe")
    except (OSError, subprocess.CalledProcessError):
        shutil.rmtree(folder, ignore_errors=True)
        skipped = "no tmpfs can be mounted here (not privileged)"
        return Outcome(trials=0, violations=(), figure="not run", skipped=skipped)
    probe.close()
    layouts = [(one, inodes) for one in ("both", "spool", "state") for inodes in (False, True)]
    try:
        share = [trials // len(layouts) + (i < trials % len(layouts)) for i in range(len(layouts))]
        for (full, inodes), count in zip(layouts, share, strict=True):
            if count:
                name = f"{full}-{'inodes' if inodes else 'bytes'}"
                site = Site(folder / name, full=full, inodes=inodes, rng=random.Random(f"{seed}-{name}"))
                sites.append(site)
                violations += [f"{name}: {text}" for text in site.campaign(count)]
                done += count
                progress(done)
    finally:
        for site in sites:
            site.close()
        shutil.rmtree(folder, ignore_errors=True)
    hurt = sum(site.hurt for site in sites)
    figure = (
        f"{done} times full in {len(sites)} ways, {hurt} of them while something was written; "
        f"{sum(site.files for site in sites)} files, {sum(site.acts for site in sites)} acts of clients, "
        f"slowest recovery {max(site.slowest_s for site in sites):.1f} s "
        f"(rescan every {RESCAN_S:g} s); alarms {sorted(set().union(*(site.alarms for site in sites)))}"
    )
    return Outcome(trials=done, violations=tuple(violations), figure=figure)


class Site:
    """One daemon whose spool, state, or both lie on a disk that gets full."""

    def __init__(self, folder, *, full, inodes, rng):
        self._inodes, self._rng = inodes, rng
        self._spool_disk = Disk(folder / "spool-disk")
        self._state_disk = self._spool_disk if full == "both" else Disk(folder / "state-disk")
        self._full = self._state_disk if full == "state" else self._spool_disk
        self._live = Live(
            folder / "daemon",
            spool=self._spool_disk.folder / "spool",
            state=self._state_disk.folder / "state",
            config=CONFIG,
        )
        self._expected = {}
        self._broken = []
        self.hurt = self.acts = self.files = 0
        self.slowest_s = 0.0
        self.alarms = set()

    def campaign(self, trials):
        """Fill and free the disk ``trials`` times; returns what broke."""
        self._live.start()
        client = Client(self._live.state)
        try:
            for number in range(trials):
                self._one(f"{number:03d}")
            if trials >= START_AFTER:
                self._start_when_full()
            self._judge()
        except (TimeoutError, RuntimeError) as error:
            self._broken.append(str(error))
        client.close()
        self.acts = client.acts
        return [*self._broken, *client.broken]

    def close(self):
        self._live.close()
        for disk in {self._spool_disk, self._state_disk}:
            disk.close()

    def _one(self, tag):
        """Drop good files with bad neighbors, fill the disk at some moment, look, free it, look again."""
        leave = self._rng.choice([0, 0, 1, 2, 4, 8, 12, 16, 32])
        full_s = self._rng.choice([0.5, 2.0, 4.5])
        names = self._prepare(tag)
        if self._rng.random() < EARLY:
            self._full.fill(inodes=self._inodes, leave=leave)
            self._drop(names)
        else:
            self._drop(names)
            time.sleep(self._rng.uniform(0.0, 0.4))
            self._full.fill(inodes=self._inodes, leave=leave)
        self._watch_alarms(full_s)
        waiting = self._unsettled(names)
        self.hurt += bool(waiting)
        self._full.empty()
        freed_s = time.monotonic()
        self._live.wait(lambda: not self._unsettled(names), what=f"recovery of {tag}", timeout_s=60)
        took_s = time.monotonic() - freed_s
        self.slowest_s = max(self.slowest_s, took_s)
        if took_s > MOST_S:
            self._broken.append(f"recovery of {tag} took {took_s:.1f} s")
        self._live.wait(lambda: not self._trouble(), what=f"alarms of {tag} to end", timeout_s=15)

    def _prepare(self, tag):
        """Write good episodes, a bad file and one too old, aside; returns their names in any order."""
        now = time.time()
        good = {f"{tag}-good-{i}": episode_text(f"{tag}-good-{i}", ended_at=now) for i in range(GOOD)}
        bad, old = f"{tag}-bad", f"{tag}-old"
        texts = {**good, bad: "no json\n", old: episode_text(old, ended_at=now - 1e6)}
        for name, text in texts.items():
            (self._live.inbox / f".tmp-{name}").write_text(text)
        self._expected.update({**dict.fromkeys(good, "learned"), bad: "malformed", old: "too_old"})
        self.files += len(texts)
        return self._rng.sample(list(texts), len(texts))

    def _drop(self, names):
        for name in names:
            (self._live.inbox / f".tmp-{name}").rename(self._live.inbox / f"{name}.jsonl")

    def _watch_alarms(self, seconds):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.alarms |= self._trouble()
            time.sleep(0.05)

    def _trouble(self):
        return self._live.alarms() & {"publish_failed", "intake_failed", "maintenance_failed", "cycle_failed"}

    def _unsettled(self, names):
        """Those without a verdict, or whose file is not gone yet."""
        done = set(self._live.learned()) | {
            record["name"].removesuffix(".jsonl") for record in self._outcomes()
        }
        there = "".join(path.name for part in ("in", "claimed") for path in self._live.files(part))
        return [name for name in names if name not in done or name in there]

    def _outcomes(self):
        path = self._live.state / "outcomes.jsonl"
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        records = []
        for line in lines:
            with contextlib.suppress(ValueError):
                records.append(json.loads(line))
        return records

    def _start_when_full(self):
        """A daemon that is started on a full disk waits for space."""
        self._live.stop()
        names = self._prepare("start")
        self._full.fill(inodes=self._inodes, leave=0)
        self._drop(names)
        self._live.process = self._live.launch("run")
        waits = '"not_started"'
        self._live.wait(
            lambda: waits in self._live.log() or self._trouble() or not self._unsettled(names),
            what="a start on a full disk",
        )
        self._full.empty()
        self._live.wait(lambda: not self._unsettled(names), what="recovery after a start")

    def _judge(self):
        """Nothing lost, nothing twice, nothing corrupt; the archive has what was learned."""
        self._live.stop()
        verdicts = Counter(self._live.learned())
        reasons = {record["name"].removesuffix(".jsonl"): record["reason"] for record in self._outcomes()}
        for name, expected in self._expected.items():
            found = "learned" if verdicts[name] else reasons.get(name, "no verdict")
            if found != expected or (expected == "learned" and name in reasons):
                self._broken.append(f"{name}: {found} / {reasons.get(name)}, not {expected}")
        self._broken += [f"{name} learned {n} times" for name, n in verdicts.items() if n > 1]
        counts = self._live.status()["episodes"]
        if counts["learned"] != sum(verdicts.values()):
            self._broken.append(f"status says {counts['learned']} learned, ledgers {sum(verdicts.values())}")
        store = CheckpointStore(self._live.state)
        if damaged := store.damaged(thorough=True):
            self._broken.append(f"damaged versions {damaged}")
        archived = Counter(e.episode_id for path in self._live.files("archive") for e in read_shard(path))
        if archived != verdicts:
            self._broken.append(f"archive and ledgers differ: {archived - verdicts} {verdicts - archived}")
        found = [path.name for part in ("in", "claimed", "work") for path in self._live.files(part)]
        left = [name for name in found if not name.startswith(".tmp-")]  # those are swept after a day
        if left:
            self._broken.append(f"left over: {left[:5]}")
