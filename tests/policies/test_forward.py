from dataclasses import replace

import numpy as np
import pytest
import torch

from policies.forward import SingleForward, policy_outputs, values
from policies.initial import initial_checkpoint
from policies.normalizer import RunningStatistics
from policies.spec import ContinuousSpace, DiscreteSpace, PolicySpec

SPECS = [
    PolicySpec(observation_shape=(4,), action=DiscreteSpace(n=2)),
    PolicySpec(observation_shape=(15,), action=DiscreteSpace(n=6), activation="relu", normalize=True),
    PolicySpec(observation_shape=(3, 5), action=ContinuousSpace(size=2), hidden=(32,), normalize=True),
    PolicySpec(observation_shape=(1,), action=DiscreteSpace(n=1), hidden=()),
    PolicySpec(observation_shape=(15,), action=DiscreteSpace(n=6), normalize=True, layer_norm=True),
    PolicySpec(observation_shape=(4,), action=DiscreteSpace(n=2), activation="relu", layer_norm=True),
]


def policy_of(spec, seed=0):
    """Weights with a head as large as training makes it, and biases that are not zero."""
    rng = np.random.default_rng(seed)
    weights = {
        name: array * np.float32(60.0) if array.ndim == 2 and array.std() < 0.01 else array
        for name, array in initial_checkpoint(spec, seed=seed).weights.items()
    }
    for name, array in weights.items():
        if name.endswith("bias"):
            weights[name] = rng.normal(0, 0.3, array.shape).astype(np.float32)
    rows = rng.normal(5.0, 3.0, (100, spec.inputs))
    rows[:, 0] = 1.0
    return weights, RunningStatistics.of(rows)


def observations(spec, n=300, seed=1):
    rng = np.random.default_rng(seed)
    return rng.normal(5.0, 3.0, (n, *spec.observation_shape)).astype(np.float32)


def torch_outputs(network, weights, spec, normalizer, obs):
    x = torch.from_numpy(obs.reshape(len(obs), -1))
    if spec.normalize:
        var = normalizer.m2 / normalizer.count
        mean, std = torch.from_numpy(normalizer.mean), torch.from_numpy(np.sqrt(var + 1e-8))
        x = ((x - mean) / std).clamp(-10, 10).float()
    activation = torch.tanh if spec.activation == "tanh" else torch.relu
    for i in range(len(spec.hidden) + 1):
        weight, bias = (torch.from_numpy(weights[f"{network}.{i}.{kind}"]) for kind in ("weight", "bias"))
        x = torch.nn.functional.linear(x, weight, bias)
        if i < len(spec.hidden):
            x = torch.nn.functional.layer_norm(x, (len(bias),)) if spec.layer_norm else x
            x = activation(x)
    return x.numpy()


@pytest.mark.parametrize("spec", SPECS)
def test_both_networks_equal_torch(spec):
    weights, normalizer = policy_of(spec)
    obs = observations(spec)
    for network, outputs in (
        ("policy", policy_outputs(weights, spec, normalizer, obs)),
        ("value", values(weights, spec, normalizer, obs)[:, None]),
    ):
        expected = torch_outputs(network, weights, spec, normalizer, obs)
        assert outputs.dtype == np.float32
        assert outputs.shape == expected.shape
        scale = max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(outputs / scale, expected / scale, atol=5e-7, rtol=0)


@pytest.mark.parametrize("spec", SPECS)
def test_one_at_a_time_equals_the_batch(spec):
    weights, normalizer = policy_of(spec)
    obs = observations(spec)
    single = SingleForward(weights, spec, normalizer)
    rows = np.stack([single(row).copy() for row in obs])
    expected = policy_outputs(weights, spec, normalizer, obs)
    assert rows.dtype == np.float32
    scale = max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(rows / scale, expected / scale, atol=5e-7, rtol=0)


def test_by_hand():
    spec = PolicySpec(observation_shape=(2,), action=DiscreteSpace(n=1), hidden=(2,), activation="relu")
    weights = {
        "policy.0.weight": np.array([[1, 2], [3, -4]], np.float32),
        "policy.0.bias": np.array([0.5, 1], np.float32),
        "policy.1.weight": np.array([[2, 10]], np.float32),
        "policy.1.bias": np.array([-1], np.float32),
    }
    none = RunningStatistics.empty(2)
    obs = np.array([[1, 1], [1, 0]], np.float32)
    # Row 0: (3.5, max(0, 0)) -> 6; row 1: (1.5, 4) -> 42.
    assert policy_outputs(weights, spec, none, obs).tolist() == [[6], [42]]
    assert SingleForward(weights, spec, none)(obs[1]).tolist() == [42]


