import json
import os
import stat
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from experience.archive import read_rows, read_shard
from experience.archive_folder import day_folders, own_shards
from experience.claims import MAX_NAME_BYTES
from experience.episode import Episode
from experience.errors import Problem
from experience.folders import entries
from experience.ids import uuid7_alike, uuid7_time_s
from experience.spool import Spool

PUBLISHED_AT = 1_767_225_599.0
"""The last second of 2025."""
PROBLEM = Problem(reason="truncated", field="file", value="3 bytes", accepted="a whole file", index=2)


@pytest.fixture
def spool(tmp_path):
    spool = Spool(tmp_path / "spool")
    spool.make_folders()
    return spool


def deposit(spool, name="a.npz", data=b"data", *, mtime_s=None):
    path = spool.root / "in" / name
    path.write_bytes(data)
    if mtime_s is not None:
        os.utime(path, (mtime_s, mtime_s))
    return path


def claimed(spool, name="a.npz", data=b"data"):
    deposit(spool, name, data)
    return spool.claim(name)


def episode(name="e", reward=1.0):
    return Episode(
        episode_id=name,
        action=np.array([0]),
        reward=np.array([reward]),
        obs=np.zeros((1, 2), np.float32),
        terminated=True,
        truncated=False,
    )


def files(root):
    found = []
    for folder, _, names in os.walk(root):
        found += [os.path.relpath(f"{folder}/{name}", root) for name in names]
    return sorted(found)


def ids(path):
    return [row.episode_id for row in read_shard(path)]


def test_make_folders_makes_the_layout_and_may_be_repeated(spool):
    spool.make_folders()
    names = sorted(path.name for path in spool.root.iterdir())
    assert names == ["archive", "busy", "claimed", "in", "quarantine", "refused", "work"]
    assert (spool.root / "claimed" / "daemon").is_dir()


@pytest.mark.parametrize("writer", ["", "a/b", "..", ".hidden", "x" * 65, "a\n"])
def test_a_writer_is_the_name_of_a_folder(tmp_path, writer):
    with pytest.raises(ValueError, match="writer is"):
        Spool(tmp_path, writer=writer)


def test_waiting_is_oldest_first_and_leaves_out_names_with_a_dot(spool):
    deposit(spool, "new", b"12", mtime_s=20.0)
    deposit(spool, "old", b"1", mtime_s=10.5)
    deposit(spool, ".tmp-1", mtime_s=1.0)
    (spool.root / "in" / "folder").mkdir()
    os.mkfifo(spool.root / "in" / "fifo")
    (spool.root / "in" / "link").symlink_to("/nowhere")
    waiting = spool.waiting()
    assert [(w.name, w.size_bytes, w.mtime_s) for w in waiting[:2]] == [("old", 1, 10.5), ("new", 2, 20.0)]
    assert {w.name for w in waiting[2:]} == {"folder", "fifo", "link"}
    assert spool.waiting_summary() == (5, 10.5)


def test_nothing_waits_in_an_empty_inbox(spool):
    assert spool.waiting() == []
    assert spool.waiting_summary() == (0, None)


@pytest.mark.slow
def test_100_000_waiting_names_are_listed_in_seconds(spool):
    inbox = os.fsencode(spool.root / "in")
    for i in range(100_000):
        os.close(os.open(b"%s/%d.npz" % (inbox, i), os.O_CREAT | os.O_WRONLY))
    started = time.perf_counter()
    assert len(spool.waiting()) == 100_000
    seconds = time.perf_counter() - started
    print(f"waiting() over 100,000 names: {seconds:.2f} s")
    assert seconds < 10


