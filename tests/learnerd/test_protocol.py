"""What the service manager hears of a real daemon, and what it may do to it."""

import contextlib
import queue
import signal

import pytest

HANGS = """
import time
from learnerd import cycle
cycle.Cycle._learn = lambda *a, **k: time.sleep(1000)
"""

HANGS_IN_HOUSEKEEPING = """
import time
from learnerd import maintenance, loop
maintenance.prune_store = lambda *a: time.sleep(1000)
maintenance.PRUNE_EVERY = 1
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


def test_a_learner_that_hangs_misses_its_beats_and_a_kill_loses_nothing(site, drop, manager):
    site.configure("[batch]\nmin_episodes = 1")
    site.env["WATCHDOG_USEC"] = "400000"
    process = site.start(patch=HANGS)
    manager.wait("WATCHDOG=1")
    drop()
    with contextlib.suppress(queue.Empty):
        while True:  # until nothing but the status is heard for several intervals
            manager.next(timeout_s=3.0)
    process.send_signal(signal.SIGABRT)  # as the manager does
    assert process.wait(timeout=60) == -signal.SIGABRT
    assert site.learnerd("run", "--until-idle").returncode == 0
    assert site.ledger_ids() == ["episode-1"]


@pytest.mark.parametrize("patch", [HANGS, HANGS_IN_HOUSEKEEPING], ids=["update", "housekeeping"])
def test_what_outlasts_the_drain_is_broken_off_and_learned_after_the_next_start(site, drop, patch):
    site.configure("[daemon]\ndrain_s = 0.5\n[batch]\nmin_episodes = 1")
    process = site.start(patch=patch)
    for _ in range(3):
        drop()
    site.wait(lambda: not site.files("in"), what="every file to be claimed")
    assert site.stop(process) == 0
    assert "drain_cut_short" in site.log()
    assert site.learnerd("status").returncode == 3
    site.learnerd("run", "--until-idle")
    assert sorted(site.ledger_ids()) == ["episode-1", "episode-2", "episode-3"]
    assert site.files("claimed") == []


def test_a_full_disk_at_the_start_asks_the_manager_for_patience(site, manager):
    site.configure("[schedule]\nrescan_s = 0.1")
    process = site.start(patch=NO_SPACE)
    manager.wait("EXTEND_TIMEOUT_USEC=60200000")
    manager.wait("READY=1")
    assert site.stop(process) == 0
