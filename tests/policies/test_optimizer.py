import pytest
import torch

from policies.optimizer import SGD, Adam, clip_to_norm_
from policies.proximal import ProximalAverage


def adam_on(gradients, *, learning_rate, scales=None):
    weights = torch.zeros(1, dtype=torch.float64)
    adam = Adam(torch.zeros_like(weights), torch.zeros_like(weights), steps=0, epsilon=1e-8)
    for i, gradient in enumerate(gradients):
        scale = 1.0 if scales is None else scales[i]
        adam.step(weights, torch.tensor([gradient], dtype=torch.float64), learning_rate=learning_rate * scale)
    return weights.item(), adam


@pytest.mark.parametrize(
    ("gradients", "learning_rate", "expected"),
    [
        ((3.0, 1.0, -2.0), 0.1, -0.2098289),
        ((12.0, 4.0, -8.0), 0.1, -0.2098289),
        ((12.0, 4.0, -8.0), 0.025, -0.0524572),
    ],
)
def test_adam_does_not_depend_on_the_gradients_scale(gradients, learning_rate, expected):
    assert adam_on(gradients, learning_rate=learning_rate)[0] == pytest.approx(expected, abs=1e-6)


def test_adam_equals_torch():
    generator = torch.Generator().manual_seed(3)
    start = torch.randn(50, generator=generator)
    ours, theirs = start.clone(), start.clone().requires_grad_()
    reference = torch.optim.Adam([theirs], lr=1e-2, eps=1e-5)
    adam = Adam(torch.zeros(50), torch.zeros(50), steps=0, epsilon=1e-5)
    for _ in range(20):
        gradient = torch.randn(50, generator=generator)
        adam.step(ours, gradient, learning_rate=1e-2)
        theirs.grad = gradient
        reference.step()
    torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=1e-6)
    assert adam.steps == 20
    assert adam.retained() == (pytest.approx(0.9**20), pytest.approx(0.999**20))


def test_a_scaled_step_leaves_the_moments_alone():
    full, seen_full = adam_on((3.0, 1.0), learning_rate=0.1)
    scaled, seen_scaled = adam_on((3.0, 1.0), learning_rate=0.1, scales=(0.5, 0.5))
    assert scaled == pytest.approx(0.5 * full)
    assert seen_scaled.m.item() == seen_full.m.item()
    assert seen_scaled.v.item() == seen_full.v.item()


def test_sgd():
    weights = torch.tensor([1.0])
    SGD().step(weights, torch.tensor([4.0]), learning_rate=0.25)
    assert weights.item() == 0.0


@pytest.mark.parametrize("scale", [0.01, 10.0])
def test_clipping_equals_torch(scale):
    generator = torch.Generator().manual_seed(1)
    gradients = [scale * torch.randn(n, generator=generator) for n in (5, 9)]
    parameters = [torch.nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    expected = torch.nn.utils.clip_grad_norm_(parameters, 0.5)
    norm = clip_to_norm_(gradients, 0.5)
    torch.testing.assert_close(norm, expected)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


def test_proximal_average_matches_its_definition():
    generator = torch.Generator().manual_seed(2)
    start = torch.randn(4, generator=generator, dtype=torch.float64)
    policies = [torch.randn(4, generator=generator, dtype=torch.float64) for _ in range(30)]
    average = ProximalAverage(start.clone(), weight=1.0, decay=0.889)
    for policy in policies:
        average.follow(policy)
    weights = [0.889 ** (len(policies) - i) for i in range(len(policies) + 1)]
    total = sum(w * p for w, p in zip(weights, [start, *policies], strict=True))
    torch.testing.assert_close(average.flat, total / sum(weights))
    assert average.weight == pytest.approx(sum(weights))
    assert average.retained == pytest.approx(weights[0] / sum(weights))
