from dataclasses import replace

import numpy as np
import pytest
import torch

from policies.behavior import log_probs
from policies.initial import initial_checkpoint
from policies.normalizer import RunningStatistics
from policies.spec import ContinuousSpace, DiscreteSpace, PolicySpec

DISCRETE = PolicySpec(observation_shape=(6,), action=DiscreteSpace(n=4), normalize=True)
CONTINUOUS = replace(DISCRETE, action=ContinuousSpace(size=3), activation="relu")
N = 1100


def policy_of(spec):
    first = initial_checkpoint(spec, seed=0, log_std=-0.4)
    head = f"policy.{len(spec.hidden)}.weight"
    rows = np.random.default_rng(1).normal(2, 3, (500, spec.inputs))
    weights = {**first.weights, head: first.weights[head] * np.float32(100)}
    return replace(first, weights=weights, normalizer=RunningStatistics.of(rows))


def rows_of(spec):
    rng = np.random.default_rng(2)
    obs = rng.normal(2, 3, (N, spec.inputs)).astype(np.float32)
    if isinstance(spec.action, DiscreteSpace):
        mask = rng.random((N, 4)) < 0.7
        action = rng.integers(0, 4, N)
        mask[np.arange(N), action] = True
        return obs, action, mask
    return obs, rng.normal(0, 1, (N, 3)).astype(np.float32), None


def torch_log_probs(policy, obs, action, mask):
    """The same in torch's float32, up to the distribution."""
    spec, weights = policy.spec, {name: torch.from_numpy(a) for name, a in policy.weights.items()}
    x = torch.from_numpy(policy.normalizer.normalize(obs))
    for i in range(3):
        x = torch.nn.functional.linear(x, weights[f"policy.{i}.weight"], weights[f"policy.{i}.bias"])
        if i < 2:
            x = torch.tanh(x) if spec.activation == "tanh" else torch.relu(x)
    x, chosen = x.double(), torch.from_numpy(action)
    if mask is not None:
        x = x.masked_fill(~torch.from_numpy(mask), -torch.inf)
        return x.log_softmax(-1).gather(1, chosen[:, None])[:, 0].numpy()
    return torch.distributions.Normal(x, weights["log_std"].double().exp()).log_prob(chosen).sum(-1).numpy()


def test_discrete_log_probabilities_equal_torch():
    policy, (obs, action, mask) = policy_of(DISCRETE), rows_of(DISCRETE)
    ours = log_probs(policy, obs, action, mask)
    assert ours.dtype == np.float64
    assert np.ptp(ours) > 1
    np.testing.assert_allclose(ours, torch_log_probs(policy, obs, action, mask), atol=5e-7, rtol=0)


def test_continuous_log_probabilities_equal_torch():
    policy, (obs, action, _) = policy_of(CONTINUOUS), rows_of(CONTINUOUS)
    expected = torch_log_probs(policy, obs, action, None)
    # The density's slope in the mean is up to 10 here, and means carry float32's rounding.
    np.testing.assert_allclose(log_probs(policy, obs, action), expected, atol=5e-6, rtol=5e-7)


@pytest.mark.parametrize("spec", [DISCRETE, CONTINUOUS])
@pytest.mark.parametrize("chunk_rows", [1, 7, 512, 1100, 5000])
def test_chunks_change_nothing(spec, chunk_rows):
    policy, (obs, action, mask) = policy_of(spec), rows_of(spec)
    whole = log_probs(policy, obs, action, mask, chunk_rows=10**6)
    np.testing.assert_allclose(
        log_probs(policy, obs, action, mask, chunk_rows=chunk_rows), whole, atol=5e-6, rtol=5e-7
    )


def test_no_rows():
    policy, (obs, action, mask) = policy_of(DISCRETE), rows_of(DISCRETE)
    assert log_probs(policy, obs[:0], action[:0], mask[:0]).shape == (0,)


def test_action_that_was_not_allowed_has_no_probability():
    policy, (obs, action, mask) = policy_of(DISCRETE), rows_of(DISCRETE)
    mask[3] = True
    mask[3, action[3]] = False
    assert np.flatnonzero(np.isneginf(log_probs(policy, obs, action, mask))).tolist() == [3]


def test_normalizer_of_another_version_is_noticeable():
    policy, (obs, action, mask) = policy_of(DISCRETE), rows_of(DISCRETE)
    later = replace(policy.normalizer, m2=policy.normalizer.m2 * 1.21)
    other = log_probs(replace(policy, normalizer=later), obs, action, mask)
    assert np.abs(other - log_probs(policy, obs, action, mask)).max() > 1e-2


@pytest.mark.parametrize("which", [0, 1, 2])
def test_lengths_that_differ_are_refused(which):
    policy, rows = policy_of(DISCRETE), list(rows_of(DISCRETE))
    rows[which] = rows[which][:-1]
    with pytest.raises(ValueError, match="accepted: as many of each"):
        log_probs(policy, *rows)
