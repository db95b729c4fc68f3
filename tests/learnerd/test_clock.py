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
