"""May a cycle begin now? Each guard by itself, with clocks and disks that the test moves."""

import fcntl
import json
import math
import os
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import pytest

from learnerd.clock import Clock
from learnerd.config import Config
from learnerd.exit_codes import ExitCode
from learnerd.pause import BadPauseError, Pause, boot_id, boot_s, read_pause, remove_pause, write_pause
from learnerd.schedule import BusyGuard, DiskGuard, PauseGuard, QuietGuard, Schedule

NOON = 1_780_308_000.0  # 2026-06-01 12:00 in Berlin, a Monday
MIB = 2**20


class Time:
    """Both clocks; ``sleep`` moves both, ``step`` the wall clock alone."""

    def __init__(self):
        self.wall_s, self.monotonic_s = NOON, 1000.0

    def sleep(self, seconds):
        self.wall_s += seconds
        self.monotonic_s += seconds

    def step(self, seconds):
        self.wall_s += seconds

    def clock(self):
        return Clock(remember_s=3600.0, wall=lambda: self.wall_s, monotonic=lambda: self.monotonic_s)


@pytest.fixture
def now():
    return Time()


@pytest.fixture
def configured(tmp_path):
    def build(**tables):
        (tmp_path / "state").mkdir(exist_ok=True)
        (tmp_path / "spool" / "busy").mkdir(parents=True, exist_ok=True)
        paths = {"spool": tmp_path / "spool", "state": tmp_path / "state"}
        return Config.model_validate({"paths": paths, **tables})

    return build


def asked(*, for_s=None, since=NOON, began_s=0.0, boot="this", reason=""):
    return Pause(since=since, for_s=for_s, reason=reason, boot=boot, began_s=began_s)


# Pause.


def test_a_pause_without_an_end_has_none():
    assert asked().left_s(wall_s=NOON + 1e9, boot="other", boot_s=0.0) == math.inf


def test_a_pause_ends_by_the_clock_that_nobody_sets():
    pause = asked(for_s=100.0, began_s=50.0)
    for wall_s in (0.0, NOON - 1e6, NOON, NOON + 1e6):
        assert pause.left_s(wall_s=wall_s, boot="this", boot_s=60.0) == 90.0
        assert pause.left_s(wall_s=wall_s, boot="this", boot_s=150.0) == 0.0


def test_after_a_boot_a_pause_ends_by_the_wall_clock_and_never_lasts_longer_than_asked():
    pause = asked(for_s=100.0, began_s=5000.0)
    assert pause.left_s(wall_s=NOON + 40.0, boot="next", boot_s=3.0) == 60.0
    assert pause.left_s(wall_s=NOON + 100.0, boot="next", boot_s=3.0) == 0.0
    assert pause.left_s(wall_s=0.0, boot="next", boot_s=3.0) == 100.0  # a clock that begins at 1970


def test_a_pause_is_written_read_and_removed(tmp_path):
    state = tmp_path / "not" / "there" / "yet"
    assert read_pause(state) is None
    pause = Pause.now(for_s=60.0, reason="a tournament")
    write_pause(state, pause)
    assert read_pause(state) == pause
    assert (state / "pause.json").stat().st_mode & 0o777 == 0o644
    assert pause.left_s(wall_s=0.0, boot=boot_id(), boot_s=boot_s()) == pytest.approx(60.0, abs=5.0)
    assert remove_pause(state)
    assert not remove_pause(state)
    assert list(state.iterdir()) == []


GOOD = {"since": NOON, "for_s": None, "reason": "", "boot": "b", "began_s": 1.0}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "Expecting value"),
        ("[]", "not an object"),
        ("[" * 4000, "recursion|Expecting"),
        (json.dumps({**GOOD, "more": 1}), "not an object of since, for_s"),
        (json.dumps({**GOOD, "since": "now"}), "since is no number"),
        (json.dumps({**GOOD, "for_s": -1}), "for_s is no number"),
        (json.dumps({**GOOD, "for_s": True}), "for_s is no number"),
        (json.dumps({**GOOD, "began_s": float("nan")}), "began_s is no number"),
        (json.dumps({**GOOD, "began_s": float("inf")}), "began_s is no number"),
        (json.dumps({**GOOD, "reason": 3}), "no text"),
        (json.dumps({**GOOD, "reason": "x" * 5000}), "longer than 4096 bytes"),
    ],
)
def test_what_is_no_pause_is_not_believed(configured, now, text, why):
    config = configured()
    (config.paths.state / "pause.json").write_text(text)
    with pytest.raises(BadPauseError, match=why):
        read_pause(config.paths.state)
    hold, (concern,) = PauseGuard(config, now.clock()).look()
    assert hold is None
    assert concern.id == "pause_unreadable"


