import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.weighting import effective_sample_fraction, largest_ratio, normalized


def test_effective_sample_size_of_four_weights():
    fraction = effective_sample_fraction(np.log([1.0, 2.0, 3.0, 4.0]))
    assert 4 * fraction == pytest.approx(3.3333, abs=5e-5)


def test_chain_of_two_decisions():
    """Every trajectory as often as its probability says: π(action 0) = 0.8, 0.7, 0.6, μ = 0.5, 0.4, 0.3."""
    pi, mu = (0.8, 0.7, 0.6), (0.5, 0.4, 0.3)
    reward = ((0.0, 1.0), (2.0, 0.0), (0.0, -1.0))
    log_ratios, counts, outcomes = [], [], []
    for first, second in itertools.product((0, 1), repeat=2):
        path = ((0, first), (1 + first, second))
        chance = [(mu[s], pi[s]) if a == 0 else (1 - mu[s], 1 - pi[s]) for s, a in path]
        log_ratios.append([math.log(p / m) for m, p in chance])
        counts.append(round(100 * math.prod(m for m, _ in chance)))
        outcomes.append(sum(0.9**t * reward[s][a] for t, (s, a) in enumerate(path)))
    by_step = np.repeat(np.array(log_ratios), counts, axis=0)
    trajectory = by_step.sum(axis=1)
    estimates = np.exp(trajectory) * np.repeat(outcomes, counts)
    assert estimates.mean() == pytest.approx(1.136)
    assert estimates.var() == pytest.approx(3.8860, abs=5e-5)
    assert np.repeat(outcomes, counts).mean() == pytest.approx(0.545)
    assert effective_sample_fraction(trajectory) == pytest.approx(0.53354, abs=5e-6)
    assert effective_sample_fraction(by_step.reshape(-1)) == pytest.approx(0.724169, abs=5e-7)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=50))
def test_effective_sample_size_matches_the_definition(log_ratio):
    rho = np.exp(log_ratio)
    expected = rho.sum() ** 2 / (len(rho) * (rho**2).sum())
    assert effective_sample_fraction(np.array(log_ratio)) == pytest.approx(min(expected, 1.0))


def test_large_log_ratios_do_not_overflow():
    assert effective_sample_fraction(np.array([50.0, 0.0, 800.0, 900.0])) == pytest.approx(0.25)
    assert effective_sample_fraction(np.full(7, 1e6)) == 1.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_a_number_does_not_pass_the_gate(bad):
    assert not effective_sample_fraction(np.array([0.0, bad])) >= 0.3
    assert not effective_sample_fraction(np.array([bad, 0.0])) >= 0.3


def test_float32_is_refused():
    with pytest.raises(ValueError, match="float64"):
        effective_sample_fraction(np.zeros(3, np.float32))


def test_nothing_to_weigh():
    assert effective_sample_fraction(np.zeros(0)) == 1.0
    assert largest_ratio(np.zeros(0)) == 1.0
    assert len(normalized(np.zeros(0))) == 0


def test_largest_ratio_is_finite():
    assert largest_ratio(np.log([0.5, 3.0])) == pytest.approx(3.0)
    assert math.isfinite(largest_ratio(np.array([1e5])))


def test_advantages_are_normalized_with_population_moments():
    np.testing.assert_allclose(normalized(np.array([1.0, 3.0])), [-1.0, 1.0], atol=1e-7)
    np.testing.assert_array_equal(normalized(np.full(4, 2.5)), np.zeros(4))
