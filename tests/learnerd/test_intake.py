"""Intake over a disk that fails: what passed is kept, and no file is blamed for it."""

from pathlib import Path

import numpy as np
import pytest

from experience.codec import Decoded
from experience.decoder import DecodeResult
from experience.episode import Episode
from experience.errors import reject
from experience.spool import Spool
from learnerd.clock import Clock
from learnerd.intake import MAX_ATTEMPTS, SLICE_BYTES, Intake


def episode(name):
    return Episode(
        episode_id=name,
        action=np.array([0]),
        reward=np.array([1.0]),
        obs=np.zeros((1, 1), np.float32),
        terminated=True,
        truncated=False,
    )


class Decoder:
    def start(self):
        pass

    def decode_some(self, jobs, *, meanwhile=tuple):
        jobs = [*jobs, *meanwhile()]
        yield [
            DecodeResult(job=job, decoded=Decoded(episodes=(episode(job.name),), problems=()), mtime=1.0)
            for job in jobs
        ]


class Gate:
    """Admits everything, but fails on the names in ``failing``, as on a full disk."""

    def __init__(self):
        self.failing = set()
        self.passed = set()
        self.quarantined = []

    def sort(self, arrival):
        if arrival.claim.name in self.failing:
            raise OSError(28, "injected")
        self.passed.add(arrival.claim.id)
        return arrival

    def foresee(self, arrivals):
        assert len(arrivals) > 1

    def sort_all(self, arrivals):
        return map(self.sort, arrivals)

    def held(self):
        return frozenset(self.passed)

    def quarantine(self, claim, problem):
        self.quarantined.append((claim.name, problem.reason))


@pytest.fixture
def admission():
    return Gate()


@pytest.fixture
def intake(tmp_path, admission):
    spool = Spool(tmp_path)
    spool.make_folders()
    for name in ("a.npz", "b.npz", "c.npz"):
        (tmp_path / "in" / name).write_bytes(b"")
    clock = Clock(remember_s=3600.0)
    return Intake(spool=spool, decoder=Decoder(), admission=admission, settle_s=0.0, clock=clock)


def taken(intake, *, into):
    intake.scan()
    for arrival in intake.take(64):
        into.append(arrival.claim.name)


def test_what_passed_before_an_error_is_not_lost(intake, admission):
    admission.failing = {"b.npz"}
    got = []
    with pytest.raises(OSError, match="injected"):
        taken(intake, into=got)
    assert got == ["a.npz"]
    admission.failing = set()
    taken(intake, into=got)
    assert sorted(got) == ["a.npz", "b.npz", "c.npz"]
    assert intake.idle


def test_what_was_read_beside_a_file_that_cannot_be_set_aside_is_not_lost(intake, admission, monkeypatch):
    decode = intake._decoder.decode_some

    def spoiled(jobs, *, meanwhile=tuple):
        problem = reject("malformed", "file", "b", "a").problem
        for results in decode(jobs, meanwhile=meanwhile):
            yield [
                DecodeResult(job=each.job, problem=problem) if each.job.name == "b.npz" else each
                for each in results
            ]

    def fail(*_):
        raise OSError(28, "injected")

    monkeypatch.setattr(intake._decoder, "decode_some", spoiled)
    monkeypatch.setattr(admission, "quarantine", fail)
    got = []
    with pytest.raises(OSError, match="injected"):
        taken(intake, into=got)
    assert got == ["a.npz"]
    monkeypatch.undo()
    taken(intake, into=got)
    assert sorted(got) == ["a.npz", "b.npz", "c.npz"]


def test_a_disk_that_keeps_failing_is_no_file_s_fault(intake, admission):
    admission.failing = {"a.npz", "b.npz", "c.npz"}
    for _ in range(3 * MAX_ATTEMPTS):
        with pytest.raises(OSError, match="injected"):
            taken(intake, into=[])
    admission.failing = set()
    got = []
    taken(intake, into=got)
    taken(intake, into=got)
    assert sorted(got) == ["a.npz", "b.npz", "c.npz"]
    assert admission.quarantined == []


def attempts(intake):
    """name -> how often it was begun to be read."""
    return {claim.name: claim.attempt for claim in intake._spool.resume()}


def test_files_may_be_claimed_without_being_read(intake, admission):
    intake.scan(adopt=False)
    intake.claim()
    assert attempts(intake) == {"a.npz": 0, "b.npz": 0, "c.npz": 0}
    assert intake.resume() == []  # nobody began to read them, so nothing of them was published
    intake.scan(adopt=False)
    assert not intake.has_work
    got = []
    taken(intake, into=got)
    assert got == ["a.npz", "b.npz", "c.npz"]
    assert set(attempts(intake).values()) == {1}
    assert intake.idle
    assert len(intake.resume()) == 3


def test_what_lay_claimed_is_as_old_as_when_it_was_claimed(intake):
    intake.scan(adopt=False)
    intake.claim()
    intake.scan()
    assert [arrival.seen_s for arrival in intake.take(64)] == [None, None, None]


