import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.returns import PIECE_STEPS, discounted_returns, discounted_sums, gae, next_values, vtrace

REWARD = np.array([1.0, 0.0, -1.0, 2.0])
VALUE = np.array([0.5, 1.0, -0.5, 0.25])
RATIO = np.array([2.0, 0.5, 1.0, 0.25])
ONE = np.array([0, 4])
TERMINATED = np.array([0.0])
CUT = np.array([0.75])


def test_returns_of_three_rewards():
    returns = discounted_returns(np.array([1.0, 2.0, 3.0]), np.array([0, 3]), gamma=0.9)
    np.testing.assert_allclose(returns, [5.23, 4.7, 3.0], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("bootstrap", "expected"),
    [(TERMINATED, [0.866624, -0.7408, 0.985, 1.75]), (CUT, [1.1185664, -0.39088, 1.471, 2.425])],
)
def test_gae(bootstrap, expected):
    advantage = gae(REWARD, VALUE, ONE, bootstrap_e=bootstrap, gamma=0.9, gae_lambda=0.8)
    np.testing.assert_allclose(advantage, expected, rtol=0, atol=1e-12)


def test_gae_at_the_ends_of_lambda():
    returns = discounted_returns(REWARD, ONE, gamma=0.9, bootstrap_e=CUT)
    full = gae(REWARD, VALUE, ONE, bootstrap_e=CUT, gamma=0.9, gae_lambda=1.0)
    np.testing.assert_allclose(full, returns - VALUE, atol=1e-12)
    one_step = gae(REWARD, VALUE, ONE, bootstrap_e=CUT, gamma=0.9, gae_lambda=0.0)
    np.testing.assert_allclose(one_step, REWARD + 0.9 * np.append(VALUE[1:], 0.75) - VALUE, atol=1e-12)


def test_vtrace():
    targets, advantages = vtrace(REWARD, VALUE, RATIO, ONE, bootstrap_e=CUT, gamma=0.9)
    np.testing.assert_allclose(targets, [1.35710313, 0.39678125, -0.229375, 0.85625], atol=1e-8)
    np.testing.assert_allclose(advantages, [0.85710313, -0.60321875, 0.270625, 0.60625], atol=1e-8)


def test_vtrace_on_policy_gives_returns():
    targets, _ = vtrace(REWARD, VALUE, np.ones(4), ONE, bootstrap_e=CUT, gamma=0.9)
    np.testing.assert_allclose(targets, [2.140075, 1.26675, 1.4075, 2.675], atol=1e-12)


CHAIN_REWARD = {0: (0.0, 1.0), 1: (2.0, 0.0), 2: (0.0, -1.0)}
CHAIN_PI = {0: 0.8, 1: 0.7, 2: 0.6}
CHAIN_MU = {0: 0.5, 1: 0.4, 2: 0.3}


def chain_estimates(rho_cap, trace_cap):
    """V-trace's value of s0 from every trajectory with V = 0, and its probability under μ."""
    for first, second in itertools.product((0, 1), repeat=2):
        path = ((0, first), (1 + first, second))
        mu = [CHAIN_MU[s] if a == 0 else 1 - CHAIN_MU[s] for s, a in path]
        pi = [CHAIN_PI[s] if a == 0 else 1 - CHAIN_PI[s] for s, a in path]
        targets, _ = vtrace(
            np.array([CHAIN_REWARD[s][a] for s, a in path]),
            np.zeros(2),
            np.array(pi) / np.array(mu),
            np.array([0, 2]),
            bootstrap_e=np.zeros(1),
            gamma=0.9,
            rho_cap=rho_cap,
            trace_cap=trace_cap,
        )
        yield np.prod(mu), targets[0]


