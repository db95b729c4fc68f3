"""A small site with every kind of file, and the daemon over it with arithmetic that is exact to the unit.

Everything is the daemon's own code but the update (each episode adds its own power of four to every bias, so
that the weights tell how often each was learned), the decoder's process (its code runs in this one, so that a
fault can be put into it too) and the file events (rescans find everything).
"""

import ctypes
import gc
import itertools
import json
import os
import shutil
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import structlog
from faults import Injector, injected

import learnerd.daemon
import learnerd.learn
import learnerd.loop
import learnerd.maintenance
import learnerd.trainer
from experience import decode_child, wire
from experience.archive import read_rows, read_shard
from experience.codec import Limits
from experience.decoder import DecodeJob, DecodeResult
from experience.episode import EpisodeKey
from experience.outcomes import Outcomes
from experience.spool import Spool
from learnerd.config import Config
from policies.checkpoint import Checkpoint, Delta
from policies.manifest import read_manifest, version_folder
from policies.normalizer import RunningStatistics
from policies.report import UpdateReport
from policies.store import CheckpointStore

DAY_S = 86_400.0
STEPS = 2
WIDTH = 3
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # of mallopt(3)
PLACES = ("in", "claimed/daemon", "work")


class LinearLearner:
    """Adds the sum of each episode's rewards to every bias; exact in float32 up to 2**24."""

    def __init__(self, base: Checkpoint, _settings, *, device: str, seed: int) -> None:
        self._base = base
        self._sum = 0.0
        self._counts: Counter[str] = Counter()
        self._observed = RunningStatistics.empty(base.spec.inputs)

    def update(self, batch, *, seed: int, replayed: int) -> UpdateReport:
        self._sum += float(batch.total_reward.sum())
        self._counts += Counter(updates=1, steps=batch.n_steps)
        self._observed += RunningStatistics.of(batch.obs.reshape(batch.n_steps, -1))
        numbers = dict.fromkeys(UpdateReport.__dataclass_fields__, 0)
        given = {"n_steps": batch.n_steps, "n_episodes": batch.n_episodes, "noise": None}
        return UpdateReport(**{**numbers, **given})

    def delta(self) -> Delta:
        shapes = self._base.spec.shapes()
        weights = {name: np.full(shape, self._sum) for name, shape in shapes.items() if name.endswith("bias")}
        return Delta(weights=weights, observed=self._observed, counters=dict(self._counts))


class InProcessDecoder:
    """The decoder's code without its process; a file named killer… ends it, as a crashing parser would."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def start(self) -> None:
        pass

    def decode_some(
        self, jobs: Sequence[DecodeJob], *, meanwhile: Callable[[], Iterable[DecodeJob]] = tuple
    ) -> Iterator[list[DecodeResult]]:
        jobs = [*jobs, *meanwhile()]
        for at in range(0, len(jobs), 2):
            yield list(self._decode(jobs[at : at + 2]))

    def _decode(self, jobs: Sequence[DecodeJob]) -> Iterator[DecodeResult]:
        for number, job in enumerate(jobs):
            if job.name.startswith("killer"):
                yield DecodeResult(job=job, died=True)
                continue
            line = {"job": number, "claim_path": job.claim_path, "work_path": job.work_path}
            line |= {"name": job.name, "ingested_at": job.ingested_at, "slot": job.slot}
            frame = b"".join(decode_child.answer(line, self._limits))
            size = wire.PREFIX.size
            (message,) = wire.decode(frame[:size], frame[size:])
            yield DecodeResult(
                job=job, decoded=message.decoded, problem=message.problem, mtime=message.mtime_s
            )

    def close(self) -> None:
        pass


class NoWatch:
    """No hints: rescans find everything, and ending an observer's thread takes half a second."""

    problem = ""

    def __init__(self, *_) -> None:
        pass

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def ensure_alive(self) -> bool:
        return True

    def take_complete(self) -> list[str]:
        return []