def test_a_reason_is_one_printable_line(tmp_path):
    (tmp_path / "pause.json").write_text(json.dumps({**GOOD, "reason": "a\n\x1b[31mb" + "c" * 300}))
    reason = read_pause(tmp_path).reason
    assert reason.startswith("a [31mbc")
    assert len(reason) == 200


def test_the_guard_sees_a_pause_come_change_and_go(configured, now):
    config = configured()
    guard = PauseGuard(config, now.clock())
    assert guard.look() == (None, ())
    write_pause(config.paths.state, Pause.now(for_s=None, reason="exam"))
    hold, _ = guard.look()
    assert (hold.why, hold.message, hold.until) == ("paused", "paused: exam", None)
    write_pause(config.paths.state, Pause.now(for_s=50.0, reason=""))
    hold, _ = guard.look()
    assert hold.message == "paused"
    assert hold.until == pytest.approx(NOON + 50.0, abs=5.0)
    remove_pause(config.paths.state)
    assert guard.look() == (None, ())


# Disk.


def disk(config, clock, free):
    """A guard over file systems with ``free`` bytes each, by the folder's name."""
    return DiskGuard(config, clock, lambda folder: SimpleNamespace(f_bavail=free[folder.name], f_frsize=1))


def test_the_disk_guard_stops_below_its_bound_and_goes_on_above_it(configured, now):
    free = {"spool": 100 * MIB, "state": 100 * MIB}
    guard = disk(configured(disk={"min_free_bytes": 100 * MIB}), now.clock(), free)
    assert guard.look() == (None, ())
    free["state"] = 100 * MIB - 1
    hold, (concern,) = guard.look()
    assert hold.why == concern.id == "disk_low"
    assert "free for the state" in hold.message
    assert "[disk] min_free_bytes" in concern.remedy
    free["state"] = 109 * MIB
    assert guard.look()[0] is not None  # else it would stop again after one version
    free["state"] = free["spool"] = 110 * MIB
    assert guard.look() == (None, ())
    free["spool"] = 105 * MIB
    assert guard.look() == (None, ())
    free["spool"] = 99 * MIB
    assert "free for the spool" in guard.look()[0].message


def test_the_disk_guard_may_be_off_and_does_not_tell_of_missing_folders(configured, now):
    free = {"spool": 0, "state": 0}
    assert disk(configured(disk={"min_free_bytes": 0}), now.clock(), free).look() == (None, ())
    config = configured()
    (config.paths.spool / "busy").rmdir()
    config.paths.spool.rmdir()
    assert DiskGuard(config, now.clock(), statvfs).look() == (None, ())


def statvfs(folder):
    if not folder.exists():
        raise FileNotFoundError(folder)
    return SimpleNamespace(f_bavail=2**40, f_frsize=1)


# Quiet hours.


def test_the_quiet_guard_follows_the_wall_clock_also_when_it_is_set(configured, now):
    config = configured(schedule={"quiet": ["0 13 * * mon for 2h"]})
    guard = QuietGuard(config, now.clock(), ZoneInfo("Europe/Berlin"))
    assert guard.look() == (None, ())
    now.sleep(3600.0)
    hold, _ = guard.look()
    assert (hold.why, hold.since, hold.until) == ("quiet", NOON + 3600.0, NOON + 3 * 3600.0)
    now.step(-1800.0)
    assert guard.look() == (None, ())
    now.step(1800.0 + 7200.0)
    assert guard.look() == (None, ())
    now.step(-60.0)
    assert guard.look()[0].why == "quiet"


def test_the_quiet_guard_knows_training_windows(configured, now):
    config = configured(schedule={"train": ["0 1 * * * for 5h"]})
    hold, _ = QuietGuard(config, now.clock(), ZoneInfo("Europe/Berlin")).look()
    assert hold.until == NOON + 13 * 3600.0


# Busy.


@pytest.fixture
def busy(configured, now):
    config = configured(schedule={"busy_max_s": 300.0})
    return BusyGuard(config, now.clock()), config.paths.spool / "busy"


def touch(path, at):
    path.touch()
    os.utime(path, (at, at))


