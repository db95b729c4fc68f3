"""Workload: a whole learnerd at work: the daemon, clients, an online learner, pruning."""

import contextlib
import ctypes
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from power.acknowledged import Marks

from experience.episode import EpisodeKey
from experience.writer import EpisodeWriter
from learnerd import daemon
from learnerd.config import Config
from policies.checkpoint import Checkpoint, Delta, LedgerEntry
from policies.store import CheckpointStore

KEEP_LAST = 6
OBS = [0.5, -0.5]
STEPS = 3


def config(folder: Path, *, keep_last: int = KEEP_LAST, updates: int = 1) -> Config:
    """A daemon that publishes after every two episodes, or after more updates, and prunes what it can."""
    return Config.model_validate(
        {
            "paths": {"spool": folder / "spool", "state": folder / "state"},
            "policy": {"hidden": [4], "observation_shape": [2], "action": {"kind": "discrete", "n": 2}},
            "learner": {"device": "cpu", "epochs": 1, "minibatches": 1},
            "batch": {"min_episodes": 2, "chunk_episodes": 2, "max_chunks": updates, "max_wait_s": 0.05},
            "admission": {"settle_s": 0.0, "max_staleness": KEEP_LAST},
            "store": {"keep_last": keep_last, "keep_every": 0, "keep_minutes": 0.0},
            "disk": {"min_free_bytes": 0},  # the disks are small
        }
    )


def learn_until_idle(settings: Config) -> int:
    """Run the daemon until every file has its verdict; its exit code."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        return daemon.run(settings, mode="until_idle")
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def work(folder: Path, mark: Marks, *, rounds: int, seed: int, busy: bool) -> None:
    """Let everything run beside each other for a while.

    Args:
        folder: on the recorded disk.
        mark: notes what a client made durable.
        rounds: how often each client deposits.
        seed: of the pauses.
        busy: somebody else flushes the file system now and then, so that half of a step is on the disk before
            the other half is begun.
    """
    settings = config(folder)
    learn_until_idle(settings)
    inbox = settings.paths.spool / "in"
    clients = [
        lambda rng: careful_client(inbox, mark, rng, rounds),
        lambda rng: plain_client(settings.paths.spool, rng, rounds),
        lambda rng: online_learner(settings.paths.state, rng, rounds),
    ]
    with _neighbor(folder, Random(seed)) if busy else contextlib.nullcontext():
        threads = [_Thread(client, Random(seed + i)) for i, client in enumerate(clients)]
        while any(thread.is_alive() for thread in threads):
            learn_until_idle(settings)
        learn_until_idle(settings)
    for thread in threads:
        thread.finish()


def careful_client(inbox: Path, mark: Marks, rng: Random, rounds: int) -> None:
    """Deposits JSON lines and makes them durable, as the contract lets any client do."""
    for number in range(rounds):
        name = f"careful-{rng.getrandbits(64):016x}-{number}"
        deposit(inbox, name, episode_lines("careful", name))
        mark("deposited", key=["careful", name, 0, ""])
        time.sleep(rng.uniform(0.0, 0.06))


def plain_client(spool: Path, rng: Random, rounds: int) -> None:
    """Deposits with our writer, which leaves durability to the kernel; and now and then something odd."""
    writer = EpisodeWriter(spool, client_id="plain")
    odd = (
        lambda: deposit(spool / "in", f"bad-{number}", b"{", durable=False),
        lambda: deposit(
            spool / "in", f"old-{number}", episode_lines("old", f"{number}", ended_at=1e9), durable=False
        ),
        lambda: deposit(spool / "in", f"again-{number}", episode_lines("again", "same"), durable=False),
    )
    for number in range(rounds):
        for step in range(STEPS):
            writer.step(OBS, step % 2, 1.0, logp=-0.69)
        writer.end(OBS, terminated=True)
        odd[number % len(odd)]()
        time.sleep(rng.uniform(0.0, 0.06))


def online_learner(state: Path, rng: Random, rounds: int) -> None:
    """Publishes small changes of its own, and prunes."""
    store = CheckpointStore(state)
    for number in range(rounds):
        publish(store, "online", str(number))
        if number % 5 == 4:
            keep = {"keep_last": KEEP_LAST, "keep_every": 0, "keep_minutes": 0.0, "keep_bytes": 1 << 40}
            store.prune(**keep, now_s=time.time() + 1.0)
        time.sleep(rng.uniform(0.0, 0.08))


def publish(store: CheckpointStore, client: str, episode_id: str) -> Checkpoint:
    """Publish a small change to the head as an online learner does."""
    base = store.head()
    assert base is not None
    change = {name: np.full(array.shape, 1e-3) for name, array in base.weights.items()}
    entry = LedgerEntry(key=EpisodeKey(client, episode_id, 0, ""), row_sha256="ab" * 32)
    delta = Delta(weights=change, counters={"updates": 1})
    return store.publish(delta, base=base, writer="online", episodes=[entry])


def episode_lines(client: str, name: str, **header: Any) -> bytes:
    """One episode as JSON lines."""
    steps = [{"obs": OBS, "action": i % 2, "reward": 1.0, "logp": -0.69} for i in range(STEPS)]
    end = {"final_obs": OBS, "terminated": True, "truncated": False}
    lines = [{"client_id": client, "episode_id": name, **header}, *steps, end]
    return "".join(f"{json.dumps(line)}\n" for line in lines).encode()


def deposit(inbox: Path, name: str, data: bytes, *, durable: bool = True) -> None:
    """Write aside, then rename; durably or not."""
    aside = inbox / f".tmp-{name}"
    with aside.open("wb") as file:
        file.write(data)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    aside.rename(inbox / f"{name}.jsonl")
    if durable:
        folder = os.open(inbox, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


class _Thread(threading.Thread):
    """A thread whose failure is raised where it is joined."""

    def __init__(self, target: Callable[[Random], None], rng: Random) -> None:
        super().__init__(daemon=True)
        self._work, self._rng = target, rng
        self._failure: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._work(self._rng)
        except BaseException as error:  # noqa: BLE001 - raised again by finish
            self._failure = error

    def finish(self) -> None:
        self.join()
        if self._failure is not None:
            raise self._failure


@contextlib.contextmanager
def _neighbor(folder: Path, rng: Random) -> Iterator[None]:
    """Flush the whole file system at odd moments, from another thread."""
    stop = threading.Event()
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(folder, os.O_RDONLY)

    def flush(rng: Random) -> None:
        while not stop.wait(rng.uniform(0.0, 0.03)):
            libc.syncfs(descriptor)

    thread = _Thread(flush, rng)
    try:
        yield
    finally:
        stop.set()
        thread.finish()
        os.close(descriptor)
