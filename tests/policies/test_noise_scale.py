import math

import numpy as np
import pytest
import torch

from policies.learner import Learner
from policies.noise_scale import NoiseProbe, gradient_noise
from policies.settings import LearnerSettings


def test_noise_scale_of_the_literal():
    noise = gradient_noise(small_sq=5.0, small=1, large_sq=2.0, large=4)
    assert (noise.signal, noise.trace, noise.scale) == (1.0, 4.0, 4.0)


def test_without_a_signal_no_batch_is_large_enough():
    assert gradient_noise(small_sq=8.0, small=1, large_sq=2.0, large=4).scale == math.inf


def test_the_probe_finds_the_noise_that_is_put_in():
    rng = np.random.default_rng(0)
    truth, spread, steps = rng.normal(size=50), 3.0, 64
    signals, traces = [], []
    for _ in range(400):
        probe = NoiseProbe()
        for _ in range(4):
            noise = rng.normal(size=(steps // 4, 50)).mean(0) * spread
            probe.add(torch.from_numpy(truth + noise))
        estimate = probe.estimate(steps)
        signals.append(estimate.signal)
        traces.append(estimate.trace)
    assert np.mean(signals) == pytest.approx((truth**2).sum(), rel=0.02)
    assert np.mean(traces) == pytest.approx(50 * spread**2, rel=0.02)


def test_one_minibatch_tells_nothing():
    probe = NoiseProbe()
    probe.add(torch.ones(3))
    assert probe.estimate(10) is None


def test_an_update_estimates_it_only_when_asked_and_changes_nothing(make_checkpoint, make_batch):
    plain, asked = (
        Learner(make_checkpoint(), LearnerSettings(noise_scale=switch)) for switch in (False, True)
    )
    reports = [learner.update(make_batch((40, 30)), seed=1) for learner in (plain, asked)]
    assert reports[0].noise is None
    assert reports[1].noise.trace > 0
    for name, weight in plain.weights().items():
        np.testing.assert_array_equal(weight, asked.weights()[name])
