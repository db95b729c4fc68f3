"""Compaction: every row, note and order is as before, whatever breaks off, changes or is damaged."""

import contextlib
import errno
import json
import os
import shutil
import tracemalloc
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experience import compacted, compaction_output
from experience.archive import read_shard, write_shard
from experience.archive_folder import compacted_shards, own_shards
from experience.archive_reader import ArchiveReader
from experience.codec import decode
from experience.compacted import CompactedShard, CompactedWriter, read_index
from experience.compaction import compact, take_out
from experience.compaction_output import Compacted
from experience.errors import Problem, ShardDamaged
from experience.rows import StepTypes, fingerprint
from experience.spool import Spool

DAY, NEXT_DAY = 1_000_000_000.0, "2001-09-10"
PROBLEM = Problem(reason="too_old", field="ended_at", value="9 s ago", accepted="at most 5 s")


@pytest.fixture
def spool(tmp_path):
    spool = Spool(tmp_path / "spool")
    spool.make_folders()
    return spool


@pytest.fixture
def fill(spool, make_episode):
    """Archive versions of a few episodes each."""

    def fill(*versions, steps=3, note="", **fields):
        for version in versions:
            rows = [make_episode(f"e{version}-{i}", seed=version, steps=steps, **fields) for i in range(3)]
            spool.archive(version, rows, published_at=DAY, note=note and f"{note} {version}")

    return fill


def everything(spool):
    """Version -> (what tells its rows apart, in order; its note)."""
    reader = ArchiveReader(spool.archive_folder)
    return {v: (list(map(fingerprint, reader.rows(v))), reader.note(v)) for v in reader.versions()}


def run(spool, is_ancestor=bool):
    report = Compacted()
    for _ in compact(spool.archive_folder, before=NEXT_DAY, ancestors=lambda: is_ancestor, report=report):
        pass
    return report


def names(spool):
    return sorted(path.name for path in spool.archive_folder.rglob("*") if path.is_file())


def day(spool):
    return spool.archive_folder / "2001-09-09"


def compacted_paths(spool):
    return list(compacted_shards(day(spool)))


def test_shards_become_one_and_every_version_is_as_before(spool, fill):
    fill(1, 2, 5)
    fill(3, note="learned again with")
    before = everything(spool)
    report = run(spool)
    assert everything(spool) == before
    (path,) = compacted_paths(spool)
    assert names(spool) == [path.name]
    assert path.name.startswith("00000001-00000005.")
    assert (report.replaced, report.written, report.damaged) == (4, 1, {})
    assert report.bytes_after == path.stat().st_size < report.bytes_before
    reader = ArchiveReader(spool.archive_folder)
    assert reader.note(3) == "learned again with 3"
    assert (reader.rows(4), reader.places(4), reader.places(5)) == ([], [], [path])


def test_days_that_are_not_over_stay_as_they_are(spool, fill):
    fill(1, 2)
    for _ in compact(spool.archive_folder, before="2001-09-09", ancestors=lambda: bool, report=Compacted()):
        pass
    assert names(spool) == ["00000001.parquet", "00000002.parquet"]


def test_other_tools_and_clients_read_a_compacted_shard_as_any_other(spool, fill):
    fill(1, 2, 3)
    hashes = [e.row_sha256 for v in (1, 2, 3) for e in ArchiveReader(spool.archive_folder).episodes(v)]
    run(spool)
    (path,) = compacted_paths(spool)
    assert [episode.row_sha256 for episode in read_shard(path)] == hashes
    assert pq.read_table(path, page_checksum_verification=True)["row_sha256"].to_pylist() == hashes
    assert pl.read_parquet(path)["row_sha256"].to_list() == hashes
    assert [
        row[0] for row in duckdb.execute("SELECT row_sha256 FROM read_parquet(?)", [str(path)]).fetchall()
    ] == hashes
    assert json.loads(pq.read_metadata(path).metadata[b"learnerd.versions"]) == [[1, 3], [2, 3], [3, 3]]


def test_versions_are_spread_over_row_groups_and_shards(spool, fill, monkeypatch):
    monkeypatch.setattr(compacted, "GROUP_BYTES", 300)
    monkeypatch.setattr(compacted, "SHARD_BYTES", 1000)
    fill(*range(1, 10), note="n")
    before = everything(spool)
    assert run(spool).written == len(compacted_paths(spool)) > 2
    assert all(len(read_index(path).groups) > 1 for path in compacted_paths(spool))
    assert everything(spool) == before
    made = names(spool)
    run(spool)
    assert names(spool) == made