def test_layer_norm_by_hand():
    spec = PolicySpec(observation_shape=(1,), action=DiscreteSpace(n=1), hidden=(2,), layer_norm=True)
    weights = {
        "policy.0.weight": np.array([[3], [-1]], np.float32),
        "policy.0.bias": np.array([2, 2], np.float32),
        "policy.1.weight": np.array([[2, 0.5]], np.float32),
        "policy.1.bias": np.array([1], np.float32),
    }
    # The sums of 1 are (5, 1): standardized (1, -1), up to the epsilon; 2 tanh 1 - tanh 1 / 2 + 1.
    expected = 1.5 * np.tanh(1.0) + 1.0
    none, obs = RunningStatistics.empty(1), np.array([[1.0]], np.float32)
    np.testing.assert_allclose(policy_outputs(weights, spec, none, obs), [[expected]], atol=1e-5)
    np.testing.assert_allclose(SingleForward(weights, spec, none)(obs[0]), [expected], atol=1e-5)


def test_a_manifest_from_before_layer_norm_has_none():
    data = SPECS[0].to_json()
    del data["layer_norm"]
    assert PolicySpec.from_json(data) == SPECS[0]
    assert PolicySpec.from_json(SPECS[-1].to_json()) == SPECS[-1]


def test_observation_beyond_ten_deviations_is_clipped():
    spec = replace(SPECS[0], normalize=True)
    weights, _ = policy_of(spec)
    normalizer = RunningStatistics(count=4.0, mean=np.full(4, 2.0), m2=np.full(4, 16.0))
    far = np.array([[1e6, -1e6, 2 + 20, 2 - 20]], np.float32)
    at_the_bound = np.array([[22, -18, 22, -18]], np.float32)
    batch = [policy_outputs(weights, spec, normalizer, rows) for rows in (far, at_the_bound)]
    np.testing.assert_allclose(batch[0], batch[1], atol=1e-6)
    single = SingleForward(weights, spec, normalizer)
    np.testing.assert_allclose(single(far[0]), batch[0][0], atol=1e-6)


def test_statistics_are_left_alone_unless_the_spec_normalizes():
    spec = SPECS[0]
    weights, normalizer = policy_of(spec)
    obs = observations(spec)
    nothing = RunningStatistics.empty(spec.inputs)
    expected = policy_outputs(weights, spec, nothing, obs)
    np.testing.assert_array_equal(policy_outputs(weights, spec, normalizer, obs), expected)
    normalized = policy_outputs(weights, replace(spec, normalize=True), normalizer, obs)
    assert np.abs(normalized - expected).max() > 0.01


def test_arguments_are_not_written_to():
    spec = SPECS[1]
    weights, normalizer = policy_of(spec)
    obs = observations(spec)
    copies = obs.copy(), {name: array.copy() for name, array in weights.items()}
    single = SingleForward(weights, spec, normalizer)
    single(obs[0])
    policy_outputs(weights, spec, normalizer, obs)
    np.testing.assert_array_equal(obs, copies[0])
    for name, array in weights.items():
        np.testing.assert_array_equal(array, copies[1][name])
        array[...] = 0
    assert np.abs(single(obs[0])).max() > 0


def test_bytes_are_taken_as_numbers():
    spec = SPECS[2]
    weights, normalizer = policy_of(spec)
    image = np.arange(15, dtype=np.uint8).reshape(1, 3, 5)
    expected = policy_outputs(weights, spec, normalizer, image.astype(np.float32))
    np.testing.assert_array_equal(policy_outputs(weights, spec, normalizer, image), expected)


@pytest.mark.parametrize("shape", [(), (4,), (7, 5), (7, 4, 1)])
def test_wrong_shape_names_both(shape):
    weights, normalizer = policy_of(SPECS[0])
    with pytest.raises(ValueError, match=r"observations have shape .*accepted: \[B, 4\]"):
        policy_outputs(weights, SPECS[0], normalizer, np.zeros(shape, np.float32))


def test_activation_of_a_newer_release_is_refused():
    spec = replace(SPECS[0], activation="gelu")
    weights, normalizer = policy_of(SPECS[0])
    with pytest.raises(ValueError, match="activation is 'gelu'"):
        SingleForward(weights, spec, normalizer)
