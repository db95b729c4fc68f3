import numpy as np
import pytest

from policies.forward import policy_outputs
from policies.initial import initial_checkpoint, orthogonal
from policies.spec import ContinuousSpace, DiscreteSpace, PolicySpec

SPEC = PolicySpec(observation_shape=(4,), action=DiscreteSpace(n=2), hidden=(64, 32))
GAINS = {
    "policy.0": 2**0.5,
    "policy.1": 2**0.5,
    "policy.2": 0.01,
    "value.0": 2**0.5,
    "value.1": 2**0.5,
    "value.2": 1.0,
}


def test_shapes_and_dtypes_are_the_specs():
    weights = initial_checkpoint(SPEC, seed=0).weights
    assert {name: array.shape for name, array in weights.items()} == SPEC.shapes()
    assert list(weights) == list(SPEC.shapes())
    assert {array.dtype for array in weights.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize(("layer", "gain"), GAINS.items())
def test_matrices_are_orthogonal_with_their_gain(layer, gain):
    weights = initial_checkpoint(SPEC, seed=3).weights
    matrix = weights[f"{layer}.weight"].astype(np.float64)
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    np.testing.assert_allclose(gram, gain**2 * np.eye(len(gram)), atol=1e-6 * gain**2)
    assert not weights[f"{layer}.bias"].any()


def test_signs_are_not_those_of_the_factorization():
    """Without the fix, LAPACK's Q has a diagonal of one sign; uniform matrices have a mean of zero."""
    rng = np.random.default_rng(0)
    entries = np.array([orthogonal((3, 3), gain=1.0, rng=rng) for _ in range(2000)])
    np.testing.assert_allclose(entries.mean(axis=0), 0.0, atol=5 * (1 / 3) ** 0.5 / 2000**0.5)
    assert (np.linalg.det(entries) > 0).mean() == pytest.approx(0.5, abs=0.06)


def test_seed_decides():
    first, again, other = (initial_checkpoint(SPEC, seed=seed).weights for seed in (5, 5, 6))
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
    assert (first["policy.0.weight"] != other["policy.0.weight"]).all()
    assert (first["policy.0.weight"] != first["value.0.weight"]).all()


def test_nothing_is_counted_or_published():
    checkpoint = initial_checkpoint(SPEC, seed=0)
    assert (checkpoint.version, checkpoint.parents, checkpoint.averages) == (0, (), {})
    assert set(checkpoint.counters.values()) == {0}
    assert {"updates", "steps", "episodes", "adam_policy", "adam_value"} <= set(checkpoint.counters)
    assert checkpoint.normalizer.count == 0
    assert checkpoint.normalizer.mean.shape == (4,)


def test_first_actions_are_nearly_uniform():
    checkpoint = initial_checkpoint(SPEC, seed=0)
    obs = np.random.default_rng(0).normal(0, 3, (100, 4)).astype(np.float32)
    logits = policy_outputs(checkpoint.weights, SPEC, checkpoint.normalizer, obs)
    assert np.abs(logits).max() < 0.1


@pytest.mark.parametrize("log_std", [0.0, -0.5])
def test_gaussian_starts_with_the_deviation_that_was_asked_for(log_std):
    spec = PolicySpec(observation_shape=(4,), action=ContinuousSpace(size=3))
    assert initial_checkpoint(spec, seed=0, log_std=log_std).weights["log_std"].tolist() == [log_std] * 3


def test_no_hidden_layer():
    spec = PolicySpec(observation_shape=(4,), action=DiscreteSpace(n=2), hidden=())
    weights = initial_checkpoint(spec, seed=0).weights
    norms = [np.linalg.norm(weights[f"{network}.0.weight"], 2) for network in ("policy", "value")]
    assert norms == pytest.approx([0.01, 1.0], rel=1e-6)
