"""A daemon that is held back, as a real process: what waits is kept, does not age, and is learned once."""

import contextlib
import fcntl
import json
import os
import queue
import subprocess
import time

import pytest
from status_schema import check_schema

from learnerd import daemon
from learnerd.config import load_config
from learnerd.loop import LOOK_EVERY_S
from learnerd.pause import Pause, remove_pause, write_pause
from learnerd.requests import Requests
from learnerd.schedule import Hold

FAST = """
[batch]
min_episodes = 1
max_wait_s = 0.1
[schedule]
rescan_s = 0.3
"""
SHORT_AGE = "[admission]\nmax_age_s = 3.0\n"


def document(site):
    """What the daemon wrote last; without the cost of a command."""
    return json.loads((site.state / "status.json").read_bytes())


def whys(site):
    return [hold["why"] for hold in document(site)["daemon"]["holds"]]


def wait_for_hold(site, *wanted):
    site.wait(lambda: whys(site) == list(wanted), what=f"holds {wanted}")


def unread(site):
    """Names of files that are claimed, and that nobody has begun to read."""
    return sorted(
        path.name.split(".", 2)[2] for path in site.files("claimed") if path.name.split(".")[1] == "0"
    )


def learned(site):
    return sorted(site.ledger_ids())


# In this process: one round of the loop after another.


@pytest.fixture
def rounds(site):
    """Build a loop over ``site``; its method ``until`` goes round until something is so."""
    with contextlib.ExitStack() as stack:

        def build():
            config = load_config(site.folder / "config.toml", {})
            loop = stack.enter_context(daemon._build(config, "forever", Requests()))
            loop.start()
            return loop

        yield build


def go(loop, condition):
    until = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < until
        loop._wake.wait(min(0.02, loop._wait_s()))
        loop._round()


HOLDS = {
    "paused": lambda site, _: write_pause(site.state, Pause.now(for_s=None, reason="")),
    "busy": lambda site, _: (site.folder / "spool" / "busy" / "game").touch(),
    "disk_low": lambda _, patch: patch.setattr("learnerd.schedule.DiskGuard._free_bytes", lambda *_: 4096),
    "quiet": lambda _, patch: patch.setattr(
        "learnerd.schedule.QuietGuard.look", lambda _: (Hold(why="quiet", message=""), ())
    ),
}


@pytest.mark.parametrize("why", HOLDS)
def test_while_held_files_are_claimed_but_not_read(site, drop, rounds, monkeypatch, why):
    site.configure(FAST)
    loop = rounds()
    with monkeypatch.context() as patch:
        HOLDS[why](site, patch)
        loop._round()
        assert whys(site) == [why]
        drop()
        drop()
        go(loop, lambda: unread(site) == ["000001.npz", "000002.npz"])
        for _ in range(5):
            loop._round()
        assert len(unread(site)) == 2
        assert not loop._trainer.busy
        assert 0.0 < loop._wait_s() <= LOOK_EVERY_S  # it does not spin, and sees the end soon
        loop._requests.stop = True
        assert loop._finished()  # SIGTERM waits for nothing
        loop._requests.stop = False
    remove_pause(site.state)
    (site.folder / "spool" / "busy" / "game").unlink(missing_ok=True)
    go(loop, lambda: learned(site) == ["episode-1", "episode-2"] and site.files("claimed") == [])
    assert whys(site) == []
    assert loop._admission.counts()["refused"] == {}


def test_after_hours_of_it_fresh_files_are_as_young_as_ever(site, drop, rounds):
    site.configure(FAST + SHORT_AGE)
    loop = rounds()
    loop._clock.stop_aging(stopped=True)
    loop._clock._idle_since -= 20_000.0
    drop()
    go(loop, lambda: document(site)["latency"]["drop_to_publish_p50_s"] is not None)
    assert learned(site) == ["episode-1"]
    assert loop._admission.counts()["refused"] == {}
    assert 0.0 <= document(site)["latency"]["drop_to_publish_p50_s"] < 600.0


def test_a_claim_that_somebody_takes_back_is_left_out(site, drop, rounds):
    site.configure(FAST)
    write_pause(site.state, Pause.now(for_s=None, reason=""))
    loop = rounds()
    for _ in range(3):
        drop()
    go(loop, lambda: len(unread(site)) == 3)
    loop._intake._adopt_orphans()  # known by now
    next(path for path in site.files("claimed") if path.name.endswith("000002.npz")).unlink()
    remove_pause(site.state)
    go(loop, lambda: learned(site) == ["episode-1", "episode-3"])
    assert "intake_failed" not in loop._telemetry.alarms