@pytest.mark.parametrize(("cap", "mean"), [(np.inf, 1.136), (1.0, 0.488), (1.2, 0.6464)])
def test_vtrace_without_values_is_per_decision_importance_sampling(cap, mean):
    weights, estimates = np.array(list(chain_estimates(cap, cap))).T
    assert weights @ estimates == pytest.approx(mean, abs=1e-9)
    if cap == np.inf:
        assert weights @ (estimates - mean) ** 2 == pytest.approx(3.8270, abs=5e-5)


numbers = st.floats(-100, 100, allow_nan=False, width=32)


@st.composite
def ragged(draw):
    lengths = draw(st.lists(st.integers(0, 150), min_size=1, max_size=6).filter(sum))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = int(offsets[-1])
    bootstrap = rng.normal(size=len(lengths)) * (rng.random(len(lengths)) < 0.5)
    return rng.normal(size=n) * 10, rng.normal(size=n), np.exp(rng.normal(size=n)), offsets, bootstrap


decays = st.sampled_from([0.0, 0.3, 0.9, 0.99, 0.999, 1.0])


def slow_sums(x, decay, offsets):
    result = np.empty_like(x)
    for begin, end in itertools.pairwise(offsets):
        carry = 0.0
        for t in reversed(range(begin, end)):
            carry = x[t] + decay * carry
            result[t] = carry
    return result


def slow_vtrace(data, gamma, cap):
    reward, value, ratio, offsets, bootstrap = data
    targets, advantages = np.empty_like(reward), np.empty_like(reward)
    for e, (begin, end) in enumerate(itertools.pairwise(offsets)):
        target = following = bootstrap[e]
        for t in reversed(range(begin, end)):
            rho = min(cap, ratio[t])
            advantages[t] = rho * (reward[t] + gamma * target - value[t])
            delta = rho * (reward[t] + gamma * following - value[t])
            target = value[t] + delta + gamma * rho * (target - following)
            targets[t], following = target, value[t]
    return targets, advantages


def test_streams_longer_than_a_piece_match_a_loop():
    rng = np.random.default_rng(0)
    offsets = np.cumsum([0, 3, PIECE_STEPS - 3, 0, 40_000, 1, 13, 0])
    x = rng.normal(size=offsets[-1])
    np.testing.assert_allclose(
        discounted_sums(x, offsets, decay=0.99), slow_sums(x, 0.99, offsets), atol=1e-9
    )
    data = (x, rng.normal(size=len(x)), np.exp(rng.normal(size=len(x))), offsets, rng.normal(size=7))
    found = vtrace(*data[:4], bootstrap_e=data[4], gamma=0.99, rho_cap=2.0, trace_cap=2.0)
    np.testing.assert_allclose(found, slow_vtrace(data, 0.99, 2.0), atol=1e-8)


@pytest.mark.parametrize("decay", [1e-30, 0.01, 0.5, 0.9, 1.0])
def test_long_streams_whatever_the_decay(decay):
    """Powers of a small decay soon leave the range of a float."""
    offsets = np.array([0, 3000, 3001, 3 * PIECE_STEPS])
    x = np.random.default_rng(0).normal(size=offsets[-1])
    np.testing.assert_allclose(
        discounted_sums(x, offsets, decay=decay), slow_sums(x, decay, offsets), atol=1e-9
    )


@pytest.mark.parametrize("ratio", [0.0, 1e-200, 1e-3, 0.9, 1.5])
def test_traces_that_are_cut_or_grow(ratio):
    """Products of the traces vanish, or overflow, long before a piece ends."""
    rng = np.random.default_rng(1)
    offsets = np.array([0, 2500, 2500, 2600, 5000])
    ratios = np.where(rng.random(5000) < 0.5, ratio, 0.99)
    data = (rng.normal(size=5000), rng.normal(size=5000), ratios, offsets, rng.normal(size=4))
    found = vtrace(*data[:4], bootstrap_e=data[4], gamma=0.8, rho_cap=2.0, trace_cap=2.0)
    np.testing.assert_allclose(found, slow_vtrace(data, 0.8, 2.0), atol=1e-8)


