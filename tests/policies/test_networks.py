import dataclasses
import math

import numpy as np
import pytest
import torch

from policies.distributions import (
    categorical_entropy,
    categorical_log_prob,
    categorical_log_probs,
    gaussian_entropy,
    gaussian_log_prob,
)
from policies.forward import policy_outputs, values
from policies.networks import Network, activation_of, divergence, evaluate, network_layout, set_gradient


def networks(checkpoint):
    for name in ("policy", "value"):
        layout = network_layout(checkpoint.spec, name)
        yield Network(layout, layout.pack(checkpoint.weights), activation_of(checkpoint.spec))


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("size", [None, 2])
def test_outputs_equal_the_numpy_forward(make_checkpoint, activation, size, layer_norm):
    checkpoint = make_checkpoint(size=size, hidden=(16, 8, 4))
    spec = dataclasses.replace(checkpoint.spec, activation=activation, layer_norm=layer_norm)
    checkpoint = dataclasses.replace(checkpoint, spec=spec)
    obs = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    policy, value = networks(checkpoint)
    arguments = (checkpoint.weights, spec, checkpoint.normalizer, obs)
    np.testing.assert_allclose(
        policy(torch.from_numpy(obs)).detach().numpy(), policy_outputs(*arguments), atol=5e-7
    )
    np.testing.assert_allclose(
        value(torch.from_numpy(obs)).detach().numpy()[:, 0], values(*arguments), atol=1e-6
    )


def test_packing_is_reversible_and_views_share_memory(make_checkpoint):
    checkpoint = make_checkpoint(size=2)
    layout = network_layout(checkpoint.spec, "policy")
    assert list(layout.shapes)[-1] == "log_std"
    flat = layout.pack(checkpoint.weights)
    for name, array in layout.unpack(flat).items():
        np.testing.assert_array_equal(array, checkpoint.weights[name])
    layout.views(flat)[1].fill_(7.0)
    assert (layout.unpack(flat, prefix="prox.")["prox.policy.0.bias"] == 7.0).all()


def test_unpacked_arrays_do_not_follow_the_vector(make_checkpoint):
    layout = network_layout(make_checkpoint().spec, "value")
    flat = torch.zeros(layout.size)
    arrays = layout.unpack(flat)
    flat.fill_(1.0)
    assert not any(array.any() for array in arrays.values())


def test_gradients_lie_on_the_flat_vector(make_checkpoint):
    policy, value = networks(make_checkpoint())
    obs = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    losses = [policy(obs).square().sum(), 3.0 * value(obs).sum()]
    set_gradient(losses, [policy, value], accumulate=False)
    expected = torch.autograd.grad(
        policy(obs).square().sum() + 3.0 * value(obs).sum(), policy.leaves + value.leaves
    )
    flat = torch.cat([gradient.reshape(-1) for gradient in expected])
    torch.testing.assert_close(torch.cat([policy.gradient, value.gradient]), flat, rtol=0, atol=0)
    set_gradient([3.0 * value(obs).sum()], [value], accumulate=True)
    torch.testing.assert_close(value.gradient, 2.0 * flat[policy.layout.size :])


def test_a_change_of_the_vector_changes_the_network(make_checkpoint):
    policy, _ = networks(make_checkpoint())
    obs = torch.ones(1, 3)
    before = policy(obs).detach()
    with torch.no_grad():
        policy.flat.mul_(2.0)
    assert not torch.equal(before, policy(obs).detach())


def test_categorical_equals_numpy():
    rng = np.random.default_rng(1)
    logits = (5 * rng.normal(size=(30, 4))).astype(np.float32)
    mask = rng.random((30, 4)) < 0.6
    action = rng.integers(0, 4, 30)
    mask[np.arange(30), action] = True
    for allowed in (None, mask):
        result = evaluate(
            torch.from_numpy(logits),
            None,
            torch.from_numpy(action),
            None if allowed is None else torch.from_numpy(allowed),
        )
        np.testing.assert_allclose(result.logp, categorical_log_prob(logits, action, allowed), atol=2e-6)
        np.testing.assert_allclose(result.entropy, categorical_entropy(logits, allowed), atol=2e-6)


def test_gaussian_equals_numpy():
    rng = np.random.default_rng(1)
    mean, action = (rng.normal(size=(30, 3)).astype(np.float32) for _ in range(2))
    log_std = np.array([-1.0, 0.0, 0.7], np.float32)
    result = evaluate(*(torch.from_numpy(array) for array in (mean, log_std, action)), None)
    np.testing.assert_allclose(result.logp, gaussian_log_prob(mean, log_std, action), atol=2e-5)
    assert result.entropy.item() == pytest.approx(gaussian_entropy(log_std), rel=1e-6)


def test_divergence_of_categoricals():
    logits = torch.randn(2, 20, 3, generator=torch.Generator().manual_seed(0))
    action = torch.zeros(20, dtype=torch.int64)
    p, q = (evaluate(rows, None, action, None) for rows in logits)
    log_p, log_q = (categorical_log_probs(rows.numpy()) for rows in logits)
    np.testing.assert_allclose(
        divergence(p, q), (np.exp(log_p) * (log_p - log_q)).sum(1), rtol=1e-4, atol=1e-7
    )
    assert divergence(p, p).abs().max() == 0.0


def test_divergence_of_gaussians_against_an_integral():
    def gaussian(mean, std):
        mean_na, log_std = torch.tensor([[mean]]), torch.tensor([math.log(std)])
        return evaluate(mean_na, log_std, torch.zeros(1, 1), None)

    x = np.linspace(-30, 30, 600_001)
    p = np.exp(-0.5 * ((x - 0.5) / 1.5) ** 2) / (1.5 * math.sqrt(2 * math.pi))
    log_q = -0.5 * ((x + 1.0) / 0.8) ** 2 - math.log(0.8 * math.sqrt(2 * math.pi))
    log_p = -0.5 * ((x - 0.5) / 1.5) ** 2 - math.log(1.5 * math.sqrt(2 * math.pi))
    expected = (p * (log_p - log_q)).sum() * (x[1] - x[0])
    assert divergence(gaussian(0.5, 1.5), gaussian(-1.0, 0.8)).item() == pytest.approx(expected, rel=1e-5)


def test_masked_actions_get_no_gradient():
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mask = torch.tensor([[True, True, False]]).expand(5, 3)
    result = evaluate(logits, None, torch.zeros(5, dtype=torch.int64), mask)
    (gradient,) = torch.autograd.grad((result.logp + result.entropy).sum(), logits)
    assert torch.isfinite(gradient).all()
    assert (gradient[:, 2] == 0).all()
    assert gradient[:, :2].abs().min() > 0
