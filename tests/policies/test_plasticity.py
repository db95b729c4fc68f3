import dataclasses

import numpy as np
import pytest

from policies.behavior import log_probs
from policies.forward import hidden_activations
from policies.normalizer import RunningStatistics
from policies.plasticity import SAMPLE_ROWS, dormant_fraction, effective_rank, plasticity, sample


def slow_dormant(layers):
    """Definition 3.1 of Sokar et al., unit by unit."""
    dormant = units = 0
    for rows in layers:
        means = [sum(abs(float(h)) for h in column) / len(rows) for column in rows.T]
        for mean in means:
            units += 1
            dormant += mean <= 0.025 * (sum(means) / len(means))
    return dormant / units


def slow_rank(rows):
    """Section 3 of Kumar et al., from the singular values themselves."""
    singular = np.linalg.svd(rows.astype(np.float64), compute_uv=False)
    k = 0
    while singular[:k].sum() < 0.99 * singular.sum():
        k += 1
    return k


def slow_layers(checkpoint, obs, network):
    x_nd = (obs - checkpoint.normalizer.mean) / np.sqrt(
        checkpoint.normalizer.m2 / checkpoint.normalizer.count + 1e-8
    )
    layers = []
    for i in range(len(checkpoint.spec.hidden)):
        weight, bias = checkpoint.weights[f"{network}.{i}.weight"], checkpoint.weights[f"{network}.{i}.bias"]
        x_nd = np.tanh(x_nd @ weight.T + bias)
        layers.append(x_nd)
    return layers


@pytest.mark.parametrize("seed", range(5))
def test_dormant_units(seed):
    rng = np.random.default_rng(seed)
    scales = [rng.choice([1.0, 0.03, 0.02, 0.0], width) for width in (16, 9)]
    layers = [(rng.normal(size=(50, len(scale))) * scale).astype(np.float32) for scale in scales]
    assert dormant_fraction(layers) == slow_dormant(layers)
    assert 0 < dormant_fraction(layers) < 1


def test_dormant_literally():
    layer = np.tile(np.array([[1.0, -1.0, 0.01, 0.2]], np.float32), (8, 1))
    assert dormant_fraction([layer]) == 0.25  # mean |h| is 0.5525, and 0.01 is below a fortieth of it
    assert dormant_fraction([layer, np.zeros((8, 4), np.float32)]) == 0.625


@pytest.mark.parametrize(("rows", "width", "rank"), [(200, 20, 5), (200, 20, 20), (10, 30, 4), (30, 30, 1)])
def test_effective_rank(rows, width, rank):
    rng = np.random.default_rng(rank)
    low = (rng.normal(size=(rows, rank)) @ rng.normal(size=(rank, width))).astype(np.float32)
    for noise in (0.0, 1e-3, 0.3):
        features = low + np.float32(noise) * rng.normal(size=low.shape).astype(np.float32)
        assert effective_rank(features) == slow_rank(features)
    assert effective_rank(low) <= rank


def test_effective_rank_literally():
    assert effective_rank(np.diag([97.0, 2.5, 0.5]).astype(np.float32)) == 2
    assert effective_rank(np.diag([97.0, 1.5, 1.5]).astype(np.float32)) == 3
    assert effective_rank(np.zeros((5, 3), np.float32)) == 0
    assert effective_rank(np.full((5, 3), np.inf, np.float32)) == 0


@pytest.mark.parametrize("network", ["policy", "value"])
def test_of_a_checkpoint(make_checkpoint, network):
    rng = np.random.default_rng(0)
    obs = (5.0 + 2.0 * rng.normal(size=(300, 3))).astype(np.float32)
    base = make_checkpoint(normalize=True, hidden=(16, 12))
    base = dataclasses.replace(base, normalizer=RunningStatistics.of(obs))
    dead = base.weights[f"{network}.1.weight"].copy()
    dead[:3] = 0.0
    base = dataclasses.replace(base, weights={**base.weights, f"{network}.1.weight": dead})
    found = plasticity(base, obs, network=network)
    layers = slow_layers(base, obs, network)
    assert found.dormant_fraction == 3 / 28 == slow_dormant(layers)
    assert found.effective_rank == slow_rank(layers[-1]) <= 9
    flat = np.concatenate([w.ravel() for name, w in base.weights.items() if name.startswith(network)])
    assert found.weight_norm == pytest.approx(np.linalg.norm(flat), rel=1e-6)


def test_hidden_activations_lead_to_the_outputs(make_checkpoint):
    base, rng = make_checkpoint(), np.random.default_rng(1)
    obs, action = rng.normal(size=(40, 3)).astype(np.float32), rng.integers(0, 2, 40)
    last = hidden_activations(base.weights, base.spec, base.normalizer, obs)[-1]
    logits = last @ base.weights["policy.2.weight"].T + base.weights["policy.2.bias"]
    by_hand = logits[np.arange(40), action] - np.log(np.exp(logits).sum(axis=1))
    np.testing.assert_allclose(by_hand, log_probs(base, obs, action), atol=1e-6)


@pytest.mark.parametrize("n", [1, SAMPLE_ROWS, SAMPLE_ROWS + 1, 10 * SAMPLE_ROWS + 7])
def test_a_sample_is_small_and_spread(n):
    obs = np.arange(n, dtype=np.float32)[:, None]
    found = sample(obs)
    assert SAMPLE_ROWS / 2 <= len(found) <= SAMPLE_ROWS or len(found) == n
    assert found[0] == 0
    assert found[-1] >= n - n / len(found) - 1
    assert not np.shares_memory(found, obs)