@dataclass(kw_only=True)
class Expected:
    """What must have become of the files in the end.

    Attributes:
        learned: episode id -> the digits (powers of four) of which exactly one must be in the weights.
        refused, quarantined: how many verdicts of each kind.
        rows: ids of the episodes kept under refused/.
        files: how many files are kept under quarantine/.
    """

    learned: dict[str, tuple[int, ...]] = field(default_factory=dict)
    refused: int = 0
    quarantined: int = 0
    rows: tuple[str, ...] = ()
    files: int = 0


class Scenario:
    """The bytes of the files of one site, and what must become of them.

    Args:
        folder: where to make them.
        named: ``[policy]`` names the spaces, so that version 1 is published before the first batch.
        prune: retention runs after every version and keeps the fewest.
        small: only one file of each fate.
        unread: every second file lies claimed and unread, as after quiet hours.
    """

    def __init__(
        self, folder: Path, *, named: bool, prune: bool, small: bool = False, unread: bool = False
    ) -> None:
        self.named, self.prune, self._small, self._unread = named, prune, small, unread
        self.files: list[tuple[str, bytes]] = []
        self.expected = Expected()
        self._folder = folder
        self._digit = itertools.count()
        self._began_s = time.time()
        self._build()

    def deposit(self, site: Path) -> None:
        """Lay the files into the inbox of a new site."""
        inbox = site / "spool" / "in"
        inbox.mkdir(parents=True)
        began_ns = time.time_ns() - 60_000_000_000
        for number, (name, data) in enumerate(self.files):
            (inbox / name).write_bytes(data)
            os.utime(inbox / name, ns=(began_ns, began_ns + number * 1_000_000))
        if self._unread:
            spool = Spool(site / "spool")
            spool.make_folders()
            for name, _ in self.files[::2]:
                spool.claim(name)

    def config(self, site: Path) -> Config:
        spaces = {"observation_shape": (WIDTH,), "action": {"kind": "discrete", "n": 2}} if self.named else {}
        store = {"keep_last": 1, "keep_every": 0, "keep_minutes": 0.0} if self.prune else {}
        return Config(
            paths={"spool": site / "spool", "state": site / "state"},
            policy={**spaces, "hidden": (2,), "normalize": False},
            learner={"threads": 1, "device": "cpu"},
            batch={"min_episodes": 1, "max_wait_s": 0.0, "chunk_episodes": 2, "max_chunks": 1},
            admission={"max_age_s": DAY_S, "max_staleness": 1, "settle_s": 0.001},
            store=store,
            schedule={"rescan_s": 0.01},
        )

    def run(self, site: Path) -> int:
        """Run the daemon over the site until it is idle, in this process."""
        learnerd.maintenance.PRUNE_EVERY = 1 if self.prune else 10**9
        return learnerd.daemon.run(self.config(site), mode="until_idle")

    def _build(self) -> None:
        self._good("a.npz", "a")
        self._several()
        self._good("dup.npz", "a", digit=False)
        self.files.append(("notes.txt", b"hello"))
        self._refuse(1, rows=())  # dup
        self._quarantine(2, files=2)  # notes and one episode of b
        if self._small:
            return
        self._good("c.npz", "c")
        self._good("conflict.npz", "c")
        self._good("old.npz", "old", digit=False, ended_at=self._began_s - 10 * DAY_S)
        self._refuse(2, rows=("c", "old"))
        self.files.append(("cut.npz", self.files[0][1][:-40]))
        self._quarantine(1, files=1)
        if self.named:
            self._good("wide.npz", "wide", digit=False, width=WIDTH + 1)
            self._refuse(1, rows=("wide",))
            self.files.append(("killer.npz", self.files[0][1]))
            self._quarantine(1, files=1)
        self._good("z.npz", "z")

    def _refuse(self, count: int, *, rows: tuple[str, ...]) -> None:
        self.expected.refused += count
        self.expected.rows += rows

    def _quarantine(self, count: int, *, files: int) -> None:
        self.expected.quarantined += count
        self.expected.files += files

    def _good(self, name, episode_id, *, digit=True, width=WIDTH, ended_at=None) -> None:
        if digit:
            number = next(self._digit)
            self.expected.learned[episode_id] = (*self.expected.learned.get(episode_id, ()), number)
        else:
            number = 0
        path = self._folder / name
        header = {
            "episode_id": episode_id,
            "client_id": "bot",
            "policy_version": 0,
            "ended_at": time.time() if ended_at is None else ended_at,
            "terminated": True,
            "truncated": False,
        }
        if episode_id == "a":
            header["ended_at"] = self._began_s  # in both files, so that they hold the same row
        with path.open("wb") as stream:
            np.savez(
                stream,
                obs=np.full((STEPS + 1, width), number, np.float32),
                action=np.arange(STEPS) % 2,
                reward=np.array([4.0**number, 0.0]),
                logp=np.full(STEPS, np.log(0.5)),
                meta=np.array(json.dumps(header)),
            )
        self.files.append((name, path.read_bytes()))

    def _several(self) -> None:
        """One file with three good episodes and one that cannot be read."""
        lines = []
        for name in ("b1", "b2", "bad", "b3"):
            lines.append(
                {"episode_id": name, "client_id": "bot", "policy_version": 0, "ended_at": time.time()}
            )
            number = 0 if name == "bad" else next(self._digit)
            if name != "bad":
                self.expected.learned[name] = (number,)
            for step in range(STEPS):
                reward = "x" if name == "bad" else (4.0**number if step == 0 else 0.0)
                lines.append(
                    {"obs": [float(number)] * WIDTH, "action": step % 2, "reward": reward, "logp": -0.7}
                )
            lines.append({"terminated": True, "truncated": False})
        self.files.append(("b.jsonl", b"".join(json.dumps(line).encode() + b"\n" for line in lines)))