def test_other_types_and_verdicts_are_kept_to_the_bit(spool, make_episode):
    given = {
        1: {"obs": np.arange(16, dtype=np.float32).reshape(4, 4)},
        2: {"obs": np.arange(16, dtype=np.uint8).reshape(4, 4)},
        3: {"action": np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]], np.float32)},
        4: {"action": np.array([0, 1, 2**31 - 1]), "mask": np.ones((3, 2), bool)},
        5: {
            "extensions": {"pnl": [1.5, None]},
            "info_json": '"é"',
            "tags": ("a",),
            "source_name": "caf\udce9",
        },
        6: {"obs": np.zeros((4, 2, 3), np.float64), "logp": None},
    }
    for version, fields in given.items():
        spool.archive(version, [make_episode("a", **fields), make_episode("b")], published_at=DAY)
    write_shard(
        day(spool) / "00000007.parquet", [make_episode("c"), make_episode("d")], verdicts=[PROBLEM, None]
    )
    before = everything(spool)
    run(spool)
    assert everything(spool) == before
    run(spool)
    assert everything(spool) == before
    assert len(names(spool)) == 1  # of the types that hold all of them
    assert [row.verdict for row in ArchiveReader(spool.archive_folder).rows(7)] == [PROBLEM, None]


def test_what_comes_late_is_folded_in(spool, fill, make_episode):
    fill(1, 2, 5)
    run(spool)
    fill(3)
    spool.archive(2, [make_episode("late"), make_episode("e2-1", seed=2)], published_at=DAY)
    before = everything(spool)
    assert [e.episode_id for e in ArchiveReader(spool.archive_folder).episodes(2)] == [
        "e2-0",
        "e2-1",
        "e2-2",
        "late",
    ]
    run(spool)
    assert everything(spool) == before
    assert len(names(spool)) == 1
    assert run(spool) == Compacted()


def test_what_is_full_is_not_written_again(spool, fill, monkeypatch):
    monkeypatch.setattr(compacted, "SHARD_VERSIONS", 4)
    fill(1, 2, 4, 5)
    run(spool)
    (full,) = compacted_paths(spool)
    inode = full.stat().st_ino
    kept = day(spool) / "00000002.parquet"
    fill(2, 3)  # a crash may have left 2
    before = everything(spool)
    assert kept.exists()
    report = run(spool)
    assert (report.replaced, report.written) == (2, 1)
    assert everything(spool) == before
    assert full.stat().st_ino == inode
    assert [sorted(read_index(path).versions) for path in compacted_paths(spool)] == [[1, 2, 4, 5], [3]]


EVERY = pytest.mark.parametrize("stride", [pytest.param(1, marks=pytest.mark.slow), 3])


def attempts(spool, killed_at, begin, *, stride):
    """Let ``begin`` be killed at each ``stride``-th of its calls; yield after each."""
    pristine = spool.root.with_name("pristine")
    shutil.copytree(spool.root, pristine)
    for k in range(0, 400, stride):
        with killed_at(k) as kill:
            begin()
        if not kill.happened:
            assert k >= 10
            return
        yield k
        shutil.rmtree(spool.root)
        shutil.copytree(pristine, spool.root)
    pytest.fail("more calls than expected")


@EVERY
def test_a_kill_at_any_call_loses_and_doubles_nothing(spool, fill, killed_at, monkeypatch, stride):
    monkeypatch.setattr(compacted, "SHARD_VERSIONS", 3)
    fill(1, note="n")
    fill(2)
    run(spool)
    fill(3, 4, 5)
    before = everything(spool)
    for _ in attempts(spool, killed_at, lambda: run(spool), stride=stride):
        assert everything(spool) == before
        run(spool)
        assert everything(spool) == before
        visible = [name for name in names(spool) if not name.startswith(".tmp-")]
        assert len(visible) == 2
        assert all("-" in name for name in visible)


def test_all_is_durable_before_anything_goes(spool, fill, monkeypatch):
    fill(1, 2, 3)
    events = []

    def fsync(descriptor, real=os.fsync):
        events.append(("fsync", Path(f"/proc/self/fd/{descriptor}").readlink().name[:5]))
        real(descriptor)

    def noted(name, real):
        def call(path, *rest, **keywords):
            events.append((name, Path(path).name[:5]))
            return real(path, *rest, **keywords)

        return call

    monkeypatch.setattr(os, "fsync", fsync)
    for name in ("replace", "unlink"):
        monkeypatch.setattr(os, name, noted(name, getattr(os, name)))
    run(spool)
    assert events == [
        ("fsync", ".tmp-"),
        ("fsync", ".tmp-"),
        ("replace", ".tmp-"),
        ("fsync", "2001-"),
        *[("unlink", "00000")] * 3,
    ]


