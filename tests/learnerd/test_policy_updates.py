from types import SimpleNamespace

import pytest

from learnerd.policy_updates import PolicyUpdates, kind_of
from policies.noise_scale import GradientNoise


def report(policy_episodes=8, *, noise=None):
    return SimpleNamespace(n_episodes=8, policy_episodes=policy_episodes, noise=noise)


@pytest.mark.parametrize(("episodes", "kind"), [(8, "whole"), (3, "split"), (0, "value_only")])
def test_kinds(episodes, kind):
    assert kind_of(report(episodes)) == kind


def test_counts_go_on_after_a_restart():
    first, second = PolicyUpdates(), PolicyUpdates()
    first.note([report(), report(2), report(0), report(0)])
    second.restore(first.document())
    second.note([report()])
    assert second.document()["policy_updates"] == {"whole": 2, "split": 1, "value_only": 2}


@pytest.mark.parametrize("damaged", [{}, {"policy_updates": 7}, {"policy_updates": {"whole": "many"}}])
def test_damaged_counts_begin_anew(damaged):
    updates = PolicyUpdates()
    updates.restore(damaged)
    assert updates.document()["policy_updates"] == {"whole": 0, "split": 0, "value_only": 0}


def test_both_parts_of_the_noise_are_averaged_before_they_are_divided():
    updates = PolicyUpdates()
    assert updates.document()["noise_scale_steps"] is None
    updates.note([report(noise=GradientNoise(signal=1.0, trace=100.0))])
    updates.note([report(noise=GradientNoise(signal=3.0, trace=100.0))])
    assert updates.document()["noise_scale_steps"] == pytest.approx(100.0 / 1.1)


def test_without_a_signal_there_is_no_noise_scale():
    updates = PolicyUpdates()
    updates.note([report(noise=GradientNoise(signal=-1.0, trace=5.0))])
    assert updates.document()["noise_scale_steps"] is None
