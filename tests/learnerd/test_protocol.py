"""What the service manager hears of a real daemon, and what it may do to it."""

import contextlib
import queue
import signal
import threading
from types import SimpleNamespace

import pytest

from learnerd.clock import Clock
from learnerd.trainer import Trainer

HANGS = """
import time
from learnerd import cycle
cycle.Cycle._learn = lambda *a, **k: time.sleep(1000)
"""

NO_SPACE = """
import errno
from learnerd import daemon
original = daemon.write_merge_settings
def once(*a):
    daemon.write_merge_settings = original
    raise OSError(errno.ENOSPC, "No space left on device")
daemon.write_merge_settings = once
"""


def test_ready_status_beats_and_stopping(site, drop, manager):
    site.configure("[batch]\nmin_episodes = 2\nmax_wait_s = 3600.0")
    site.env["WATCHDOG_USEC"] = "200000"
    drop()
    process = site.start()
    manager.wait("READY=1")
    assert len(site.files("in")) + len(site.files("claimed")) == 1  # the first scan had seen it
    assert manager.next() == "STATUS=no version yet"
    manager.wait("WATCHDOG=1")
    manager.wait("WATCHDOG=1")
    drop()
    manager.wait("STATUS=version 1, 2 episodes learned")
    drop()
    site.wait(lambda: len(site.files("claimed")) == 1, what="a claim")
    process.send_signal(signal.SIGTERM)
    manager.wait("STOPPING=1")
    assert manager.next() == "STATUS=draining"
    assert process.wait(timeout=60) == 0
    assert len(site.ledger_ids()) == 3


def test_a_learner_that_hangs_misses_its_beats_and_is_not_waited_for_for_ever(site, drop, manager):
    site.configure("[daemon]\ndrain_s = 0.2\n[batch]\nmin_episodes = 1")
    site.env["WATCHDOG_USEC"] = "400000"
    process = site.start(patch=HANGS)
    manager.wait("WATCHDOG=1")
    for _ in range(3):
        drop()
    with contextlib.suppress(queue.Empty):
        while True:  # until nothing is heard for several intervals
            manager.next(timeout_s=3.0)
    assert site.stop(process) == 0
    manager.wait("STOPPING=1")
    assert "drain_cut_short" in site.log()
    assert site.current() is None
    assert site.learnerd("status").returncode == 3
    assert site.run_here() == 0
    assert sorted(site.ledger_ids()) == ["episode-1", "episode-2", "episode-3"]
    assert site.files("claimed") == []


@pytest.mark.parametrize(("seconds", "ended"), [(60.0, True), (0.01, False)])
def test_a_job_on_the_training_thread_is_waited_for_within_limits(seconds, ended):
    trainer = Trainer(SimpleNamespace(), wake=threading.Event(), clock=Clock(remember_s=0.0))
    go_on = threading.Event()
    job = trainer.submit(go_on.wait)
    assert not trainer.idle
    if ended:
        go_on.set()
    assert trainer.close(timeout_s=seconds) is ended
    go_on.set()
    assert job.result(timeout=60)


def test_a_full_disk_at_the_start_asks_the_manager_for_patience(site, manager):
    site.configure("[schedule]\nrescan_s = 0.1")
    process = site.start(patch=NO_SPACE)
    manager.wait("EXTEND_TIMEOUT_USEC=60200000")
    manager.wait("READY=1")
    assert site.stop(process) == 0
