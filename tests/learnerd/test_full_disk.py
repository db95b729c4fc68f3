"""A disk that gets full at one place of the loop: nothing is lost, doubled or stuck there."""

import contextlib
import errno
import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from experience.admission import Rules
from experience.outcomes import Outcomes
from experience.spool import Spool
from learnerd import daemon
from learnerd.admission import Admission
from learnerd.arrival import Arrival
from learnerd.clock import Clock
from learnerd.intake import Intake
from learnerd.status_file import live_document, new_document, read_status, write_status
from policies.errors import StoreError
from policies.store import CheckpointStore

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full(*_, **__):
    raise FULL


@pytest.fixture
def spool(tmp_path):
    spool = Spool(tmp_path / "spool")
    spool.make_folders()
    return spool


@pytest.fixture
def admission(tmp_path, spool):
    return Admission(
        store=CheckpointStore(tmp_path / "state"),
        spool=spool,
        outcomes=Outcomes(tmp_path / "state" / "outcomes.jsonl"),
        rules=Rules(max_age_s=1e12, max_staleness=64),
        clock=Clock(remember_s=1.0),
    )


@pytest.fixture
def arrive(spool, make_episode):
    def build(name):
        (spool.root / "in" / name).write_text("")
        claim = spool.claim(name)
        now = time.time()
        return Arrival(claim=claim, episodes=(make_episode(name),), claimed_at=now, seen_s=None, mtime_s=now)

    return build


def test_a_claim_that_cannot_be_finished_stays_held(admission, spool, arrive, monkeypatch):
    arrival = admission.sort(arrive("a"))
    with monkeypatch.context() as patched:
        patched.setattr(spool, "finish", full)
        with pytest.raises(OSError, match="No space"):
            admission.finish(arrival)
    assert admission.held() == {arrival.claim.id}  # else a scan would take it up a second time
    admission.finish(arrival)
    assert admission.held() == set()
    assert spool.resume() == []
    assert admission.verdicts == 1


class Decoded:
    """A decoder that finds one good episode in every file."""

    def __init__(self, make_episode):
        self._make_episode = make_episode

    def start(self):
        pass

    def decode_some(self, jobs, *, meanwhile=tuple):
        jobs = [*jobs, *meanwhile()]
        decoded = [SimpleNamespace(episodes=(self._make_episode(job.name),), problems=()) for job in jobs]
        yield [
            SimpleNamespace(job=job, died=False, problem=None, decoded=one, mtime=time.time())
            for job, one in zip(jobs, decoded, strict=True)
        ]


def test_files_before_and_after_the_one_that_fails_are_not_lost(admission, spool, make_episode, monkeypatch):
    intake = Intake(
        spool=spool,
        decoder=Decoded(make_episode),
        admission=admission,
        settle_s=0.0,
        clock=Clock(remember_s=1.0),
    )
    for name in ("a", "b", "c", "d"):
        (spool.root / "in" / name).write_text("")
    intake.note(["a", "b", "c", "d"])
    taken = []
    with monkeypatch.context() as patched:
        sort = admission._sort
        patched.setattr(admission, "_sort", lambda it: full() if it.claim.name == "c" else sort(it))
        with pytest.raises(OSError, match="No space"):
            taken += intake.take(64)  # extends up to the error
        taken += []
    names = {arrival.claim.name for arrival in taken}
    for _ in range(5):  # the disk stays full for some scans
        with monkeypatch.context() as patched, contextlib.suppress(OSError):
            patched.setattr(admission, "_sort", full)
            intake.scan()
            list(intake.take(64))
    intake.scan()
    names |= {arrival.claim.name for arrival in intake.take(64)}
    assert names == {"a", "b", "c", "d"}
    assert {claim.id for claim in spool.resume()} == admission.held()
    assert len(admission.held()) == 4


def test_a_claim_that_the_training_thread_finishes_during_a_scan_is_no_orphan(
    admission, spool, arrive, make_episode, monkeypatch
):
    intake = Intake(
        spool=spool,
        decoder=Decoded(make_episode),
        admission=admission,
        settle_s=0.0,
        clock=Clock(remember_s=1.0),
    )
    arrival, listed = admission.sort(arrive("a")), spool.resume

    def finish_while_listing():
        claims = listed()
        admission.finish(arrival)
        return claims

    monkeypatch.setattr(spool, "resume", finish_while_listing)
    intake.scan()
    assert intake.idle


@pytest.fixture
def config(tmp_path, spool):
    (tmp_path / "state").mkdir(exist_ok=True)
    return SimpleNamespace(paths=SimpleNamespace(state=tmp_path / "state", spool=spool.root))


def running(**sections):
    return new_document(daemon={"state": "running", "pid": os.getpid(), "uptime_s": 5.0}, **sections)


def alarm(message):
    return {"id": "publish_failed", "since": 0.0, "message": message, "remedy": "free space"}


def test_on_a_full_disk_status_is_written_over(config, monkeypatch):
    state = config.paths.state
    write_status(state, running())
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        write_status(state, running(alarms=[alarm("no space")]))
        assert read_status(state)["alarms"][0]["message"] == "no space"
        write_status(state, running())
        assert read_status(state)["alarms"] == []
        with pytest.raises(OSError, match="No space"):
            write_status(state, running(alarms=[alarm("x" * 10_000)]))
        assert read_status(state)["alarms"] == []
    assert [path.name for path in state.iterdir()] == ["status.json"]


def test_silence_is_told_by_the_clock_that_nobody_sets(config, monkeypatch):
    write_status(config.paths.state, running())
    monkeypatch.setattr("learnerd.status_file.time.time", lambda: 4e9)
    document = live_document(config)
    assert document["alarms"] == []
    assert document["daemon"]["uptime_s"] < 60.0
    path = config.paths.state / "status.json"
    text = json.loads(path.read_text())
    text["process"]["monotonic_s"] -= 61.0
    path.write_text(json.dumps(text))
    monkeypatch.setattr("learnerd.status_file.time.time", lambda: 1e9)
    assert [found["id"] for found in live_document(config)["alarms"]] == ["status_stale"]


@pytest.mark.usefixtures("own_signals")
def test_a_start_on_a_full_disk_waits_for_space(config, monkeypatch):
    tries = []

    @contextlib.contextmanager
    def build(*_):
        tries.append(1)
        yield SimpleNamespace(start=start, run=lambda: 42, change=None, cut_short=False)

    def start(_change):
        if len(tries) < 3:
            raise StoreError("publishing failed") from FULL

    monkeypatch.setattr(daemon, "_build", build)
    config.schedule, config.disk = SimpleNamespace(rescan_s=0.0), SimpleNamespace(min_free_bytes=0)
    assert daemon.run(config) == 42
    assert len(tries) == 3
    tries.clear()
    with pytest.raises(StoreError):
        daemon.run(config, mode="once")


@pytest.mark.usefixtures("own_signals")
def test_a_start_that_fails_otherwise_ends(config, monkeypatch):
    monkeypatch.setattr(
        daemon, "_build", lambda *_: (_ for _ in ()).throw(PermissionError(errno.EACCES, "no"))
    )
    with pytest.raises(PermissionError):
        daemon.run(config)
