"""Verdict: what a cut left, before and after the daemon has started again on it."""

import gc
import hashlib
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

from power.acknowledged import Expected, Key
from power.workload import config, deposit, episode_lines, learn_until_idle, publish

from experience.archive import read_shard
from experience.episode import EpisodeKey
from experience.errors import ShardDamaged
from experience.outcomes import Outcomes
from experience.spool import Spool
from learnerd.config import Config
from policies.checkpoint import LedgerEntry
from policies.errors import StoreError, VersionDamaged, VersionPruned
from policies.manifest import LEDGER, MODEL, VERSION_NAME, read_checkpoint, version_folder
from policies.store import CheckpointStore

NEW_CLIENT = "afterwards"
KEEP_ALL = 1_000_000
MOST_UPDATES = 64
DAEMON_SHARE = 0.4
_SHARDS: dict[bytes, frozenset[str]] = {}
_LEDGERS: dict[bytes, list[LedgerEntry]] = {}


def violations(folder: Path, expected: Expected, rng: Random) -> list[str]:
    """Judge what is there, start again on it with one new episode, and judge what that gives.

    Who starts first is a matter of chance: the daemon, or an online learner that knows nothing of a cut.

    Args:
        folder: what the workload had as its folder, after the cut.
        expected: what was acknowledged before it.
        rng: chooses.
    """
    settings = config(folder, keep_last=KEEP_ALL, updates=MOST_UPDATES)
    spool, state = settings.paths.spool, settings.paths.state
    found = [f"before the restart: {line}" for line in _as_found(spool, state, expected)]
    name = f"{rng.getrandbits(64):016x}"
    restart = _daemon if rng.random() < DAEMON_SHARE or not expected.versions else _online_learner
    found += [f"after the restart: {line}" for line in restart(settings, expected, name)]
    gc.collect()  # maps of the ledger's runs would keep the disk mounted
    return found


def _as_found(spool: Path, state: Path, expected: Expected) -> Iterator[str]:
    """What a client may see at once, before anything was repaired."""
    yield from _lost_versions(state, expected)
    yield from _torn_versions(state)
    yield from _wrong_current(state, expected)
    yield from _kept_aside(spool, state, expected)


def _daemon(settings: Config, expected: Expected, name: str) -> Iterator[str]:
    """The daemon starts: every file that a client had made durable is learned, once, and archived."""
    spool, state = settings.paths.spool, settings.paths.state
    spool.joinpath("in").mkdir(parents=True, exist_ok=True)
    deposit(spool / "in", name, episode_lines(NEW_CLIENT, name))
    if code := learn_until_idle(settings):
        yield f"the daemon ended with {code}"
    store = CheckpointStore(state)
    yield from _as_recovered(store, spool, state, expected)
    yield from _ledger(store, state, expected, {*expected.deposited, (NEW_CLIENT, name, 0, "")})
    yield from _unarchived(store, spool, state, expected)
    left = [path.name for folder in ("in", "claimed/daemon") for path in (spool / folder).iterdir()]
    if visible := [name for name in left if not name.startswith(".")]:
        yield f"left in the spool: {visible}"


def _online_learner(settings: Config, expected: Expected, name: str) -> Iterator[str]:
    """An online learner publishes on the store as it is; what the daemon does at its start comes later."""
    spool, state = settings.paths.spool, settings.paths.state
    published = publish(CheckpointStore(state), NEW_CLIENT, name)
    store = CheckpointStore(state)
    store.sweep()
    store.repair_current()
    Spool(spool).make_folders()
    Spool(spool).sweep(time.time())
    yield from _as_recovered(store, spool, state, expected)
    yield from _ledger(store, state, expected, set())
    hits = store.lookup([EpisodeKey(NEW_CLIENT, name, 0, "")])
    if [hit.version for hit in hits.values()] != [published.version]:
        yield f"version {published.version} is published, its episode is learned in {list(hits.values())}"


def _as_recovered(store: CheckpointStore, spool: Path, state: Path, expected: Expected) -> Iterator[str]:
    yield from _lost_versions(state, expected)
    yield from _torn_versions(state)
    yield from _kept_aside(spool, state, expected)
    head, current = store.head(), store.current()
    if head is None or current != head.version:
        yield f"CURRENT names {current}, the head is {head and head.version}"
    elif head.version <= max(expected.versions, default=0):
        yield f"the new version has number {head.version}, {max(expected.versions)} was used"


