"""Stretches: what is judged together, how rarely equals are called worse, how soon worse ones are."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from learnerd.comparison import TESTS
from learnerd.stretches import Finding, Stretches

DISTRIBUTIONS = {
    "normal": lambda rng, n: rng.normal(size=n),
    "log-normal": lambda rng, n: rng.lognormal(size=n),
    "mostly 500": lambda rng, n: np.minimum(500.0, 600.0 - 50.0 * rng.exponential(size=n)),
    "won or lost": lambda rng, n: (rng.random(n) < 0.8).astype(float),
    "heavy tails": lambda rng, n: rng.standard_t(2.5, size=n),
}


def build(**changes):
    settings = {"min_episodes": 8, "level": 0.05, "min_effect": 0.0, "test": "mann_whitney"}
    return Stretches(**settings | changes)


def feed(stretches, version, values):
    """The findings, in the order of the returns."""
    found = [stretches.add(version, float(value)) for value in values]
    return [(i, finding) for i, finding in enumerate(found) if finding is not None]


def shape(stretches):
    return [(one["first"], one["last"], len(one["returns"])) for one in stretches.state()["stretches"]]


def test_versions_that_act_briefly_are_judged_together():
    stretches = build()
    for version in range(1, 8):
        feed(stretches, version, [0.0] * 3)
    feed(stretches, 9, [0.0] * 20)
    feed(stretches, 10, [0.0])
    assert shape(stretches) == [(1, 3, 9), (4, 6, 9), (7, 9, 23), (10, 10, 1)]
    feed(stretches, 5, [0.0])  # from an older version, late
    feed(stretches, 8, [0.0])
    assert shape(stretches) == [(1, 3, 9), (4, 6, 10), (7, 9, 24), (10, 10, 1)]


def test_memory_is_bounded():
    stretches = build()
    for version in range(1, 30):
        feed(stretches, version, range(1000))
    assert shape(stretches) == [(version, version, 64) for version in range(26, 30)]
    assert feed(stretches, 3, [0.0]) == []


def test_a_worse_version_is_found_at_a_look_and_names_both():
    stretches = build(level=1e-2)
    feed(stretches, 1, range(100, 116))
    feed(stretches, 2, range(100, 108))
    found = feed(stretches, 3, range(10, 26))
    ((at, finding),) = found[:1]
    assert at == 7
    assert (finding.worse, finding.better, finding.episodes) == ((3, 3), (2, 2), 8)
    assert (finding.after, finding.before) == (13.5, 103.5)
    assert "version 3 returned 13.5, version 2 before that 103.5 (8 episodes each, p = " in str(finding)
    assert Finding.from_json(json.loads(json.dumps(asdict(finding)))) == finding


def test_drops_below_the_smallest_effect_do_not_count():
    rng = np.random.default_rng(0)
    samples = rng.normal(0.0, 1.0, 64), rng.normal(-0.8, 1.0, 64)
    for min_effect, expected in ((0.5, True), (1.5, False)):
        stretches = build(level=0.01, min_effect=min_effect)
        found = [feed(stretches, version, sample) for version, sample in enumerate(samples, start=1)]
        assert bool(found[1]) == expected


def test_nothing_is_held_against_what_came_before_a_rollback():
    stretches = build()
    feed(stretches, 3, [100.0] * 8)
    stretches.begin(5)
    assert feed(stretches, 3, [0.0] * 8) == []
    assert feed(stretches, 5, [0.0, 1.0] * 4) == []
    assert shape(stretches) == [(5, 5, 8)]
    assert stretches.full == 1


def test_a_recovery_is_a_later_stretch_as_good_as_before():
    stretches = build(level=0.01, min_effect=0.5)
    feed(stretches, 1, range(100, 108))
    ((_, finding),) = feed(stretches, 2, range(8))
    assert not stretches.recovered(finding)
    feed(stretches, 3, [50.0] * 8)
    assert not stretches.recovered(finding)
    feed(stretches, 4, [103.0] * 7)
    assert not stretches.recovered(finding)
    feed(stretches, 4, [103.0])
    assert stretches.recovered(finding)


def test_it_goes_on_after_a_restart_and_survives_any_file():
    rng = np.random.default_rng(1)
    whole, first = build(), build()
    returns = [(version, float(value)) for version in range(1, 20) for value in rng.normal(size=5)]
    half = [stretches.add(*one) for stretches in (whole, first) for one in returns[:50]]
    second = build()
    second.restore(json.loads(json.dumps(first.state())))
    assert half[:50] == half[50:]
    assert [whole.add(*one) for one in returns[50:]] == [second.add(*one) for one in returns[50:]]
    assert whole.state() == second.state()
    for bad in (None, 3, {}, {"since": "x", "stretches": []}, {"since": 1, "stretches": [{}]}):
        second.restore(bad)
        assert whole.state() == second.state()


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("test", TESTS)
def test_equals_are_called_worse_no_more_often_than_the_level_says(test, name):
    """2,000 versions of 64 returns, at a level that lets errors be counted: 100 would be allowed."""
    rng, stretches = np.random.default_rng(0), build(test=test)
    draw = DISTRIBUTIONS[name]
    called = sum(bool(feed(stretches, version, draw(rng, 64))) for version in range(1, 2001))
    assert called <= 100 + 3 * np.sqrt(100)


def test_without_the_correction_they_would_be(monkeypatch):
    """A look after every return, each at the full level: what the four corrected looks are for."""
    rng, called = np.random.default_rng(0), 0
    for _ in range(200):
        before, after = rng.normal(size=64), rng.normal(size=64)
        looks = (TESTS["welch"](before[-n:].tolist(), after[:n].tolist()) for n in range(8, 65, 2))
        called += any(p < 0.05 for p in looks)
    assert called / 200 > 2 * 0.05


def test_at_the_default_level_there_is_no_false_alarm_in_months():
    """20 seeds of 500 versions with 40 episodes each."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        stretches = build(min_episodes=32, level=1e-5, min_effect=0.5)
        draw = list(DISTRIBUTIONS.values())[seed % len(DISTRIBUTIONS)]
        for version in range(1, 501):
            assert feed(stretches, version, draw(rng, 40)) == []


@pytest.mark.parametrize(("drop", "episodes"), [(1.0, 128), (1.5, 64), (2.5, 32)])
@pytest.mark.parametrize("test", TESTS)
def test_a_worse_version_is_found_within_some_episodes(test, drop, episodes):
    """In nine of ten cases, by the defaults; a drop in standard deviations."""
    found = 0
    for seed in range(50):
        rng = np.random.default_rng(seed)
        stretches = build(min_episodes=32, level=1e-5, min_effect=0.5, test=test)
        feed(stretches, 1, rng.normal(size=256))
        found += bool(feed(stretches, 2, rng.normal(size=episodes) - drop))
    assert found >= 45


def test_versions_of_eight_episodes_are_caught_when_they_decline_together():
    rng, found = np.random.default_rng(3), []
    stretches = build(min_episodes=32, level=1e-5, min_effect=0.5)
    for version in range(1, 60):
        mean = 480.0 if version < 40 else 300.0
        found += [finding for _, finding in feed(stretches, version, rng.normal(mean, 60.0, 8))]
    assert len(found) >= 1
    assert found[0].better[0] < 40 <= found[0].worse[1] <= 50
