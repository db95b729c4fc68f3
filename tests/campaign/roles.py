"""What a child of the zygote does: the daemon, or an online learner, both with the linear oracle."""

import random
import signal
import time
from pathlib import Path

import pyarrow as pa
import structlog
import torch
from oracle import LinearLearner, delta_of, online_entry, online_key

import experience.archive
import learnerd.daemon
import learnerd.learn
import learnerd.loop
import learnerd.scrub
import policies.ledger_file
import policies.publishing
from learnerd.config import load_config
from policies.checkpoint import Delta
from policies.errors import AlreadyLearned, StoreError
from policies.manifest import read_current
from policies.store import CheckpointStore

LOADED = (experience.archive, policies.ledger_file, pa)
WAITING = "daemon-waits"
LONGEST_WAIT_S = 5.0

torch.set_num_threads(1)
pa.Table.from_pylist([{"loads": "pandas, where it is installed"}])
structlog.configure(logger_factory=structlog.PrintLoggerFactory(), cache_logger_on_first_use=False)


def daemon(*, folder, mode="forever", forced=False, lock=True, look_every_s=None):
    """The real daemon; only what an update computes is the oracle's."""
    if look_every_s is not None:
        learnerd.scrub.EVERY_S = look_every_s
    site = Path(folder)
    if not lock:
        remove_lock()
    learnerd.learn.Learner = _waiting_learner(site) if forced else LinearLearner
    learnerd.loop.warm_up = lambda *_, **__: None  # its libraries are loaded already
    return learnerd.daemon.run(load_config(site / "config.toml", {}), mode=mode)


def online(*, folder, first, last, quota, seed, forced=False, lock=True):
    """Learn the episodes first … last that no ledger holds, at most ``quota`` of them; then stand by."""
    site = Path(folder)
    if not lock:
        remove_lock()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    store, rng = CheckpointStore(site / "state"), random.Random(seed)
    todo = _not_learned(store, range(first, last))[:quota]
    while todo:
        group = todo[: rng.randint(1, 3)]
        _save(store, group, forced=forced)
        todo = [number for number in todo if number not in group]
        time.sleep(rng.uniform(0.0, 0.01))
    while forced:
        _get_into_the_way(store, site)
    return 0


def _not_learned(store, numbers):
    """After a kill, the ledger tells which saves went through."""
    keys = {online_key(number): number for number in numbers}
    hits = store.lookup(keys)
    return [number for key, number in keys.items() if key not in hits]


def _save(store, group, *, forced):
    base = _base(store, forced=forced)
    try:
        entries = [online_entry(number) for number in group]
        store.publish(delta_of(group), base=base, writer="online", episodes=entries)
    except AlreadyLearned as error:
        raise AssertionError(f"the ledger did not tell before: {error}") from error


def _base(store, *, forced):
    """The head; or, to force a merge, the version before it."""
    while True:
        head = store.head()
        if not forced or head.version == 1:
            return head
        try:
            return store.load(head.version - 1)
        except StoreError:
            time.sleep(0.001)


def _get_into_the_way(store, site):
    """Publish a change of nothing whenever the daemon waits for the head to move."""
    try:
        version = int((site / WAITING).read_text() or 0)
    except FileNotFoundError:
        version = 0
    if version and version == read_current(site / "state"):
        store.publish(Delta(weights={}), base=_base(store, forced=True), writer="online", episodes=[])
    time.sleep(0.001)


def _waiting_learner(site):
    class Waiting(LinearLearner):
        """Is done only once somebody else has published: every save of the daemon has to be merged."""

        def delta(self):
            (site / WAITING).write_text(str(self._base.version))
            until = time.monotonic() + LONGEST_WAIT_S
            while (read_current(site / "state") or 0) <= self._base.version and time.monotonic() < until:
                time.sleep(0.0005)
            (site / WAITING).unlink()
            return super().delta()

    return Waiting


def remove_lock():
    """As on a file system whose locks do nothing."""

    class Free:
        def __init__(self, *_, **__):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    policies.publishing.hold = Free


def publisher(*, folder, name, count, lock):
    """Publish changes of one until ``count`` are acknowledged, noting each number as soon as it is known."""
    if not lock:
        remove_lock()
    store = CheckpointStore(Path(folder) / "state")
    notes = Path(folder) / f"{name}.numbers"
    done = len(notes.read_bytes().splitlines()) if notes.exists() else 0
    with notes.open("ab", buffering=0) as stream:
        for i in range(count - done):
            base = store.head()
            published = store.publish(
                Delta(weights={}, counters={"steps": 1}), base=base, writer=name, episodes=[]
            )
            stream.write(f"{published.version} {published.manifest['save_id']}\n".encode())
            if i % 16 == 15:
                store.prune(keep_last=30, keep_every=0, keep_minutes=0, keep_bytes=1 << 40, now_s=time.time())
    return 0
