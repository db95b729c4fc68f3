"""Page-Hinkley on returns: learning.md's figures, and a slow second version."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learnerd.drift import REFERENCE_EPISODES, WARM_UP_EPISODES, ReturnDrift


def slow_first_alarm(returns, *, delta, threshold):
    """Cumulative sums over z, each from the mean and deviation of all returns before; the textbook's form."""
    sums = [0.0]
    for i, value in enumerate(returns):
        if i < WARM_UP_EPISODES:
            continue
        before = np.array(returns[:i])
        spread = max(before.std(), 0.01 * abs(before.mean()), 1e-12)
        z = min(max((value - before.mean()) / spread, -3.0), 3.0)
        sums.append(sums[-1] - z - delta)
        if sums[-1] - min(sums) > threshold:
            return i
    return None


def first_alarm(returns, **settings):
    drift = ReturnDrift(**settings)
    return next((i for i, value in enumerate(returns) if drift.update(value)), None)


@given(
    st.lists(st.floats(-10, 10).map(lambda x: round(x, 3)), min_size=40, max_size=80),
    st.floats(0, 1),
    st.floats(0.5, 20),
)
def test_equals_the_textbook(returns, delta, threshold):
    slow = slow_first_alarm(returns, delta=delta, threshold=threshold)
    fast = first_alarm(returns, delta=delta, threshold=threshold)
    near = slow_first_alarm(returns, delta=delta, threshold=threshold - 1e-6)
    assert fast in (slow, near)  # rounding on the very threshold


def test_no_false_alarm_in_five_times_five_thousand_episodes():
    for seed in range(5):
        returns = np.random.default_rng(seed).normal(100.0, 15.0, 5000)
        assert first_alarm(returns) is None, seed


def test_a_drop_of_one_and_a_half_deviations_is_found_within_sixteen_episodes():
    delays = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        returns = [*rng.normal(100.0, 15.0, 1000), *rng.normal(100.0 - 1.5 * 15.0, 15.0, 100)]
        delays.append(first_alarm(returns) - 999)
    print(
        f"episodes to find it: mean {np.mean(delays):.1f}, median {np.median(delays):.0f}, "
        f"9 of 10 {np.percentile(delays, 90):.0f}, largest {max(delays)}"
    )
    assert min(delays) > 0
    assert np.mean(delays) <= 16
    assert np.median(delays) <= 16
    assert np.percentile(delays, 90) <= 22


def test_better_returns_are_no_drift():
    rng = np.random.default_rng(0)
    for steps in (60, 600):
        level = np.concatenate([np.zeros(100), np.linspace(0, 50, steps), np.full(3000, 50.0)])
        assert first_alarm(level + rng.normal(size=len(level))) is None


def test_a_policy_that_was_perfect_may_slip_a_little():
    drift = ReturnDrift()
    assert not any(drift.update(500.0) for _ in range(3000))
    assert not any(drift.update(499.0) for _ in range(3000))
    assert any(drift.update(480.0) for _ in range(30))


def test_seven_strange_episodes_are_no_drop_eight_are():
    drift = ReturnDrift()
    rng = np.random.default_rng(0)
    for value in rng.normal(size=500):
        drift.update(value)
    drift.excess = 0.0
    assert [drift.update(-1e9) for _ in range(8)] == [False] * 7 + [True]


def dropped(level=-5.0):
    drift = ReturnDrift()
    rng = np.random.default_rng(0)
    for value in rng.normal(size=500):
        drift.update(value)
    while not drift.update(level + rng.normal()):
        pass
    return drift, rng


def test_a_drop_says_its_numbers():
    drift, _ = dropped()
    assert drift.drop.before == pytest.approx(0.0, abs=0.2)
    assert drift.drop.spread == pytest.approx(1.0, abs=0.2)
    assert -5.0 < drift.drop.after < -2.5  # its beginning is only estimated
    assert 8 <= drift.drop.found_in <= 20
    assert all(part in str(drift.drop) for part in (f"{drift.drop.before:.4g}", f"{drift.drop.after:.4g}"))
    assert drift.count == 1  # it starts afresh with the episode that gave it away


def test_a_drop_is_over_when_the_returns_recover():
    drift, rng = dropped()
    for _ in range(200):
        drift.update(-5.0 + rng.normal())
    assert drift.drop is not None
    episodes = 0
    while drift.drop is not None:
        drift.update(0.0 + rng.normal())
        episodes += 1
    assert 16 < episodes < 100


def test_a_drop_is_over_when_the_lower_level_is_all_that_is_known():
    drift, rng = dropped()
    for i in range(REFERENCE_EPISODES):
        assert drift.drop is not None, i
        drift.update(-5.0 + rng.normal())
    assert drift.drop is None


def test_a_second_drop_is_found_from_the_new_level():
    drift, rng = dropped()
    for _ in range(100):
        assert not drift.update(-5.0 + rng.normal())
    assert any(drift.update(-10.0 + rng.normal()) for _ in range(12))
    assert drift.drop.before == pytest.approx(-5.0, abs=0.3)


def test_state_goes_on_where_it_was():
    for drift, rng in (dropped(), (ReturnDrift(), np.random.default_rng(1))):
        other = ReturnDrift()
        other.restore(json.loads(json.dumps(drift.state())))
        assert other == drift
        for value in rng.normal(size=50):
            assert other.update(value) == drift.update(value)
        assert other == drift
        assert len(json.dumps(drift.state())) < 500


@pytest.mark.parametrize(
    "state",
    [
        None,
        3,
        [],
        {},
        {"count": 3},
        {**ReturnDrift().state(), "mean": None},
        {**ReturnDrift().state(), "drop": 3},
    ],
)
def test_what_is_no_state_is_left(state):
    drift, _ = dropped()
    before = drift.state()
    drift.restore(state)
    assert drift.state() == before


def test_huge_returns_stay_finite():
    drift = ReturnDrift()
    for value in np.random.default_rng(0).normal(size=100) * 1e17:
        drift.update(value)
    assert math.isfinite(drift.variance)
