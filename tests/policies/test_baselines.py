"""Expected gradients by enumeration: every batch of n episodes, weighted by its probability."""

import itertools
import math

import numpy as np
import pytest

from policies.baselines import BASELINES, batch_mean, leave_one_out, moved_average
from policies.lr_scaling import scaled_learning_rate
from policies.returns import discounted_returns, gae

GAMMA = 0.9
PI = np.array([[0.3, 0.7], [0.6, 0.4]])  # state, action
REWARD = np.array([[0.5, 1.0], [2.0, -1.0]])
VALUE = np.array([0.8, -0.3])  # any function of the state will do
# In state 0, action 0 leads to state 1 and action 1 ends; in state 1 both end.
PATHS = (((0, 1),), ((0, 0), (1, 0)), ((0, 0), (1, 1)))
CHANCES = [math.prod(PI[s, a] for s, a in path) for path in PATHS]


def score(state, action):
    """∂ log π(action | state) by the logits, [state, action]."""
    gradient = np.zeros((2, 2))
    gradient[state] -= PI[state]
    gradient[state, action] += 1.0
    return gradient


def expected_gradient(episodes, baseline):
    total = np.zeros((2, 2))
    for batch in itertools.product(range(len(PATHS)), repeat=episodes):
        paths = [PATHS[i] for i in batch]
        steps = [step for path in paths for step in path]
        offsets = np.concatenate([[0], np.cumsum([len(path) for path in paths])])
        reward = np.array([REWARD[s, a] for s, a in steps])
        advantage = baseline(reward, offsets, np.array([VALUE[s] for s, _ in steps]))
        gradient = sum(score(s, a) * adv for (s, a), adv in zip(steps, advantage, strict=True)) / episodes
        total += math.prod(CHANCES[i] for i in batch) * gradient
    return total


def plain(reward, offsets, _value):
    return discounted_returns(reward, offsets, gamma=GAMMA)


def less(name):
    def advantage(reward, offsets, _value):
        returns = discounted_returns(reward, offsets, gamma=GAMMA)
        return returns - BASELINES[name](returns, offsets, 0.7)

    return advantage


def less_value(reward, offsets, value):
    return gae(reward, value, offsets, bootstrap_e=np.zeros(len(offsets) - 1), gamma=GAMMA, gae_lambda=1.0)


@pytest.mark.parametrize("episodes", [1, 2, 3])
@pytest.mark.parametrize("advantage", [less("ema"), less("leave_one_out"), less_value])
def test_unbiased_baselines_leave_the_expected_gradient_unchanged(episodes, advantage):
    expected = expected_gradient(episodes, plain)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(expected_gradient(episodes, advantage), expected, atol=1e-12)


@pytest.mark.parametrize("episodes", [1, 2, 3])
def test_the_batch_mean_scales_the_expected_gradient(episodes):
    expected = (episodes - 1) / episodes * expected_gradient(episodes, plain)
    np.testing.assert_allclose(expected_gradient(episodes, less("batch_mean")), expected, atol=1e-12)


def test_leaving_one_out_stretches_what_the_mean_leaves():
    returns, offsets = np.array([4.0, 1.0, 7.0]), np.array([0, 1, 2, 3])
    centered = returns - batch_mean(returns, offsets, 0.0)
    np.testing.assert_allclose(returns - leave_one_out(returns, offsets, 0.0), 3 / 2 * centered)


def test_one_episode_alone_is_compared_with_the_moving_average():
    np.testing.assert_array_equal(leave_one_out(np.array([3.0, 2.0]), np.array([0, 2]), 1.5), [1.5, 1.5])


def test_the_moving_average():
    first = moved_average(None, np.array([10.0, 20.0]), rate=0.05)
    assert first == 15.0
    assert moved_average(first, np.array([35.0]), rate=0.05) == pytest.approx(16.0)


@pytest.mark.parametrize(
    ("rule", "episodes", "factor"),
    [
        ("none", 32, 1.0),
        ("linear", 32, 4.0),
        ("linear", 2, 0.25),
        ("sqrt", 32, 2.0),
        ("sqrt", 8, 1.0),
        ("sqrt", 4, math.sqrt(0.5)),
        ("sqrt", 1000, 4.0),
        ("sqrt", 0.001, 0.25),
        ("sum", 10, 0.1),
    ],
)
def test_learning_rate_follows_the_batch(rule, episodes, factor):
    rate = scaled_learning_rate(rule, learning_rate=0.01, episodes=episodes, reference_episodes=8)
    assert rate == pytest.approx(0.01 * factor)
