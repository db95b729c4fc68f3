"""Records of pruned versions: durable before the version goes, bounded, read beside writers, checked."""

import errno
import random
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from store_tools import SPEC, entry

from policies.checkpoint import Delta
from policies.errors import StoreError, VersionDamaged, VersionPruned
from policies.initial import initial_checkpoint
from policies.manifest import DELTA
from policies.recorded import RecordedVersions
from policies.records import DAMAGED_NAME, FILE_NAME, Record, Records
from policies.store import CheckpointStore

KEEP = {"keep_last": 1, "keep_every": 0, "keep_minutes": 0.0, "keep_bytes": 10**12}


def publish(store, base, *, writer="daemon", name="a", record=None):
    change = {name: np.full(array.shape, 0.25) for name, array in base.weights.items()}
    return store.publish(
        Delta(weights=change, counters={"updates": 1}),
        base=base,
        writer=writer,
        episodes=[entry(name)],
        record=record,
    )


@pytest.fixture
def state(tmp_path):
    """Five versions, of which the second is an online learner's; the first three are pruned."""
    store = CheckpointStore(tmp_path)
    head = initial_checkpoint(SPEC, seed=1)
    for i in range(5):
        head = publish(store, head, writer="online" if i == 1 else "daemon", name=f"e{i}")
    wanted = {v: dict(store.manifest(v)) for v in range(1, 6)}
    delta = store.delta(2)
    assert store.prune(**KEEP, now_s=time.time() + 9) == [1, 2, 3]
    return tmp_path, wanted, delta


def test_what_was_known_of_a_pruned_version_still_is(state):
    folder, wanted, delta = state
    recorded = RecordedVersions(folder)
    assert recorded.versions() == [1, 2, 3, 4, 5]
    assert {version: recorded.manifest(version) for version in recorded.versions()} == wanted
    kept = recorded.delta(2)
    assert kept.counters == delta.counters
    assert all(np.array_equal(kept.weights[name], delta.weights[name]) for name in delta.weights)
    assert recorded.delta(1) is None
    with pytest.raises(VersionPruned):
        recorded.manifest(6)


def test_the_record_is_durable_before_the_version_goes(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path)
    head = initial_checkpoint(SPEC, seed=1)
    for i in range(4):
        head = publish(store, head, name=f"e{i}")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("policies.pruning.Pruner._remove", killed)
        with pytest.raises(KeyboardInterrupt):
            store.prune(**KEEP, now_s=time.time() + 9)
    assert Records(tmp_path).versions() == [1, 2]
    assert (tmp_path / "checkpoints" / "00000001").is_dir()
    again = CheckpointStore(tmp_path)
    assert again.prune(**KEEP, now_s=time.time() + 9) == [1, 2]
    assert RecordedVersions(tmp_path).versions() == [1, 2, 3, 4]


def test_a_version_whose_record_cannot_be_kept_stays(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path)
    head = initial_checkpoint(SPEC, seed=1)
    for i in range(4):
        head = publish(store, head, name=f"e{i}")
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(StoreError, match=FILE_NAME):
        store.prune(**KEEP, now_s=time.time() + 9)
    assert [info.version for info in store.versions()] == [1, 2, 3, 4]


def test_a_flipped_bit_is_noticed(state):
    folder, _, _ = state
    record = Records(folder).read(2)
    assert RecordedVersions(folder).manifest(2)["files"][DELTA]["bytes"] == len(record.delta)
    broken = record.delta[:-1] + bytes([record.delta[-1] ^ 1])
    Records(folder).keep([record._replace(delta=broken)])
    with pytest.raises(VersionDamaged, match="delta"):
        RecordedVersions(folder).delta(2)
    Records(folder).keep([record._replace(manifest=record.manifest.replace(b"online", b"0nline"))])
    with pytest.raises(VersionDamaged, match="manifest"):
        RecordedVersions(folder).manifest(2)


def test_a_damaged_file_is_put_aside_and_a_new_one_begun(state):
    folder, _, _ = state
    (folder / FILE_NAME).write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreError, match=FILE_NAME):
        RecordedVersions(folder).versions()
    Records(folder).keep([Record(version=9, manifest=b"{}")])
    assert (folder / DAMAGED_NAME).exists()
    assert Records(folder).versions() == [9]


def test_records_go_with_the_rows_of_the_archive_but_not_what_a_replay_passes_through(tmp_path):
    records = Records(tmp_path)
    records.keep(Record(version=v, manifest=b"{}", from_rows=v in (2, 3, 6)) for v in range(1, 8))
    records.forget(archived_from=None, keep_bytes=10**9)
    records.forget(archived_from=2, keep_bytes=10**9)
    assert records.versions() == [1, 2, 3, 4, 5, 6, 7]
    records.forget(archived_from=6, keep_bytes=10**9)
    assert records.versions() == [4, 5, 6, 7]


