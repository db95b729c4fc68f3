import pytest

from learnerd.clock import Clock


class Times:
    wall = 1000.0
    monotonic = 5.0

    def pass_(self, seconds):
        self.wall += seconds
        self.monotonic += seconds


@pytest.fixture
def times():
    return Times()


@pytest.fixture
def clock(times):
    return Clock(remember_s=3600.0, wall=lambda: times.wall, monotonic=lambda: times.monotonic)


def test_time_passing_is_no_jump(clock, times):
    times.pass_(10_000.0)
    assert clock.check() == 0.0
    assert clock.allowance_s == 0.0


def test_small_corrections_are_no_jump(clock, times):
    times.wall += 59.0
    assert clock.check() == 0.0


@pytest.mark.parametrize("step", [7200.0, -7200.0])
def test_a_step_widens_the_bounds_for_as_long_as_an_episode_may_be_old(clock, times, step):
    times.wall += step
    assert clock.check() == pytest.approx(step)
    assert clock.allowance_s == pytest.approx(7200.0)
    times.pass_(3600.0)
    assert clock.check() == 0.0
    assert clock.allowance_s == pytest.approx(7200.0)
    times.pass_(1.0)
    assert clock.allowance_s == 0.0


def test_an_allowance_counts_before_anybody_has_checked(clock, times):
    times.wall += 7200.0
    assert clock.allowance_s == pytest.approx(7200.0)
    assert clock.check() == pytest.approx(7200.0)
    assert clock.check() == 0.0


def test_steps_there_and_back_are_both_allowed_for(clock, times):
    for step in (7200.0, -7200.0):
        times.wall += step
        assert clock.check() == pytest.approx(step)
    assert clock.allowance_s == pytest.approx(14400.0)


def test_a_restart_forgets_no_step(clock, times, tmp_path):
    times.wall += 7200.0
    clock.check()
    clock.remember(tmp_path)
    times.pass_(10.0)
    again = Clock(remember_s=3600.0, wall=clock.wall, monotonic=clock.monotonic)
    again.recall(tmp_path)
    assert again.check() == 0.0
    assert again.allowance_s == pytest.approx(7200.0)


def test_a_step_while_no_daemon_ran_is_noticed(clock, times, tmp_path):
    clock.remember(tmp_path)
    times.wall -= 7200.0
    again = Clock(remember_s=3600.0, wall=clock.wall, monotonic=clock.monotonic)
    again.recall(tmp_path)
    assert again.check() == pytest.approx(-7200.0)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"boot": "another", "offset_s": 1e9, "jumps": []}'])
def test_a_memory_of_another_boot_or_none_is_no_step(clock, tmp_path, text):
    clock.recall(tmp_path)
    (tmp_path / "clock.json").write_text(text)
    clock.recall(tmp_path)
    assert clock.check() == 0.0
    assert clock.allowance_s == 0.0


def test_while_aging_stands_still_a_step_is_not_forgotten(clock, times, tmp_path):
    times.wall += 7200.0
    assert clock.check() == pytest.approx(7200.0)
    clock.stop_aging(stopped=True)
    times.pass_(10_000.0)
    assert clock.allowance_s == pytest.approx(7200.0)
    clock.stop_aging(stopped=False)
    clock.remember(tmp_path)
    later = Clock(remember_s=3600.0, wall=lambda: times.wall, monotonic=lambda: times.monotonic)
    later.recall(tmp_path)
    for each in (clock, later):  # also after a restart
        assert each.allowance_s == pytest.approx(7200.0)
    times.pass_(3601.0)
    for each in (clock, later):
        assert each.allowance_s == 0.0


def test_to_stop_aging_or_to_go_on_a_second_time_changes_nothing(clock, times):
    clock.stop_aging(stopped=False)
    begun = clock.aging()
    for _ in range(3):
        clock.stop_aging(stopped=True)
        times.pass_(10.0)
    clock.stop_aging(stopped=False)
    times.pass_(5.0)
    clock.stop_aging(stopped=False)
    assert clock.aging() - begun == pytest.approx(5.0)