def prepare() -> None:
    """Put the stand-ins in place; call it once, before forking."""
    pa.Table.from_pylist([{"loads": "pandas, where it is installed"}])
    pa.set_memory_pool(pa.system_memory_pool())
    for option in (M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD):
        ctypes.CDLL(None).mallopt(
            option, 64 * 2**20
        )  # memory given back would be faulted in again in every child
    learnerd.daemon.Decoder = InProcessDecoder
    learnerd.learn.Learner = LinearLearner
    learnerd.loop.SpoolWatch = NoWatch
    learnerd.trainer.trim_memory = lambda: None
    learnerd.loop.warm_up = lambda *_, **__: None
    structlog.configure(processors=[_drop])


def rehearse(scenarios: Iterable[Scenario], folder: Path) -> None:
    """Run each once in this process, so that its children find everything loaded."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for scenario in scenarios:
        site = folder / "rehearsal"
        site.mkdir()
        scenario.deposit(site)
        with injected(Injector(None)):
            scenario.run(site)
        deque(check(scenario, site, {}), maxlen=0)
        shutil.rmtree(site)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    gc.collect()
    gc.freeze()  # collections in the children would copy every page


def _drop(*_):
    raise structlog.DropEvent


def snapshot(site: Path) -> dict[str, str]:
    """Which save each version directory holds; "" when it is not whole."""
    found = {}
    folder = site / "state" / "checkpoints"
    for path in sorted(folder.glob("[0-9]*")) if folder.is_dir() else ():
        try:
            found[path.name] = read_manifest(version_folder(site / "state", int(path.name)), int(path.name))[
                "save_id"
            ]
        except Exception:  # noqa: BLE001 - whatever is wrong with it, it is not whole
            found[path.name] = ""
    return found


def check(scenario: Scenario, site: Path, before: dict[str, str], *, hurt: bool = False) -> Iterator[str]:
    """Say everything that is not as it must be once the daemon has come to an end by itself.

    Args:
        scenario: what was deposited.
        site: what has become of it.
        before: the versions that were there earlier.
        hurt: calls of this very run failed. Then three things may wait for the next start: work copies
            without a claim, CURRENT, and the status file.
    """
    expected = scenario.expected
    for place in PLACES[:2] if hurt else PLACES:
        left = [path.name for path in (site / "spool" / place).iterdir() if not path.name.startswith(".tmp-")]
        if left:
            yield f"left in {place}: {left}"
    store = CheckpointStore(site / "state")
    head = store.head()
    if head is None:
        yield "no version"
        return
    yield from _check_versions(store, head, before, snapshot(site))
    yield from _check_learned(store, head, expected, complete=not scenario.prune)
    yield from _check_archive(site, expected)
    yield from _check_verdicts(site, expected)
    if hurt:
        return
    if store.current() != head.version:
        yield f"CURRENT is {store.current()}, the head {head.version}"
    yield from _check_status(site, expected)


def _check_versions(store, head, before, after) -> Iterator[str]:
    if damaged := store.damaged(thorough=True):
        yield f"damaged versions: {damaged}"
    if "" in before.values():
        yield f"half a version was visible: {before}"
    for name, save_id in after.items():
        if before.get(name, save_id) != save_id:
            yield f"number {name} was used again"
    if before and max(before) > max(after):
        yield f"version {max(before)} vanished"
    infos = store.versions()
    for info in infos:
        if info.parents != ((info.version - 1,) if info.version > 1 else ()):
            yield f"version {info.version} has parents {info.parents}"


def _check_learned(store, head, expected, *, complete) -> Iterator[str]:
    keys = {EpisodeKey("bot", name, 0, ""): name for name in expected.learned}
    known = {keys[key] for key in store.lookup(keys)}
    if lost := expected.learned.keys() - known:
        yield f"lost, in no ledger: {sorted(lost)}"
    if head.counters["episodes"] != len(expected.learned):
        yield f"counted {head.counters['episodes']} episodes, learned {len(expected.learned)}"
    if head.counters["steps"] != STEPS * len(expected.learned):
        yield f"counted {head.counters['steps']} steps"
    if head.normalizer.count != STEPS * len(expected.learned):
        yield f"the normalizer counted {head.normalizer.count} steps"
    if complete:
        rows = Counter(
            entry.key.episode_id for info in store.versions() for entry in store.episodes(info.version)
        )
        if rows != Counter(expected.learned.keys()):
            yield f"rows in the ledgers: {dict(rows)}"
    totals = {float(value) for name, bias in head.weights.items() if name.endswith("bias") for value in bias}
    if len(totals) != 1:
        yield f"the biases differ: {totals}"
        return
    total = int(totals.pop())
    for name, digits in expected.learned.items():
        times = sum(total // 4**digit % 4 for digit in digits)
        if times != 1:
            yield f"in the weights {times} times: {name}"


def _check_archive(site, expected) -> Iterator[str]:
    shards = sorted((site / "spool" / "archive").rglob("*.parquet"))
    rows = Counter(episode.episode_id for path in shards for episode in read_shard(path))
    if rows != Counter(expected.learned.keys()):
        yield f"rows in the archive: {dict(rows)}"


def _check_verdicts(site, expected) -> Iterator[str]:
    counts = Outcomes(site / "state" / "outcomes.jsonl").counts()
    sums = {verdict: sum(reasons.values()) for verdict, reasons in counts.items()}
    if sums != {"refused": expected.refused, "quarantined": expected.quarantined}:
        yield f"verdicts: {counts}"
    shards = sorted((site / "spool" / "refused").rglob("*.parquet"))
    rows = Counter(row.episode.episode_id for path in shards for row in read_rows(path))
    if rows != Counter(expected.rows):
        yield f"rows refused: {dict(rows)}"
    files = [path for path in (site / "spool" / "quarantine").rglob("*") if path.is_file()]
    files = [path for path in files if not path.name.startswith(".tmp-")]
    records = {path.name.removesuffix(".json") for path in files if path.name.endswith(".json")}
    kept = [path.name for path in files if not path.name.endswith(".json")]
    if records != set(kept) or len(kept) != expected.files:
        yield f"quarantined {sorted(kept)}, records {sorted(records)}"


def _check_status(site, expected) -> Iterator[str]:
    status = json.loads((site / "state" / "status.json").read_bytes())
    if status["episodes"]["learned"] != len(expected.learned):
        yield f"status says {status['episodes']['learned']} learned"
    if sum(status["episodes"]["refused"].values()) != expected.refused:
        yield f"status says refused {status['episodes']['refused']}"