def test_a_touched_file_counts_for_a_while(busy, now):
    guard, folder = busy
    assert guard.look() == (None, ())
    touch(folder / "game", NOON)
    hold, concerns = guard.look()
    assert (hold.why, hold.message, concerns) == ("busy", "busy: 'game'", ())
    now.sleep(300.0)
    assert guard.look()[0] is not None
    now.sleep(1.0)
    hold, (concern,) = guard.look()
    assert hold is None
    assert concern.id == "busy_stale"
    assert "'game'" in concern.message
    touch(folder / "game", NOON + 301.0)
    assert guard.look()[0].why == "busy"
    (folder / "game").unlink()
    assert guard.look() == (None, ())


def test_a_time_far_ahead_does_not_count_for_years(busy):
    guard, folder = busy
    touch(folder / "game", NOON + 1e7)
    hold, (concern,) = guard.look()
    assert (hold, concern.id) == (None, "busy_stale")


def test_a_lock_counts_as_long_as_it_is_held(busy, now):
    guard, folder = busy
    with (folder / "game.lock").open("w") as file:
        assert guard.look() == (None, ())  # nobody holds it
        fcntl.flock(file, fcntl.LOCK_EX)
        now.sleep(1e6)
        assert guard.look()[0].message == "busy: 'game.lock'"
    assert guard.look() == (None, ())  # and nothing is stale: it is a lock, not a time


def test_looking_at_a_lock_never_waits_nor_follows(busy):
    guard, folder = busy
    os.mkfifo(folder / "fifo.lock")
    (folder / "folder.lock").mkdir()
    (folder / "link.lock").symlink_to("/etc/passwd")
    (folder / ".hidden").touch()
    hold, (concern,) = guard.look()
    assert hold is None
    assert concern.id == "busy_unreadable"
    assert "'link.lock'" in concern.message
    assert "fifo" not in concern.message


def test_one_client_cannot_keep_the_guard_at_it(busy):
    guard, folder = busy
    for number in range(1000):
        (folder / f"{number}.lock").touch()
    opened = []
    opening = os.open
    try:
        os.open = lambda *args, **more: opened.append(args) or opening(*args, **more)
        assert guard.look() == (None, ())
    finally:
        os.open = opening
    assert len(opened) == 256


def test_names_are_told_as_text_that_no_terminal_obeys(busy):
    guard, folder = busy
    for name in ("\x1b[31mred", os.fsdecode(b"\xff"), "c", "d", "e"):
        touch(folder / name, NOON)
    message = guard.look()[0].message
    assert message.isprintable()
    assert message.endswith("and 2 more")


# All of them.


def test_the_schedule_tells_what_is_new_and_keeps_since_when(configured, now):
    config = configured()
    schedule = Schedule(config, clock=now.clock())
    assert not schedule.look()
    assert not schedule.held
    touch(config.paths.spool / "busy" / "game", NOON)
    assert schedule.look()
    assert schedule.held
    now.sleep(10.0)
    assert not schedule.look()
    (hold,) = schedule.holds
    assert hold.since == NOON
    write_pause(config.paths.state, Pause.now(for_s=600.0, reason=""))
    assert schedule.look()
    assert [hold.why for hold in schedule.holds] == ["paused", "busy"]
    now.sleep(301.0)
    assert schedule.look()
    assert [concern.id for concern in schedule.concerns] == ["busy_stale"]


def test_a_run_that_ends_by_itself_asks_only_for_pause_and_disk(configured, now):
    config = configured(schedule={"train": ["0 1 * * * for 1m"]})
    touch(config.paths.spool / "busy" / "game", NOON)
    schedule = Schedule(config, clock=now.clock(), finite=True)
    schedule.look()
    assert not schedule.held
    write_pause(config.paths.state, Pause.now(for_s=None, reason=""))
    schedule.look()
    assert schedule.exit_code() == ExitCode.NOTHING_TO_DO
    schedule = Schedule(configured(disk={"min_free_bytes": 2**62}), clock=now.clock(), finite=True)
    schedule.look()
    assert schedule.exit_code() == ExitCode.RETRYABLE


def test_nothing_ages_while_the_daemon_is_held_back(configured, now):
    config, clock = configured(), now.clock()
    schedule = Schedule(config, clock=clock)
    before = clock.aging()
    now.sleep(5.0)
    assert clock.aging() - before == 5.0
    write_pause(config.paths.state, Pause.now(for_s=None, reason=""))
    schedule.look()
    now.sleep(1e6)
    schedule.look()
    assert clock.aging() - before == 5.0
    remove_pause(config.paths.state)
    schedule.look()
    now.sleep(2.0)
    assert clock.aging() - before == 7.0