ODD_NAMES = [
    "a.npz",
    "no extension",
    "two\nlines\t.jsonl",
    "caf\udce9.npz",
    "-rf",
    "x.json",
    "é" * 127,
    "x" * 251 + ".npz",
    "\udcff" * 255,
    "0196f0c0-0000-7000-8000-000000000000.7.x",
    "trailing ",
    "\x01\x7f",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_of_any_bytes_go_the_whole_way(spool, name):
    deposit(spool, name, b"content")
    claim = spool.claim(spool.waiting()[0].name)
    assert len(os.fsencode(claim.name)) <= MAX_NAME_BYTES
    assert claim.name == name or len(os.fsencode(name)) > MAX_NAME_BYTES
    assert spool.resume() == [claim]
    claim = spool.attempt(claim)
    assert spool.resume() == [claim]
    target = spool.quarantine(claim, PROBLEM, now=0.0)
    assert target.read_bytes() == b"content"
    assert json.loads(target.with_name(target.name + ".json").read_bytes())["file"] == claim.name
    assert spool.resume() == []


def test_long_names_keep_their_ending_and_stay_apart(spool):
    first, second = (claimed(spool, "x" * 240 + end) for end in ("a.jsonl", "b.jsonl"))
    assert first.name != second.name
    assert first.name.endswith(".jsonl")
    assert len(first.name) == MAX_NAME_BYTES


def test_claim_is_one_rename_onto_a_new_name(spool, killed_at):
    source = deposit(spool)
    inode = source.stat().st_ino
    with killed_at(99) as watched:
        claim = spool.claim("a.npz")
    assert watched.calls == ["rename"]
    assert claim.path == spool.root / "claimed" / "daemon" / f"{claim.id}.0.a.npz"
    assert (claim.attempt, claim.name, claim.path.stat().st_ino) == (0, "a.npz", inode)
    assert abs(uuid7_time_s(claim.id) - time.time()) < 60
    assert not source.exists()
    again = claimed(spool)
    assert again.path != claim.path
    assert again.id > claim.id


def test_a_name_that_is_gone_or_hidden_gives_no_claim(spool):
    assert spool.claim("gone") is None
    deposit(spool, ".tmp-1")
    assert spool.claim(".tmp-1") is None
    assert spool.claim("..") is None
    assert (spool.root / "in" / ".tmp-1").exists()
    for name in ("", "a/b", "../work", "/etc/passwd"):
        with pytest.raises(ValueError, match="not the name"):
            spool.claim(name)


def test_a_missing_folder_is_not_taken_for_a_missing_file(spool):
    deposit(spool)
    (spool.root / "claimed" / "daemon").rmdir()
    with pytest.raises(FileNotFoundError):
        spool.claim("a.npz")


def test_resume_gives_own_claims_in_order_and_leaves_other_names_alone(spool):
    claims = [claimed(spool, f"{i}.npz") for i in (3, 1, 2)]
    claims[0] = spool.attempt(spool.attempt(claims[0]))
    other = Spool(spool.root, writer="online")
    other.make_folders()
    theirs = claimed(other, "theirs")
    (spool.root / "claimed" / "daemon" / "README").write_bytes(b"")
    assert spool.resume() == claims
    assert [claim.attempt for claim in spool.resume()] == [2, 0, 0]
    assert other.resume() == [theirs]


def test_finish_removes_the_claim_first_then_its_copy(spool, monkeypatch):
    claim = claimed(spool)
    copy = spool.work_path(claim)
    copy.write_bytes(b"data")
    order = []
    real = os.unlink

    def unlink(path, **kwargs):
        order.append(path)
        real(path, **kwargs)

    monkeypatch.setattr(os, "unlink", unlink)
    spool.finish(claim)
    spool.finish(claim)
    assert order[:2] == [claim.path, copy]
    assert files(spool.root) == []


def sharing(spool, count=3):
    """Claims that share a work file, and the file."""
    claims = []
    for number, claim_id in enumerate(uuid7_alike(count)):
        (spool.root / "in" / f"{number}.npz").write_bytes(b"data")
        claims.append(spool.claim(f"{number}.npz", attempt=1, claim_id=claim_id))
    assert Spool(spool.root).resume() == claims
    (copy,) = {spool.work_path(claim) for claim in claims}
    assert [spool.work_slot(claim) for claim in claims] == list(range(count))
    copy.write_bytes(b"copies")
    return claims, copy


@pytest.mark.parametrize("restarted", [False, True])
def test_a_work_file_goes_with_the_last_claim_that_shares_it(spool, restarted):
    claims, copy = sharing(spool)
    if restarted:
        spool = Spool(spool.root)
        spool.sweep(time.time())
    spool.finish(claims[0])
    spool.finish(claims[0])
    spool.quarantine(claims[2], PROBLEM, now=0.0)
    assert copy.exists()
    again = spool.attempt(claims[1])
    assert spool.work_path(again) == copy
    spool.finish(again)
    assert not copy.exists()


def test_a_claim_that_is_let_go_of_while_claims_are_listed_is_not_noted_again(spool, monkeypatch):
    claim = claimed(spool)
    spool.work_path(claim).write_bytes(b"copy")
    finishing = threading.Thread(target=spool.finish, args=(claim,))

    def listed(folder):
        found = list(entries(folder))
        finishing.start()
        finishing.join(0.2)  # the work file cannot go before they are noted
        return found

    monkeypatch.setattr("experience.spool.entries", listed)
    spool.resume()
    finishing.join()
    assert not spool.work_path(claim).exists()
    assert spool._copies._sharing == {}


def test_a_claim_is_noted_between_the_steps_of_others_not_during_one(spool):
    """Two threads that change one number at a time would lose one of the changes."""
    (first, second), copy = sharing(spool, 2)
    copies = spool._copies
    noting = threading.Thread(target=copies.note, args=(second,))
    with copies.noting() as listed:
        listed.append(first)
        noting.start()
        noting.join(0.1)
        assert noting.is_alive()
    noting.join()
    copies.drop(first)
    assert copy.exists()


def test_sweep_leaves_the_copy_of_a_claim_that_is_made_meanwhile(spool):
    (spool.root / "work" / f"{uuid7_alike(1)[0][:-1]}.daemon").write_bytes(b"of nobody")
    made = []

    def listed():
        claims = spool.resume()
        made.append(claimed(spool))
        spool.work_path(made[0]).write_bytes(b"copy")
        return claims

    assert len(spool._copies.sweep(listed)) == 1
    assert spool.work_path(made[0]).exists()


def test_sweep_keeps_a_work_file_while_one_claim_shares_it(spool):
    claims, copy = sharing(spool)
    earlier = [copy.with_name(f"{claim.id}.daemon") for claim in claims]  # a release with a file for each
    for path in earlier:
        path.write_bytes(b"copy")
    for claim in claims[:2]:
        claim.path.unlink()  # as a kill between the two leaves it
    spool = Spool(spool.root)
    assert spool.sweep(time.time()) == []
    claims[2].path.unlink()
    assert sorted(spool.sweep(time.time())) == sorted([copy, *earlier])
    assert list((spool.root / "work").iterdir()) == []


def test_refused_rows_are_kept_with_their_reason(spool):
    claim = claimed(spool)
    path = spool.refuse(claim, "too_old", [episode("a"), episode("b")], [PROBLEM, PROBLEM])
    assert path == spool.root / "refused" / "too_old" / f"{claim.id}.parquet"
    assert [row.verdict for row in read_rows(path)] == [PROBLEM, PROBLEM]
    assert spool.refuse(claim, "too_old", [episode("a")]) == path
    spool.refuse(claim, "too_old", [episode("c")])
    assert ids(path) == ["a", "b", "c"]
    assert [row.verdict for row in read_rows(path)] == [PROBLEM, PROBLEM, None]
    assert spool.refuse(claim, "mask", [episode("a")]) != path
    assert claim.path.exists()


@pytest.mark.parametrize("reason", ["", "../x", "Too Old", "a/b", ".", "a\n", "x" * 65])
def test_a_reason_is_one_plain_word(spool, reason):
    claim = claimed(spool)
    with pytest.raises(ValueError, match="reason is"):
        spool.refuse(claim, reason, [episode()])
    bad = Problem(reason=reason, field="", value="", accepted="")
    with pytest.raises(ValueError, match="reason is"):
        spool.quarantine(claim, bad, now=0.0)
    assert files(spool.root / "refused") == files(spool.root / "quarantine") == []


def test_quarantine_moves_the_file_and_says_why(spool):
    claim = spool.attempt(claimed(spool))
    spool.work_path(claim).write_bytes(b"copy")
    target = spool.quarantine(claim, PROBLEM, now=1_767_225_600.25)
    assert target == spool.root / "quarantine" / "truncated" / f"{claim.id}.a.npz"
    assert target.read_bytes() == b"data"
    assert json.loads(target.with_name(target.name + ".json").read_bytes()) == {
        "reason": "truncated",
        "field": "file",
        "value": "3 bytes",
        "accepted": "a whole file",
        "index": 2,
        "file": "a.npz",
        "time": "2026-01-01T00:00:00.250+00:00",
    }
    assert len(files(spool.root)) == 2
    assert spool.quarantine(claim, PROBLEM, now=1_767_225_600.25) == target
    assert len(files(spool.root)) == 2


def test_quarantine_takes_whatever_was_dropped_and_follows_nothing(spool, tmp_path):
    outside = tmp_path / "outside"
    outside.write_bytes(b"secret")
    inbox = spool.root / "in"
    (inbox / "link").symlink_to(outside)
    (inbox / "folder").mkdir()
    (inbox / "folder" / "inner.npz").write_bytes(b"x")
    os.mkfifo(inbox / "fifo")
    deposit(spool, "unreadable").chmod(0)
    kinds = {"link": stat.S_ISLNK, "folder": stat.S_ISDIR, "fifo": stat.S_ISFIFO, "unreadable": stat.S_ISREG}
    for name, kind in kinds.items():
        target = spool.quarantine(spool.claim(name), PROBLEM, now=0.0)
        assert kind(target.lstat().st_mode), name
    assert outside.read_bytes() == b"secret"
    assert list(inbox.iterdir()) == spool.resume() == []
    removed = spool.quarantine_prune(keep_days=0, keep_bytes=0, now=time.time() + 1)
    assert len(removed) == 8
    assert files(spool.root) == []
    assert outside.read_bytes() == b"secret"


def test_a_file_that_cannot_be_quarantined_leaves_no_record(spool):
    claim = claimed(spool)
    claim.path.unlink()
    with pytest.raises(FileNotFoundError):
        spool.quarantine(claim, PROBLEM, now=0.0)
    assert files(spool.root) == []


def test_archive_goes_by_utc_day_and_version(spool):
    first = spool.archive(7, [episode("a"), episode("b")], published_at=PUBLISHED_AT)
    second = spool.archive(123_456_789, [episode("c")], published_at=PUBLISHED_AT + 1)
    assert first == spool.root / "archive" / "2025-12-31" / "00000007.parquet"
    assert second == spool.root / "archive" / "2026-01-01" / "123456789.parquet"
    third = spool.archive(8, [episode("d")], published_at=PUBLISHED_AT + 9)
    assert own(spool) == [first, third, second]
    assert spool.archived(7) == first
    assert spool.archived(9) is None
    assert ids(first) == ["a", "b"]


def test_archiving_again_adds_and_never_drops(spool):
    path = spool.archive(1, [episode("a"), episode("b")], published_at=PUBLISHED_AT)
    assert spool.archive(1, [episode("b")], published_at=PUBLISHED_AT + 1) == path
    assert ids(path) == ["a", "b"]
    spool.archive(1, [episode("c"), episode("a")], published_at=PUBLISHED_AT)
    assert ids(path) == ["a", "b", "c"]
    assert own(spool) == [path]


def test_a_damaged_shard_is_kept_aside(spool):
    path = spool.archive(1, [episode("a")], published_at=PUBLISHED_AT)
    path.write_bytes(path.read_bytes()[:-9])
    spool.archive(1, [episode("b")], published_at=PUBLISHED_AT)
    assert ids(path) == ["b"]
    assert path.with_name("00000001.parquet.damaged").exists()
    assert own(spool) == [path]


def test_folders_that_are_no_days_are_passed_over(spool):
    for name in ("2026-13-01", "old", "20260101"):
        (spool.root / "archive" / name).mkdir()
        (spool.root / "archive" / name / "00000001.parquet").write_bytes(b"")
    assert own(spool) == []
    assert spool.archive_prune(keep_days=0, keep_bytes=0, now=PUBLISHED_AT * 2) == []


def test_sweep_removes_what_crashes_left(spool):
    now_s = time.time()
    claim = claimed(spool)
    other = Spool(spool.root, writer="online.1")
    other.make_folders()
    theirs = claimed(other)
    gone = [spool.work_path(claimed(spool, f"{i}")) for i in range(2)]
    for orphan in spool.resume()[1:]:
        spool.finish(orphan)
    for copy in (spool.work_path(claim), other.work_path(theirs), *gone):
        copy.write_bytes(b"")
    spool.archive(1, [episode()], published_at=PUBLISHED_AT)
    stale = [
        spool.root / "in" / ".tmp-old",
        spool.root / "work" / ".tmp-old",
        spool.root / "archive" / "2025-12-31" / ".tmp-old",
    ]
    fresh = spool.root / "in" / ".tmp-new"
    hidden = spool.root / "in" / ".hidden"
    for path in (*stale, fresh, hidden):
        path.write_bytes(b"")
        os.utime(path, (now_s, now_s - (86_401 if path is not fresh else 86_000)))
    (spool.root / "in" / ".tmp-folder").mkdir()
    assert set(spool.sweep(now_s)) == {*stale, *gone}
    assert spool.work_path(claim).exists()
    assert other.work_path(theirs).exists()
    assert fresh.exists()
    assert hidden.exists()
    assert spool.root / "in" / ".tmp-folder" in spool.sweep(now_s + 90_000)


def test_archive_prune_by_age_counts_from_the_end_of_the_day(spool):
    paths = [spool.archive(i, [episode()], published_at=i * 86_400.0) for i in range(1, 5)]
    assert spool.archive_prune(keep_days=1, keep_bytes=10**9, now=4 * 86_400.0 + 5) == paths[:2]
    assert own(spool) == paths[2:]
    assert len(list((spool.root / "archive").iterdir())) == 2
    assert spool.archive_prune(keep_days=1, keep_bytes=10**9, now=4 * 86_400.0 + 5) == []


def test_archive_prune_by_size_removes_the_oldest(spool):
    paths = [spool.archive(i, [episode()], published_at=i * 86_400.0) for i in range(1, 5)]
    size = paths[0].stat().st_size
    assert spool.archive_prune(keep_days=999, keep_bytes=3 * size - 1, now=86_400.0) == paths[:2]
    assert spool.archive_prune(keep_days=999, keep_bytes=0, now=86_400.0) == paths[2:]


def test_quarantine_prune_takes_file_and_record_together_the_oldest_first(spool):
    targets = [spool.quarantine(claimed(spool, f"{i}", b"x" * 1000), PROBLEM, now=0.0) for i in range(3)]
    records = [target.with_name(target.name + ".json") for target in targets]
    for target in targets:
        os.utime(target, (0, 0))
    now = time.time()
    assert spool.quarantine_prune(keep_days=1, keep_bytes=10**9, now=now) == []
    size = 1000 + records[0].stat().st_size
    assert spool.quarantine_prune(keep_days=1, keep_bytes=3 * size - 1, now=now) == [targets[0], records[0]]
    assert spool.quarantine_prune(keep_days=1, keep_bytes=10**9, now=now + 90_000) == [
        targets[1],
        records[1],
        targets[2],
        records[2],
    ]


def test_a_file_that_cannot_be_removed_keeps_its_record(spool, monkeypatch):
    target = spool.quarantine(claimed(spool), PROBLEM, now=0.0)
    real = os.unlink

    def unlink(path, **kwargs):
        if path == target:
            raise PermissionError(path)
        real(path, **kwargs)

    monkeypatch.setattr(os, "unlink", unlink)
    assert spool.quarantine_prune(keep_days=0, keep_bytes=0, now=time.time() + 9) == []
    assert len(files(spool.root / "quarantine")) == 2


def test_refused_rows_are_pruned_alike(spool):
    path = spool.refuse(claimed(spool), "mask", [episode()])
    assert spool.refused_prune(keep_days=1, keep_bytes=0, now=time.time()) == [path]


def test_sizes_tell_the_archive_apart_and_follow_changes(spool):
    assert (spool.sizes().spool_bytes, spool.sizes().archive_bytes) == (0, 0)
    deposit(spool, "a", b"12345")
    (spool.root / "in" / "folder").mkdir()
    (spool.root / "in" / "folder" / "b").write_bytes(b"123")
    shard = spool.archive(1, [episode()], published_at=PUBLISHED_AT)
    for _ in range(2):
        assert spool.sizes().spool_bytes == 8
        assert spool.sizes().archive_bytes == shard.stat().st_size
    for folder in (spool.root / "in", spool.root / "in" / "folder"):
        os.utime(folder, (1, 1))
    assert spool.sizes().spool_bytes == 8
    (spool.root / "in" / "a").unlink()
    assert spool.sizes().spool_bytes == 3


def test_folders_nested_at_will_do_no_harm(spool):
    folder = spool.root / "in" / "deep"
    folder.mkdir()
    here = os.open(folder, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    assert spool.sizes().spool_bytes == 0
    spool.quarantine(spool.claim("deep"), PROBLEM, now=0.0)
    spool.quarantine_prune(keep_days=0, keep_bytes=0, now=time.time() + 9)
    assert list((spool.root / "quarantine" / "truncated").iterdir()) == []


def own(spool):
    """The shards of single versions, in order of version."""
    found = [item for folder in day_folders(spool.archive_folder) for item in own_shards(folder).items()]
    return [path for _, path in sorted(found)]


ENDS = ("finish", "refuse", "quarantine", "archive")


def begin(spool, end):
    """What the daemon does with one file, as one run of it and every later one would: resume, or claim."""
    claims = spool.resume() or [claim for waiting in spool.waiting() if (claim := spool.claim(waiting.name))]
    for claim in claims:
        tried = spool.attempt(claim)
        copy = spool.work_path(tried)
        copy.write_bytes(tried.path.read_bytes())
        rows = [episode("a"), episode("b")]
        if end == "quarantine":
            spool.quarantine(tried, PROBLEM, now=0.0)
            continue
        if end == "refuse":
            spool.refuse(tried, "too_old", rows)
        if end == "archive":
            spool.archive(3, rows, published_at=PUBLISHED_AT)
        spool.finish(tried)


@pytest.mark.parametrize("end", ENDS)
def test_a_kill_at_every_call_ends_in_the_same_state(tmp_path, killed_at, end):
    for k in range(200):
        spool = Spool(tmp_path / f"{k}")
        spool.make_folders()
        deposit(spool, data=b"content")
        with killed_at(k) as kill:
            begin(spool, end)
        spool.make_folders()
        begin(spool, end)
        spool.sweep(time.time() + 90_000)
        assert_ended(spool, end)
        if not kill.happened:
            assert k >= 4
            return
    pytest.fail("more calls than expected")


def assert_ended(spool, end):
    found = files(spool.root)
    if end == "finish":
        assert found == []
    elif end == "quarantine":
        target, record = found
        assert record == target + ".json"
        assert (spool.root / target).read_bytes() == b"content"
    else:
        (path,) = found
        assert path.startswith({"refuse": "refused/too_old/", "archive": "archive/2025-12-31/00000003"}[end])
        assert ids(spool.root / path) == ["a", "b"]


def test_a_kill_and_another_reason_leave_one_record(spool, killed_at):
    claim = claimed(spool)
    with killed_at(0, names=("rename",)) as kill:
        spool.quarantine(claim, PROBLEM, now=0.0)
    assert kill.happened
    assert len(files(spool.root / "quarantine")) == 1
    other = Problem(reason="decoder_died", field="file", value="3 attempts", accepted="")
    target = spool.quarantine(spool.resume()[0], other, now=0.0)
    assert files(spool.root / "quarantine") == [
        f"decoder_died/{target.name}",
        f"decoder_died/{target.name}.json",
    ]


@pytest.mark.parametrize("end", ["refuse", "quarantine", "archive"])
def test_the_claim_stays_until_its_outcome_is_on_the_disk(spool, monkeypatch, end):
    """An fsync that fails at any place raises before the claim is let go."""
    for k in range(20):
        claim = claimed(spool, f"{k}")
        calls = []
        real = os.fsync

        def fsync(file, calls=calls, k=k, real=real):
            calls.append(file)
            if len(calls) == k + 1:
                raise OSError(5, "Input/output error")
            real(file)

        monkeypatch.setattr(os, "fsync", fsync)
        try:
            if end == "quarantine":
                spool.quarantine(claim, PROBLEM, now=0.0)
            elif end == "refuse":
                spool.refuse(claim, "mask", [episode()])
            else:
                spool.archive(k + 1, [episode()], published_at=k * 86_400.0)
        except OSError:
            monkeypatch.setattr(os, "fsync", real)
            held = [path for path in files(spool.root) if path.endswith(f".{k}")]
            assert len(held) == 1
        else:
            monkeypatch.setattr(os, "fsync", real)
            assert k >= 2
            return
    pytest.fail("more calls than expected")


def test_folders_that_were_removed_come_back_with_the_inbox_as_it_was(tmp_path):
    spool = Spool(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "in").chmod(0o3730)
    spool.make_folders()
    assert spool.restore_folders() == []
    (tmp_path / "in").rmdir()
    (tmp_path / "work").rmdir()
    assert spool.restore_folders() == [tmp_path / "in", tmp_path / "work"]
    assert (tmp_path / "in").stat().st_mode & 0o7777 == 0o3730


def test_a_spool_that_is_gone_whole_is_not_made_again(tmp_path):
    spool = Spool(tmp_path / "mounted")
    spool.make_folders()
    (tmp_path / "mounted").rename(tmp_path / "unmounted")
    assert spool.restore_folders() == []
    assert not (tmp_path / "mounted").exists()


def test_the_folder_that_a_file_leaves_is_flushed_before_the_one_it_enters(spool, monkeypatch):
    flushed = []
    real = os.fsync

    def fsync(file):
        flushed.append(str(Path(f"/proc/self/fd/{file}").readlink()))
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    claim = claimed(spool)
    spool.sync_claims()
    inbox, claims = str(spool.root / "in"), str(spool.root / "claimed" / "daemon")
    assert flushed == [inbox, claims]
    target = spool.quarantine(claim, PROBLEM, now=0.0)
    assert flushed[-2:] == [claims, str(target.parent)]