def test_an_episode_is_as_exact_beside_a_larger_one():
    """What is left of a neighbor is its rounding: a 1e-16th of it."""
    rng, offsets = np.random.default_rng(0), np.array([0, 300, 600])
    x = rng.normal(size=600)
    x[300:] *= 1e6
    alone = discounted_sums(x[:300], offsets[:2], decay=0.99)
    np.testing.assert_allclose(discounted_sums(x, offsets, decay=0.99)[:300], alone, atol=1e-7)


def test_what_is_summed_up_stays_as_it_was():
    x = np.ones(5)
    discounted_sums(x, np.array([0, 5]), decay=0.9)
    np.testing.assert_array_equal(x, np.ones(5))


@given(ragged(), decays)
def test_discounted_sums_match_a_loop(data, decay):
    x, _, _, offsets, _ = data
    np.testing.assert_allclose(
        discounted_sums(x, offsets, decay=decay), slow_sums(x, decay, offsets), atol=1e-9
    )


@given(ragged(), decays, decays)
def test_gae_matches_a_loop(data, gamma, gae_lambda):
    reward, value, _, offsets, bootstrap = data
    following = np.concatenate(
        [
            np.append(value[begin:end], bootstrap[e])[1:] if end > begin else []
            for e, (begin, end) in enumerate(itertools.pairwise(offsets))
        ]
    )
    np.testing.assert_array_equal(next_values(value, offsets, bootstrap_e=bootstrap), following)
    expected = slow_sums(reward + gamma * following - value, gamma * gae_lambda, offsets)
    advantage = gae(reward, value, offsets, bootstrap_e=bootstrap, gamma=gamma, gae_lambda=gae_lambda)
    np.testing.assert_allclose(advantage, expected, atol=1e-9)


@given(ragged(), decays, st.sampled_from([0.5, 1.0, 3.0]))
def test_vtrace_matches_a_loop(data, gamma, cap):
    reward, value, ratio, offsets, bootstrap = data
    ratio = np.minimum(ratio, 1.5)  # traces that grow without bound differ by rounding alone
    fast = vtrace(
        reward,
        value,
        ratio,
        offsets,
        bootstrap_e=bootstrap,
        gamma=0.6 * gamma,
        rho_cap=cap,
        trace_cap=cap,
    )
    slow = slow_vtrace((reward, value, ratio, offsets, bootstrap), 0.6 * gamma, cap)
    np.testing.assert_allclose(fast[0], slow[0], atol=1e-9)
    np.testing.assert_allclose(fast[1], slow[1], atol=1e-9)


def test_bootstrap_is_the_value_of_the_observation_after_the_end():
    returns = discounted_returns(np.ones(3), np.array([0, 1, 3]), gamma=0.5, bootstrap_e=np.array([8.0, 0.0]))
    np.testing.assert_allclose(returns, [5.0, 1.5, 1.0])


@pytest.mark.parametrize("episodes", [0, 1, 3])
def test_episodes_without_a_step_have_no_returns(episodes):
    none, offsets, after = np.empty(0), np.zeros(episodes + 1, np.int64), np.ones(episodes)
    results = [
        discounted_returns(none, offsets, gamma=0.9, bootstrap_e=after),
        gae(none, none, offsets, bootstrap_e=after, gamma=0.9, gae_lambda=0.8),
        *vtrace(none, none, none, offsets, bootstrap_e=after, gamma=0.9),
        next_values(none, offsets, bootstrap_e=after),
        discounted_sums(none, offsets, decay=0.9),
    ]
    assert [result.shape for result in results] == [(0,)] * 6


def test_wrong_ranks_are_refused():
    with pytest.raises(ValueError, match="rewards have shape"):
        discounted_returns(np.ones((2, 2)), np.array([0, 4]), gamma=0.9)
    with pytest.raises(ValueError, match="bootstrap values"):
        gae(REWARD, VALUE, ONE, bootstrap_e=np.zeros(2), gamma=0.9, gae_lambda=0.9)