def test_an_attempt_is_durable_before_anything_is_read(intake, monkeypatch):
    """Else a power cut could leave as unread what has been published, to be taken for a duplicate."""
    durable = {}
    monkeypatch.setattr(intake._spool, "sync_claims", lambda: durable.update(attempts(intake)))
    decode = intake._decoder.decode_some

    def check(jobs, *, meanwhile=tuple):
        jobs = [*jobs, *meanwhile()]
        assert {job.name: durable.get(job.name) for job in jobs} == {job.name: 1 for job in jobs}
        yield from decode(jobs)

    monkeypatch.setattr(intake._decoder, "decode_some", check)
    intake.scan()
    intake._backlog.take(1)
    intake.claim()  # b and c lie claimed; a is claimed and read at once
    intake.scan()
    assert len(list(intake.take(64))) == 3


def test_room_bounds_what_is_taken_from_all_queues_together(intake):
    intake.scan()
    intake._backlog.take(2)
    intake.claim()
    intake.scan()  # one unread claim, two files in the inbox
    assert len(list(intake.take(2))) == 2
    assert len(list(intake.take(2))) == 1
    assert intake.idle


@pytest.mark.parametrize("reason", ["truncated", "unreadable"])
def test_what_may_be_better_later_is_read_three_times_with_growing_pauses(tmp_path, admission, reason):
    spool = Spool(tmp_path)
    spool.make_folders()
    (tmp_path / "in" / "a.npz").write_bytes(b"")
    now, read = [100.0], []

    class Cut(Decoder):
        def decode_some(self, jobs, *, meanwhile=tuple):
            jobs = [*jobs, *meanwhile()]
            read.extend(now[0] for _ in jobs)
            problem = reject(reason, "file", "as it is", "as it will be").problem
            yield [DecodeResult(job=job, problem=problem) for job in jobs]

    clock = Clock(remember_s=3600.0, monotonic=lambda: now[0])
    intake = Intake(spool=spool, decoder=Cut(), admission=admission, settle_s=2.0, clock=clock)
    intake.note(["a.npz"])
    for _ in range(20):
        assert list(intake.take(64)) == []
        now[0] += 1.0
    assert read == [100.0, 104.0, 112.0]
    assert admission.quarantined == [("a.npz", reason)]


def test_a_file_that_was_taken_back_after_it_was_claimed_has_no_verdict(tmp_path, admission):
    spool = Spool(tmp_path)
    spool.make_folders()
    (tmp_path / "in" / "a.npz").write_bytes(b"")

    class Robbed(Decoder):
        def decode_some(self, jobs, *, meanwhile=tuple):
            jobs = [*jobs, *meanwhile()]
            for job in jobs:
                Path(job.claim_path).unlink()
            problem = reject("unreadable", "file", "No such file or directory", "a file").problem
            yield [DecodeResult(job=job, problem=problem) for job in jobs]

    clock = Clock(remember_s=3600.0)
    intake = Intake(spool=spool, decoder=Robbed(), admission=admission, settle_s=0.0, clock=clock)
    intake.note(["a.npz"])
    assert list(intake.take(64)) == list(intake.take(64)) == []
    assert intake.idle
    assert admission.quarantined == []


def test_the_decoder_begins_before_all_of_a_slice_is_claimed(intake, monkeypatch):
    for number in range(40):
        (intake._spool.root / "in" / f"d{number:02}.npz").write_bytes(b"")
    decode, durable, seen = intake._decoder.decode_some, {}, []
    monkeypatch.setattr(intake._spool, "sync_claims", lambda: durable.update(attempts(intake)))

    def check(jobs, *, meanwhile=tuple):
        if not jobs:
            return
        seen.append((len(jobs), len(attempts(intake))))
        jobs = [*jobs, *meanwhile()]
        assert durable == {job.name: 1 for job in jobs}
        yield from decode(jobs)

    monkeypatch.setattr(intake._decoder, "decode_some", check)
    intake.scan()
    arrivals = list(intake.take(35))
    assert [names.claim.name for names in arrivals] == sorted(durable)
    assert seen == [(16, 16)]
    works = [intake._spool.work_path(arrival.claim).name for arrival in arrivals]
    assert [works.count(name) for name in dict.fromkeys(works)] == [16, 16, 3]


def test_large_files_are_claimed_few_at_a_time_and_in_their_order(intake):
    inbox = intake._spool.root / "in"
    for name in ("a.npz", "b.npz", "c.npz"):
        with (inbox / name).open("r+b") as file:
            file.truncate(SLICE_BYTES // 2)
    intake.note(["a.npz", "b.npz", "c.npz"])
    assert [arrival.claim.name for arrival in intake.take(64)] == ["a.npz", "b.npz"]
    assert [path.name for path in inbox.iterdir()] == ["c.npz"]
    (inbox / "d.npz").write_bytes(b"")
    intake.note(["d.npz", "c.npz"])
    assert intake.has_work
    assert [arrival.claim.name for arrival in intake.take(64)] == ["c.npz", "d.npz"]
    assert intake.idle


def test_a_claim_that_fails_costs_no_other_one(intake, monkeypatch):
    claim = intake._spool.claim

    def failing(name, **options):
        if name == "b.npz":
            raise OSError(13, "injected")
        return claim(name, **options)

    monkeypatch.setattr(intake._spool, "claim", failing)
    got = []
    taken(intake, into=got)
    assert got == ["a.npz", "c.npz"]