def _lost_versions(state: Path, expected: Expected) -> Iterator[str]:
    for number, sha in expected.kept.items():
        try:
            manifest = read_checkpoint(state, number).manifest
        except (StoreError, OSError) as error:
            yield f"acknowledged version {number}: {error}"
        else:
            if manifest["files"][MODEL]["sha256"] != sha:
                yield f"acknowledged version {number} is another one"


def _torn_versions(state: Path) -> Iterator[str]:
    for folder in sorted((state / "checkpoints").glob("*")):
        if VERSION_NAME.fullmatch(folder.name):
            try:
                read_checkpoint(state, int(folder.name))
            except VersionDamaged as error:
                yield f"torn: {error}"


def _wrong_current(state: Path, expected: Expected) -> Iterator[str]:
    """CURRENT names a whole version, no older one than was acknowledged."""
    newest = max(expected.versions, default=0)
    try:
        text = (state / "CURRENT").read_text()
    except FileNotFoundError:
        if newest:
            yield f"CURRENT is gone, version {newest} was acknowledged"
        return
    if not VERSION_NAME.fullmatch(text.removesuffix("\n")):
        yield f"CURRENT is torn: {text!r}"
        return
    if int(text) < newest:
        yield f"CURRENT names {int(text)}, version {newest} was acknowledged"
    try:
        read_checkpoint(state, int(text))
    except (VersionPruned, VersionDamaged) as error:
        yield f"CURRENT: {error}"


def _kept_aside(spool: Path, state: Path, expected: Expected) -> Iterator[str]:
    """Archive, refused, quarantine, and the record of both."""
    for version, rows in expected.rows.items():
        path = Spool(spool).archived(version)
        try:
            there = frozenset() if path is None else _rows(path)
        except ShardDamaged as error:
            yield f"archive of {version}: {error}"
            continue
        if rows - there:
            yield f"archive of {version}: {len(rows - there)} of {len(rows)} rows are gone"
    for name in expected.files:
        try:
            if name.startswith("refused/"):
                _rows(spool / name)
            else:
                (spool / f"{name}.json").stat()
                (spool / name).lstat()
        except (OSError, ShardDamaged) as error:
            yield f"set aside: {error}"
    outcomes = Outcomes(state / "outcomes.jsonl")
    gone = [key for key in expected.outcomes if not outcomes.known(key)]
    if gone or outcomes.damaged_lines:
        yield f"outcomes: {len(gone)} records are gone, {outcomes.damaged_lines} lines are damaged"


def _ledger(store: CheckpointStore, state: Path, expected: Expected, deposited: set[Key]) -> Iterator[str]:
    """Each key once: acknowledged ones in their version, deposited ones in some version."""
    keys = [EpisodeKey(*key) for key in expected.keys.keys() | deposited]
    hits = store.lookup(keys)
    for key in keys:
        version = hits[key].version if key in hits else None
        if version is None or version != expected.keys.get(key, version):
            yield f"{key} is learned in version {version}, expected {expected.keys.get(key, 'any')}"
    counts = Counter(entry.key for info in store.versions() for entry in _entries(store, state, info.version))
    twice = [key for key, count in counts.items() if count > 1]
    if twice:
        yield f"learned twice: {twice}"


def _unarchived(store: CheckpointStore, spool: Path, state: Path, expected: Expected) -> Iterator[str]:
    """What the daemon learned and a client had made durable is in the archive."""
    for info in store.versions():
        if info.writer != "daemon":
            continue
        learned = {
            entry.row_sha256
            for entry in _entries(store, state, info.version)
            if tuple(entry.key) in expected.deposited
        }
        path = Spool(spool).archived(info.version)
        there = frozenset() if path is None or not learned else _rows(path)
        if learned - there:
            yield f"version {info.version} learned {len(learned - there)} rows that are not archived"


def _rows(path: Path) -> frozenset[str]:
    """The row hashes of a shard; the same bytes, on many of the disks, are parsed once."""
    digest = hashlib.sha256(path.read_bytes()).digest()
    if digest not in _SHARDS:
        _SHARDS[digest] = frozenset(episode.row_sha256 for episode in read_shard(path))
    return _SHARDS[digest]


def _entries(store: CheckpointStore, state: Path, version: int) -> list[LedgerEntry]:
    """What a version that was checked added; parsed once likewise."""
    digest = hashlib.sha256((version_folder(state, version) / LEDGER).read_bytes()).digest()
    if digest not in _LEDGERS:
        _LEDGERS[digest] = store.episodes(version)
    return _LEDGERS[digest]
