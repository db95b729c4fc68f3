"""The tests of returns, against tables, a slow second way, and simulated equals."""

import math

import numpy as np
import pytest

from learnerd.comparison import TESTS, effect, mann_whitney, normal_tail, student_tail, welch


@pytest.mark.parametrize(
    ("t", "freedom", "p"),
    [
        (6.314, 1, 0.05),
        (1.812, 10, 0.05),
        (2.764, 10, 0.01),
        (3.098, 1000, 0.001),
        (0.0, 7, 0.5),
        (-1.812, 10, 0.95),
    ],
)
def test_students_distribution_is_that_of_the_tables(t, freedom, p):
    assert student_tail(t, freedom) == pytest.approx(p, rel=2e-3)


@pytest.mark.parametrize(("t", "freedom"), [(0.3, 5.5), (4.0, 12.25), (6.0, 31.0), (9.0, 400.0), (5.0, 2.5)])
def test_small_tails_are_those_of_the_density(t, freedom):
    """The density, summed over a substitution that makes the tail finite: t / u for u from 0 to 1."""
    u = (np.arange(2_000_000) + 0.5) / 2_000_000
    log_scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - 0.5 * math.log(freedom * math.pi)
    density = np.exp(log_scale - (freedom + 1) / 2 * np.log1p((t / u) ** 2 / freedom))
    assert student_tail(t, freedom) == pytest.approx(float((density * t / u**2).mean()), rel=1e-5)


def test_welch_by_hand():
    """Means 4 and 2, variances 4 / 3 and 2 / 3 of 4 and 3 … as in any textbook: t = 2 / sqrt(5 / 9)."""
    before, after = [3.0, 3.0, 5.0, 5.0], [1.0, 2.0, 3.0]
    t = 2 / math.sqrt(4 / 3 / 4 + 1 / 3)
    freedom = (2 / 3) ** 2 / ((1 / 3) ** 2 / 3 + (1 / 3) ** 2 / 2)
    assert welch(before, after) == pytest.approx(student_tail(t, freedom))


def test_ranks_by_counting_pairs():
    before, after = [3.0, 1.0, 4.0, 4.0], [2.0, 4.0, 0.0]
    above = sum((b > a) + 0.5 * (b == a) for b in before for a in after)
    ties = 3**3 - 3
    variance = 4 * 3 / 12 * (8 - ties / (7 * 6))
    assert mann_whitney(before, after) == pytest.approx(normal_tail((above - 6 - 0.5) / math.sqrt(variance)))


@pytest.mark.parametrize("test", TESTS.values())
def test_constant_returns(test):
    assert test([500.0] * 9, [500.0] * 9) > 0.4
    assert test([500.0] * 9, [499.0] * 9) < 1e-3
    assert test([499.0] * 9, [500.0] * 9) > 0.9
    assert effect([500.0] * 9, [499.0] * 9) == pytest.approx(0.2)  # a hundredth of the mean counts as spread


def test_effect_is_in_standard_deviations_of_what_was_before():
    assert effect([1.0, 3.0], [0.0, 0.0]) == pytest.approx(2 / math.sqrt(2))