@pytest.mark.parametrize("name", ["open", "write", "fsync", "replace", "unlink"])
def test_an_error_at_every_call_loses_and_doubles_nothing(spool, fill, monkeypatch, name):
    fill(1, 2, 3)
    before = everything(spool)
    real = getattr(os, name)
    for k in range(60):
        calls = []

        def failing(*args, calls=calls, k=k, **keywords):
            calls.append(args)
            if len(calls) == k + 1:
                raise OSError(errno.ENOSPC, "injected")
            return real(*args, **keywords)

        with monkeypatch.context() as patch, contextlib.suppress(OSError):
            patch.setattr(os, name, failing)
            run(spool)
        assert everything(spool) == before
        assert not [found for found in names(spool) if found.startswith(".tmp-")]
        if len(calls) <= k:
            assert k > 0
            break
    run(spool)
    assert len(names(spool)) == 1


def test_a_damaged_shard_is_left_alone_and_named(spool, fill):
    fill(1, 2, 3)
    bad = day(spool) / "00000002.parquet"
    data = bytearray(bad.read_bytes())
    data[len(data) // 2] ^= 1
    bad.write_bytes(data)
    report = run(spool)
    assert list(report.damaged) == [bad]
    assert "sha256" in report.damaged[bad]
    assert bad.read_bytes() == data
    assert len(names(spool)) == 2
    reader = ArchiveReader(spool.archive_folder)
    assert (len(reader.episodes(1)), len(reader.episodes(3))) == (3, 3)
    with pytest.raises(ShardDamaged):
        reader.rows(2)


def test_a_damaged_compacted_shard_is_left_alone_and_told_of(spool, fill):
    fill(1, 2)
    run(spool)
    (bad,) = compacted_paths(spool)
    bad.write_bytes(bad.read_bytes()[:-20])
    fill(3)
    assert list(run(spool).damaged) == [bad]
    reader = ArchiveReader(spool.archive_folder)
    assert list(reader.damaged()) == [bad]
    assert reader.versions() == [3]
    assert len(reader.episodes(3)) == 3
    with pytest.raises(ShardDamaged, match=bad.name):
        reader.places(2)
    assert reader.places(4) == []


def test_every_flipped_byte_is_noticed_or_does_not_matter(spool, fill, tmp_path):
    fill(1, 2)
    before = [row for v in (1, 2) for row in everything(spool)[v][0]]
    run(spool)
    (path,) = compacted_paths(spool)
    data = path.read_bytes()
    copy = tmp_path / path.name
    missed = []
    for i in range(0, len(data), 13):
        copy.write_bytes(data[:i] + bytes([data[i] ^ 1 << i % 8]) + data[i + 1 :])
        try:
            with CompactedShard(copy) as shard:
                assert [fingerprint(row) for rows in shard.groups() for row in rows] == before
        except ShardDamaged:
            continue
        missed.append(i)
    assert len(missed) <= 4  # of the magic in front, and of the seal, which ``read_shard`` checks
    for i in missed:
        copy.write_bytes(data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :])
        with pytest.raises(ShardDamaged):
            read_shard(copy)


def test_what_changes_meanwhile_is_not_replaced(spool, fill, make_episode):
    """A version that repair has taken over must not come back, and a row that was added must not go."""
    for change in ("added", "gone", "no ancestor"):
        fill(1, 2, 3)
        ancestors = {1, 2, 3}
        steps = compact(
            spool.archive_folder,
            before=NEXT_DAY,
            ancestors=lambda a=ancestors: a.__contains__,
            report=Compacted(),
        )
        for _ in range(3):
            next(steps)
        if change == "added":
            spool.archive(1, [make_episode("late")], published_at=DAY)
        elif change == "gone":
            (day(spool) / "00000001.parquet").unlink()
        else:
            ancestors.discard(1)
        before = everything(spool)
        for _ in steps:
            pass
        assert everything(spool) == before, change
        assert not compacted_paths(spool), change
        assert names(spool) == [path.name for path in own_shards(day(spool)).values()]


def test_breaking_off_leaves_nothing_behind(spool, fill):
    fill(1, 2, 3)
    steps = compact(spool.archive_folder, before=NEXT_DAY, ancestors=lambda: bool, report=Compacted())
    next(steps)
    assert len(names(spool)) == 4
    steps.close()
    assert names(spool) == [f"0000000{i}.parquet" for i in (1, 2, 3)]


def test_versions_within_ranges_are_found_where_they_may_stand(spool, fill, monkeypatch):
    fill(1, 2, 4)
    run(spool)
    fill(7, 8)
    assert ArchiveReader(spool.archive_folder).versions_within([(2, 3), (4, 7), (90, 10**9)]) == {2, 4, 7}
    monkeypatch.setattr("experience.archive_reader.read_index", None)
    assert ArchiveReader(spool.archive_folder).versions_within([(5, 7)]) == {7}