def test_the_oldest_go_when_they_are_too_large(tmp_path):
    records, noise = Records(tmp_path), np.random.default_rng(0)
    records.keep(Record(version=v, manifest=b"{}", delta=noise.bytes(10_000)) for v in range(1, 257))
    records.forget(archived_from=None, keep_bytes=1_500_000)
    assert records.versions() == list(range(129, 257))
    size = (tmp_path / FILE_NAME).stat().st_size
    records.keep(Record(version=v, manifest=b"{}", delta=noise.bytes(10_000)) for v in range(257, 321))
    assert (tmp_path / FILE_NAME).stat().st_size == size  # freed pages are used again


def test_writers_and_readers_take_turns(state):
    folder, wanted, _ = state
    reader, writer = RecordedVersions(folder), Records(folder)
    for version in range(10, 20):
        writer.keep([Record(version=version, manifest=b"{}")])
        assert reader.manifest(1) == wanted[1]
    with sqlite3.connect(folder / FILE_NAME) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


PRUNING = """
import sys, time
sys.path.insert(0, sys.argv[2])
from test_records import KEEP, publish
from policies.initial import initial_checkpoint
from policies.store import CheckpointStore
from store_tools import SPEC
store = CheckpointStore(sys.argv[1])
head = store.head() or initial_checkpoint(SPEC, seed=1)
while True:
    for _ in range(4):
        head = publish(store, head, name=f"e{head.version}", writer="online")
    store.prune(**KEEP, now_s=time.time() + 9)
    print("pruned", flush=True)
"""


@pytest.mark.slow
def test_killed_at_any_moment_no_version_goes_without_a_record(tmp_path):
    here = str(Path(__file__).parent)
    for kill in range(6):
        child = subprocess.Popen(
            [sys.executable, "-c", PRUNING, str(tmp_path), here], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout.readline() == "pruned\n"
        time.sleep(0.02 + 0.037 * (kill % 7))  # anywhere in a publish or a prune, as it comes
        child.kill()
        child.wait()
        child.stdout.close()
        recorded = RecordedVersions(tmp_path)
        highest = CheckpointStore(tmp_path).highest_used()
        assert recorded.versions() == list(range(1, highest + 1))
        assert all(recorded.manifest(version)["version"] == version for version in recorded.versions())
        assert all(recorded.delta(version) is not None for version in recorded.versions())
    assert Records(tmp_path).versions()


def test_damage_that_only_forgetting_comes_by_is_put_aside(tmp_path):
    records = Records(tmp_path)
    for first in range(1, 321, 16):
        manifests = {version: random.randbytes(3000) for version in range(first, first + 16)}
        records.keep(Record(version=v, manifest=m, from_rows=True) for v, m in manifests.items())
    path = tmp_path / FILE_NAME
    data = bytearray(path.read_bytes())
    data[2 * 4096 : 3 * 4096] = b"\xff" * 4096  # the first leaf; new rows go to the last one
    path.write_bytes(data)
    records.keep([Record(version=400, manifest=b"m")])
    assert path.exists()
    records.forget(archived_from=300, keep_bytes=10**9)
    assert (tmp_path / DAMAGED_NAME).exists()
    records.keep([Record(version=401, manifest=b"m")])
    records.forget(archived_from=300, keep_bytes=10**9)
    assert records.versions() == [401]


def test_a_file_without_a_table_has_no_records(tmp_path):
    (tmp_path / FILE_NAME).touch()  # killed, or the disk was full, before the first commit
    records = Records(tmp_path)
    assert records.versions() == []
    assert records.read(1) is None
    records.forget(archived_from=1, keep_bytes=1)
    records.keep([Record(version=1, manifest=b"m")])
    assert records.versions() == [1]


def test_what_is_too_large_costs_no_other_record(tmp_path, monkeypatch):
    records = Records(tmp_path)
    records.keep([Record(version=1, manifest=b"m")])

    def too_big(*_):
        raise sqlite3.DataError("string or blob too big")

    with monkeypatch.context() as patch:
        patch.setattr(Records, "_insert", too_big)
        with pytest.raises(OSError, match="too big"):
            records.keep([Record(version=2, manifest=b"m")])
    assert records.versions() == [1]


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    records = Records(tmp_path)
    records.keep([Record(version=1, manifest=b"m")])
    connect = sqlite3.connect

    def on_a_full_disk(*args, **options):
        database = connect(*args, **options)
        database.execute("PRAGMA max_page_count = 2")
        return database

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", on_a_full_disk)
        with pytest.raises(OSError, match="full") as caught:
            records.keep([Record(version=2, manifest=b"m", delta=b"d" * 100_000)])
    assert caught.value.errno == errno.ENOSPC
    assert records.versions() == [1]
