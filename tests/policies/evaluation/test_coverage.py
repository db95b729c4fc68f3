"""How often a 95 % interval holds the exact value of a small MDP."""

import numpy as np
import pytest
from known_mdp import GAMMA, TARGET, TableTarget, draw, exact_value

from learnerd.walkforward.results import Estimates
from policies.evaluation import ESTIMATORS, evaluate, linearize
from policies.evaluation.bootstrap import Bootstrap
from policies.evaluation.logged import Logged

EPISODES = 200
DRAWS = 500
FEW_DRAWS = {"cwpdis": 100, "wis": 100, "pdis": 100, "dr": 20, "wdr": 20, "fqe": 3}


def estimates(method, draws):
    rng = np.random.default_rng(0)
    for seed in range(draws):
        logged = Logged.of(draw(EPISODES, rng), TableTarget(TARGET), gamma=GAMMA)
        yield evaluate(logged, method=method, bootstrap=Bootstrap(seed=seed))


def covered(found):
    truth = exact_value(TARGET)
    return np.mean([one.low <= truth <= one.high for one in found])


@pytest.mark.parametrize("method", ESTIMATORS)
def test_some_intervals_hold_the_exact_value(method):
    found = list(estimates(method, FEW_DRAWS[method]))
    assert covered(found) >= (0.85 if len(found) >= 100 else 0.6)
    values = np.array([one.value for one in found])
    assert values.mean() == pytest.approx(exact_value(TARGET), abs=4 * 0.25 / np.sqrt(len(found)))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("method", ESTIMATORS)
def test_the_interval_has_its_coverage(method, capsys):
    found = list(estimates(method, DRAWS))
    values, share, truth = np.array([one.value for one in found]), covered(found), exact_value(TARGET)
    width = np.mean([one.high - one.low for one in found])
    ess = np.mean([one.ess_fraction for one in found])
    with capsys.disabled():
        print(
            f"\n  {method:7s} {found[0].interval:12s} coverage {share:.3f}  bias {values.mean() - truth:+.4f}"
            f"  deviation {values.std():.4f}  mean width {width:.3f}  effective share {ess:.2f}"
        )
    assert 0.90 <= share <= 0.99


def means_of_parts(method, draws, *, parts=4, episodes=50):
    """As a walk-forward adds up estimates: a mean over parts, by their deviations."""
    rng = np.random.default_rng(0)
    for _ in range(draws):
        logs = [Logged.of(draw(episodes, rng), TableTarget(TARGET), gamma=GAMMA) for _ in range(parts)]
        found = [linearize(logged, method=method) for logged in logs]
        values = np.array([[one.value for one in found]])
        yield Estimates(values=values, deviations=tuple(one.deviations[None] for one in found)).interval()


def test_some_means_of_parts_hold_the_exact_value():
    assert covered(list(means_of_parts("cwpdis", 60))) >= 0.85


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("method", ["cwpdis", "wis", "pdis"])
def test_means_of_parts_have_their_coverage(method, capsys):
    share = covered(list(means_of_parts(method, DRAWS)))
    with capsys.disabled():
        print(f"\n  {method:7s} mean of 4 parts of 50 episodes: coverage {share:.3f}")
    assert 0.90 <= share <= 0.99