def test_a_reader_finds_again_what_was_compacted_since_it_listed(spool, fill):
    fill(1, 2)
    reader = ArchiveReader(spool.archive_folder)
    run(spool)
    assert len(reader.episodes(2)) == 3
    fill(3)
    reader = ArchiveReader(spool.archive_folder)
    assert reader.versions() == [1, 2, 3]
    run(spool)
    assert len(reader.episodes(1)) == len(reader.episodes(3)) == 3


def test_versions_that_are_no_ancestors_are_left_to_repair(spool, fill):
    fill(1, 2, 3)
    run(spool, {1, 2}.__contains__)
    assert list(own_shards(day(spool))) == [3]


@EVERY
def test_a_version_is_taken_out_whole_also_after_a_kill_at_any_call(spool, fill, killed_at, stride):
    fill(1, 2, note="n")
    run(spool)
    before = everything(spool)
    for _ in attempts(spool, killed_at, lambda: take_out(spool.archive_folder, 2), stride=stride):
        assert everything(spool) == before
    own = day(spool) / "00000002.parquet"
    assert take_out(spool.archive_folder, 2) == own
    assert everything(spool) == before
    assert ArchiveReader(spool.archive_folder).places(2) == [own]
    own.unlink()
    assert everything(spool) == {1: before[1]}
    take_out(spool.archive_folder, 1)
    assert names(spool) == ["00000001.parquet"]
    with pytest.raises(FileNotFoundError):
        take_out(spool.archive_folder, 2)


def test_with_little_room_nothing_is_begun(spool, fill, monkeypatch):
    fill(1, 2)
    before = names(spool)
    full = shutil.disk_usage(spool.root)._replace(free=10**8)
    monkeypatch.setattr(compaction_output.shutil, "disk_usage", lambda _: full)
    with pytest.raises(OSError, match="nothing is compacted"):
        run(spool)
    assert names(spool) == before


def test_retention_counts_a_compacted_shard_as_old_as_its_day(spool, fill):
    fill(1, 2)
    run(spool)
    (path,) = compacted_paths(spool)
    fill(3)
    own = day(spool) / "00000003.parquet"
    end = 1_000_080_000.0
    keep = {"keep_days": 1, "keep_bytes": 10**9}
    assert spool.archive_prune(**keep, now=end + 86_399) == []
    size = own.stat().st_size
    assert spool.archive_prune(keep_days=1, keep_bytes=size, now=end) == [path]  # the oldest first
    assert spool.archive_prune(**keep, now=end + 86_401) == [own]
    assert ArchiveReader(spool.archive_folder).rows(1) == []


def test_clients_may_deposit_a_compacted_shard_again(spool, fill, monkeypatch):
    fill(1, 2, 3)
    run(spool)
    (path,) = compacted_paths(spool)
    found = decode(path.read_bytes(), name=path.name, source_sha256="0" * 64, ingested_at=1.0)
    assert found.problems == ()
    assert [e.row_sha256 for e in found.episodes] == [e.row_sha256 for e in read_shard(path)]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_day(spool, make_episode):
    """A day of 120 MB of random steps in shards of 4 MB."""
    for version in range(1, 31):
        spool.archive(version, [make_episode("e", seed=version, steps=100_000)], published_at=DAY)
    tracemalloc.start()
    base, peak = pa.total_allocated_bytes(), 0
    steps = compact(spool.archive_folder, before=NEXT_DAY, ancestors=lambda: bool, report=Compacted())
    for _ in steps:
        peak = max(peak, pa.total_allocated_bytes() - base)
    _, python_peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(compacted_paths(spool)) > 1
    assert python_peak < 32 * 2**20
    assert peak < 32 * 2**20


def test_a_writer_that_reads_back_something_else_publishes_nothing(spool, fill, monkeypatch):
    fill(1, 2)
    before = names(spool)
    monkeypatch.setattr(CompactedShard, "group", lambda *_: [])
    with pytest.raises(ShardDamaged, match="read back"):
        run(spool)
    assert names(spool) == before


def test_types_that_do_not_hold_the_rows_are_told_apart(make_episode, tmp_path):
    discrete, continuous = make_episode(), make_episode(action=np.zeros((3, 2), np.float32))
    both = StepTypes.of([discrete]).including(StepTypes.of([continuous]))
    writer = CompactedWriter(tmp_path, both, with_verdict=False)
    assert writer.holds(StepTypes.of([discrete]), with_verdict=False)
    assert not writer.holds(StepTypes.of([discrete]), with_verdict=True)
    writer.abandon()
    narrow = CompactedWriter(tmp_path, StepTypes.of([discrete]), with_verdict=True)
    assert not narrow.holds(StepTypes.of([continuous]), with_verdict=True)
    narrow.abandon()
    assert list(tmp_path.iterdir()) == []
