"""Comparison: whether returns are lower than others were, by a one-sided test; in plain Python.

Two tests. Welch's compares means and allows for different spreads (Welch 1947, "The generalization of
'Student's' problem when several different population variances are involved", Biometrika 34); it relies on
means being normal. Mann and Whitney's compares ranks, whatever the returns are distributed like (Mann &
Whitney 1947, "On a test of whether one of two random variables is stochastically larger than the other",
Annals of Mathematical Statistics 18), here by its normal limit with the correction for ties (Lehmann 1975,
"Nonparametrics: statistical methods based on ranks", section 1.4).

Give both samples the same size: among equals the difference is then as likely one way as the other, whatever
the returns are distributed like. Of 200,000 pairs of 256 and 32 equal log-normal returns Welch's test called
60 times too many worse at the level 0.0001, the rank test 7 times too many where nine returns in ten are the
same; with 32 and 32 neither did, for eight distributions.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence

SPREAD_MIN = 0.01
"""Smallest standard deviation, as a share of the mean: a policy that always returned 500 may return 499."""

MOST_FREEDOM = 1000.0
"""Degrees of freedom: beyond, Student's distribution is almost the normal one, and its series is long."""

Test = Callable[[Sequence[float], Sequence[float]], float]
"""(returns before, returns after) -> p, the chance of such a drop among equals. Two of each at least."""


def welch(before: Sequence[float], after: Sequence[float]) -> float:
    """P-value of Welch's t test that ``after`` has the lower mean."""
    drop = mean(before) - mean(after)
    parts = [_variance(sample) / len(sample) for sample in (before, after)]
    error = sum(parts)
    if error <= 0.0:
        return 0.0 if drop > 0.0 else 1.0
    sizes = (len(before), len(after))
    freedom = error**2 / sum(part**2 / (size - 1) for part, size in zip(parts, sizes, strict=True))
    return student_tail(drop / math.sqrt(error), freedom)


def mann_whitney(before: Sequence[float], after: Sequence[float]) -> float:
    """P-value of the rank test that ``after`` tends to be lower."""
    m, n = len(before), len(after)
    counts = Counter([*before, *after])
    ranks, seen = {}, 0
    for value in sorted(counts):
        ranks[value] = seen + (counts[value] + 1) / 2
        seen += counts[value]
    above = sum(ranks[value] for value in before) - m * (m + 1) / 2  # pairs in which before is the larger one
    ties = sum(count**3 - count for count in counts.values())
    variance = m * n / 12 * (seen + 1 - ties / (seen * (seen - 1)))
    if variance <= 0.0:
        return 1.0
    return normal_tail((above - m * n / 2 - 0.5) / math.sqrt(variance))


TESTS: dict[str, Test] = {"welch": welch, "mann_whitney": mann_whitney}


def effect(before: Sequence[float], after: Sequence[float]) -> float:
    """By how many standard deviations of ``before`` the mean of ``after`` is lower."""
    return (mean(before) - mean(after)) / spread(before)


def spread(returns: Sequence[float]) -> float:
    """Standard deviation, but no less than a share of the mean."""
    return max(math.sqrt(_variance(returns)), SPREAD_MIN * abs(mean(returns)), 1e-12)


def mean(values: Sequence[float]) -> float:
    """The mean."""
    return math.fsum(values) / len(values)


def normal_tail(z: float) -> float:
    """P(Z > z) of the normal distribution."""
    return 0.5 * math.erfc(z / math.sqrt(2.0))


def student_tail(t: float, freedom: float) -> float:
    """P(T > t) of Student's distribution; ``freedom`` need not be whole.

    For t > 0 it is half the regularized incomplete beta function I_x(freedom / 2, 1 / 2) at x = freedom /
    (freedom + t²) (Abramowitz & Stegun 1964, 26.7.1), or 1 / 2 less the same of 1 - x with the other two
    exchanged, whichever of the two series is short.
    """
    a = min(freedom, MOST_FREEDOM) / 2
    x = 2 * a / (2 * a + t * t)
    half = 0.5 * beta(x, a, 0.5) if t * t > 1.0 else 0.5 - 0.5 * beta(1.0 - x, 0.5, a)
    return half if t >= 0.0 else 1.0 - half


def beta(x: float, a: float, b: float) -> float:
    """I_x(a, b), the regularized incomplete beta function, for x below 1.

    By the series x^a (1 - x)^b / (a B(a, b)) · Σ_k Π_{j<k} x (a + b + j) / (a + 1 + j) (Abramowitz & Stegun
    1964, 26.5.4): all of its terms are positive, so that small values are exact.
    """
    if x <= 0.0:
        return 0.0
    log_scale = a * math.log(x) + b * math.log1p(-x) - math.log(a)
    log_scale += math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    term, total, j = 1.0, 1.0, 0
    while term > 1e-9 * (1.0 - x) * total:
        term *= x * (a + b + j) / (a + 1 + j)
        total += term
        j += 1
    return math.exp(log_scale) * total


def _variance(values: Sequence[float]) -> float:
    center = mean(values)
    return math.fsum((value - center) ** 2 for value in values) / (len(values) - 1)
