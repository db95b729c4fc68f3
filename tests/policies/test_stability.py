import dataclasses
import math

import numpy as np
import pytest

from policies.learner import Learner
from policies.report import UpdateReport
from policies.settings import LearnerSettings
from policies.spec import ContinuousSpace, DiscreteSpace
from policies.stability import StabilityLimits, breach, collapse

LIMITS = StabilityLimits()
TWO = DiscreteSpace(n=2)

HEALTHY = UpdateReport(
    loss=0.4,
    policy_loss=-0.01,
    value_loss=0.41,
    entropy=0.6,
    entropy_end=0.59,
    kl=0.006,
    ess_fraction=0.9,
    ratio_max=735.0,  # Acrobot at 64 versions
    grad_norm=1.0,
    value_grad_norm=1620.0,  # CartPole when its returns rise
    learning_rate=5e-4,
    policy_episodes=8,
    policy_steps=16,
    value_steps=16,
    n_steps=800,
    n_episodes=8,
    unlogged_steps=0,
    return_mean=100.0,
    seconds=0.01,
)


def with_(**changes):
    return dataclasses.replace(HEALTHY, **changes)


def test_healthy_updates_pass():
    assert breach(HEALTHY, LIMITS, TWO) is None


@pytest.mark.parametrize(
    ("what", "limit"),
    [
        ("kl", "max_kl"),
        ("value_loss", "max_value_loss"),
        ("grad_norm", "grad_norm_limit"),
        ("value_grad_norm", "grad_norm_limit"),
        ("ratio_max", "max_ratio"),
    ],
)
def test_each_limit(what, limit):
    most = getattr(LIMITS, limit)
    assert breach(with_(**{what: most}), LIMITS, TWO) is None
    for beyond in (math.nextafter(most, math.inf), math.inf, math.nan):
        found = breach(with_(**{what: beyond}), LIMITS, TWO)
        assert found.what == what
        assert found.value is beyond
        assert f"at most {most:g}" in found.accepted
        assert limit in found.accepted
    off = dataclasses.replace(LIMITS, **{limit: 0.0})
    assert breach(with_(**{what: math.inf}), off, TWO) is None


@pytest.mark.parametrize("n", [2, 3, 100])
def test_a_discrete_policy_collapses_below_a_share_of_the_largest_entropy(n):
    limits, space = StabilityLimits(min_entropy_fraction=0.05), DiscreteSpace(n=n)
    assert collapse(0.0501 * math.log(n), limits, space) is None
    found = collapse(0.0499 * math.log(n), limits, space)
    assert (found.what, found.value) == ("entropy", 0.0499 * math.log(n))
    assert "min_entropy_fraction" in found.accepted
    assert collapse(-1e-9, StabilityLimits(min_entropy_fraction=0.0), space) is None


def test_one_action_cannot_collapse():
    assert collapse(0.0, LIMITS, DiscreteSpace(n=1)) is None


def test_a_gaussian_collapses_by_its_mean_entropy_a_dimension():
    space = ContinuousSpace(size=3)
    of_deviation = {std: 3 * (math.log(std) + 0.5 * math.log(2 * math.pi * math.e)) for std in (0.011, 0.009)}
    assert collapse(of_deviation[0.011], LIMITS, space) is None
    assert "min_entropy_nats" in collapse(of_deviation[0.009], LIMITS, space).accepted


def test_a_collapse_is_refused_on_request_and_only_where_it_happens():
    narrowing = with_(entropy=0.05, entropy_end=0.001)
    narrow = with_(entropy=0.001, entropy_end=0.0009)
    untouched = with_(entropy=0.05, entropy_end=0.0, policy_steps=0)
    strict = dataclasses.replace(LIMITS, refuses_collapse=True)
    assert breach(narrowing, LIMITS, TWO) is None
    assert breach(narrowing, strict, TWO).what == "entropy"
    assert breach(narrow, strict, TWO) is None  # or nothing could be learned any more
    assert breach(untouched, strict, TWO) is None


def test_the_first_reward_after_silence_is_no_explosion(make_checkpoint, make_batch, published):
    """PopArt then divides by its smallest deviation: the largest value loss that clean input gives."""
    base, settings = make_checkpoint(), LearnerSettings()
    silent = make_batch((1,) * 64, terminated=np.ones(64, bool), reward=np.zeros(64))
    learner = Learner(base, settings)
    learner.update(silent, seed=0)
    base = published(base, learner.delta())
    found = dataclasses.replace(silent, reward=np.full(64, 100.0))
    report = Learner(base, settings).update(found, seed=1)
    assert report.value_loss > 1e6
    assert breach(report, LIMITS, TWO) is None


def test_an_update_tells_its_entropy_at_the_end(make_checkpoint, make_batch):
    for size in (None, 2):
        base, batch = make_checkpoint(size=size), make_batch((700, 900), size=size)
        learner = Learner(base, LearnerSettings(learning_rate=3e-2, lr_scaling="none"))
        report = learner.update(batch, seed=0)
        after = learner.update(batch, seed=1).entropy
        assert abs(report.entropy_end - after) < 0.5 * abs(report.entropy - after)
    with_little = dataclasses.replace(batch, logp=batch.logp - 30.0 * np.arange(batch.n_steps))
    assert Learner(base, LearnerSettings()).update(with_little, seed=0).entropy_end == 0.0