@pytest.mark.parametrize(("why", "code"), [("paused", 9), ("disk_low", 5)])
def test_a_run_that_ends_by_itself_ends_when_it_is_held(site, drop, monkeypatch, why, code):
    site.configure(FAST)
    config = load_config(site.folder / "config.toml", {})
    with daemon._build(config, "until_idle", Requests()) as loop:
        loop.start()
        drop()
        HOLDS[why](site, monkeypatch)
        loop._round()
        assert loop.run() == code
    assert site.current() is None
    assert len([*site.files("in"), *site.files("claimed")]) == 1


# As a real process.


def test_a_pause_outlasts_a_kill_and_what_came_meanwhile_does_not_age(site, drop, rounds):
    """Paused with no daemon, killed while paused, then resumed: each file is judged as it came."""
    site.configure(FAST + SHORT_AGE)
    result = site.learnerd("pause", "--reason", "a tournament", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["reason"] == "a tournament"
    process = site.start()
    drop("young.npz")
    dropped_s = time.monotonic()
    drop("old.npz", meta={"ended_at": time.time() - 100.0})
    site.wait(lambda: unread(site) == ["old.npz", "young.npz"], what="claims")
    process.kill()
    process.wait()
    status = site.status()
    check_schema(status)
    (hold,) = status["daemon"]["holds"]  # with no daemon: what the next one starts with
    assert (hold["why"], hold["message"]) == ("paused", "paused: a tournament")
    loop = rounds()
    assert whys(site) == ["paused"]
    time.sleep(max(0.0, dropped_s + 3.2 - time.monotonic()))  # longer than max_age_s
    loop._round()
    assert unread(site) == ["old.npz", "young.npz"]
    assert site.learnerd("resume").returncode == 0
    go(loop, lambda: learned(site) == ["episode-1"] and site.files("claimed") == [])
    assert loop._admission.counts()["refused"] == {"too_old": 1}
    assert site.archived_ids() == ["episode-1"]


@pytest.mark.slow
def test_what_was_in_hand_waits_without_aging_and_a_stop_comes_at_once(site, drop, manager):
    """Read before the pause, by a policy that is not there yet: its age is judged a second time."""
    site.configure("[batch]\nmax_wait_s = 2.5\n[schedule]\nrescan_s = 0.3\n" + SHORT_AGE)
    site.env["WATCHDOG_USEC"] = "1000000"
    process = site.start()
    drop()
    site.wait(
        lambda: [path.name.split(".")[1] for path in site.files("claimed")] == ["1"], what="it to be read"
    )
    assert site.learnerd("pause").returncode == 0
    wait_for_hold(site, "paused")
    with contextlib.suppress(queue.Empty):
        while True:  # what was sent before
            manager.next(timeout_s=0.01)
    time.sleep(3.2)  # longer than max_age_s
    for _ in range(3):  # half a second apart, without an end
        manager.wait("WATCHDOG=1")
    assert site.current() is None
    assert site.learnerd("resume").returncode == 0
    site.wait(lambda: site.current() == 1, what="it to be learned")
    drop()
    assert site.learnerd("pause").returncode == 0
    wait_for_hold(site, "paused")
    assert site.stop(process) == 0
    assert (
        len(site.files("claimed")) + len(site.files("in")) + site.manifest(site.current())["episodes_total"]
        == 2
    )


@pytest.mark.slow
def test_a_pause_for_a_while_ends_by_itself_and_a_finite_run_honors_it(site, drop):
    site.configure(FAST)
    drop()
    assert site.learnerd("pause", "--for", "1h").returncode == 0
    result = site.learnerd("run", "--once")
    assert result.returncode == 9
    assert "paused" in result.stderr
    assert site.current() is None
    assert site.learnerd("pause", "--for", "1.5s").returncode == 0  # instead of the one before
    process = site.start()
    site.wait(lambda: learned(site) == ["episode-1"], what="the pause to end")
    assert site.learnerd("resume").returncode == 9
    assert site.learnerd("pause", "--for", "soon").returncode == 2
    assert site.stop(process) == 0


@pytest.mark.slow
def test_a_busy_client_keeps_learning_off(site, drop):
    site.configure(FAST)
    process = site.start()
    with (site.folder / "spool" / "busy" / "game.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wait_for_hold(site, "busy")
        drop()
        site.wait(lambda: unread(site) == ["000001.npz"], what="a claim")
        assert site.current() is None
    site.wait(lambda: learned(site) == ["episode-1"], what="it to be learned")
    game = site.folder / "spool" / "busy" / "game"
    game.touch()
    wait_for_hold(site, "busy")
    os.utime(game, (0, 0))
    site.wait(lambda: "busy_stale" in [alarm["id"] for alarm in document(site)["alarms"]], what="the alarm")
    assert whys(site) == []
    assert site.learnerd("status").returncode == 4
    drop()
    site.wait(lambda: learned(site) == ["episode-1", "episode-2"], what="it to be learned all the same")
    assert site.stop(process) == 0


@pytest.mark.slow
def test_quiet_hours_come_and_go_with_a_reload(site, drop, manager):
    local = time.localtime()
    quiet = f'[schedule]\nrescan_s = 0.3\nquiet = ["{local.tm_min} {local.tm_hour} * * * for 2h"]\n'
    site.configure(quiet)
    process = site.start()
    manager.wait("READY=1")
    drop()
    wait_for_hold(site, "quiet")
    site.wait(lambda: unread(site) == ["000001.npz"], what="a claim")
    (hold,) = site.status()["daemon"]["holds"]
    assert hold["until"] - hold["since"] == 7200.0
    shown = site.learnerd("status").stdout
    assert "held" in shown
    assert "quiet hours" in shown
    site.configure(FAST)
    assert manager.reload(process) == ["RELOADING=1", "READY=1"]
    site.wait(lambda: learned(site) == ["episode-1"], what="it to be learned")
    assert site.stop(process) == 0


@pytest.mark.slow
def test_the_service_manager_is_told_why(site, manager):
    site.configure(FAST)
    assert site.learnerd("pause", "--reason", "exam").returncode == 0
    process = site.start()
    manager.wait("STATUS=paused: exam; no version yet")
    assert site.learnerd("resume").returncode == 0
    manager.wait("STATUS=no version yet")
    assert site.stop(process) == 0


@pytest.mark.slow
def test_many_files_that_came_meanwhile_are_learned_once(site, drop):
    """More than fit into a slice; the daemon is killed once more while it catches up."""
    site.configure(FAST)
    assert site.learnerd("pause").returncode == 0
    process = site.start()
    for _ in range(150):
        drop(steps=2)
    site.wait(lambda: len(unread(site)) == 150, what="claims")
    assert site.learnerd("resume").returncode == 0
    site.wait(lambda: site.current() is not None, what="the first version")
    process.kill()
    process.wait()
    assert site.learnerd("run", "--until-idle").returncode in (0, 9)
    assert learned(site) == sorted(f"episode-{number}" for number in range(1, 151))
    assert sorted(site.archived_ids()) == learned(site)
    assert site.status()["episodes"]["refused"] == {}
    assert site.files("claimed") == []


@pytest.fixture
def small_disk(site):
    """The state on a file system of its own, of 16 MiB."""
    site.state.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(site.state)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("no tmpfs can be mounted here (not privileged): a low disk was NOT tried on a real one")
    yield site.state
    subprocess.run(["umount", "-l", str(site.state)], check=False)


@pytest.mark.slow
def test_a_low_disk_is_waited_for(site, drop, small_disk):
    site.configure(FAST + "[disk]\nmin_free_bytes = 8000000\n")
    process = site.start()
    drop()
    site.wait(lambda: learned(site) == ["episode-1"], what="the first to be learned")
    (small_disk / "ballast").write_bytes(bytes(10_000_000))
    wait_for_hold(site, "disk_low")
    site.wait(lambda: "maintained" in site.log(), what="what retention may free to be freed")
    assert "disk_low" in [alarm["id"] for alarm in document(site)["alarms"]]
    drop()
    site.wait(lambda: unread(site) == ["000002.npz"], what="a claim")
    assert site.learnerd("run", "--once").returncode == 5
    (small_disk / "ballast").unlink()
    site.wait(lambda: learned(site) == ["episode-1", "episode-2"], what="the second to be learned")
    assert whys(site) == []
    assert "disk_low" not in [alarm["id"] for alarm in document(site)["alarms"]]
    assert site.stop(process) == 0
