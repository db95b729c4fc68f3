import math

import pytest
import torch

from policies.losses import (
    awr_loss,
    clipped_loss,
    decoupled_loss,
    reinforce_loss,
    truncated_ratio,
    value_loss,
)


def logs(*probabilities):
    return torch.tensor(probabilities, dtype=torch.float64).log()


def test_ratios_are_truncated_from_above_only():
    ratios = truncated_ratio(logs(0.1, 0.6, 0.9), logs(0.2, 0.2, 0.2), cap=4.0)
    torch.testing.assert_close(ratios, torch.tensor([0.5, 3.0, 4.0], dtype=torch.float64))


def test_ppo_gradient_at_ratio_one():
    logits = torch.tensor([0.2, -0.1, 0.0], dtype=torch.float64, requires_grad=True)
    logp = torch.log_softmax(logits, 0)[:1]
    loss = clipped_loss(logp, logp.detach(), torch.tensor([2.0], dtype=torch.float64), clip_range=0.2)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    expected = torch.tensor([-1.2186123, 0.5788662, 0.6397461], dtype=torch.float64)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=5e-8)


@pytest.mark.parametrize(("cap", "objective"), [(1.0, 1.2), (10.0, 3.0)])
def test_decoupled_objective(cap, objective):
    one = torch.ones(1, dtype=torch.float64)
    loss = decoupled_loss(logs(0.6), logs(0.5), logs(0.2), one, clip_range=0.2, ratio_cap=cap)
    assert -loss.item() == pytest.approx(objective)


def leak(loss_of):
    """∂/∂logit of action 0 of an advantage that is 1 too high: π = 0.8, expectation over μ = 0.5."""
    logits = torch.tensor([math.log(0.8), math.log(0.2)], dtype=torch.float64, requires_grad=True)
    logp = torch.log_softmax(logits, 0)
    loss = loss_of(logp, logp.detach(), logs(0.5, 0.5), torch.ones(2, dtype=torch.float64))
    (gradient,) = torch.autograd.grad((0.5 * -loss).sum(), logits)
    return gradient[0].item()


@pytest.mark.parametrize(("cap", "expected"), [(10.0, 0.0), (1.0, -0.06)])
def test_a_low_cap_leaks(cap, expected):
    def loss(logp, now, behavior, advantage):
        return decoupled_loss(logp, now, behavior, advantage, clip_range=0.2, ratio_cap=cap)

    assert leak(loss) == pytest.approx(expected, abs=1e-12)


def test_no_correction_leaks_most():
    assert leak(lambda logp, _now, _behavior, a: reinforce_loss(logp, a)) == pytest.approx(-0.30)


@pytest.mark.parametrize(
    ("ratio", "advantage", "moves"),
    [(1.5, 1.0, False), (1.5, -1.0, True), (0.5, 1.0, True), (0.5, -1.0, False), (1.1, 1.0, True)],
)
def test_the_clip_stops_only_what_goes_too_far(ratio, advantage, moves):
    logp = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    reference = torch.zeros(1, dtype=torch.float64)
    loss = clipped_loss(logp, reference, torch.tensor([advantage], dtype=torch.float64), clip_range=0.2)
    (gradient,) = torch.autograd.grad(loss.sum(), logp)
    assert bool(gradient.item()) is moves


@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_extreme_ratios_have_finite_gradients(advantage):
    logp = torch.tensor([-0.1, -500.0, -0.1], requires_grad=True)
    proximal = torch.tensor([-600.0, -0.1, -0.1])
    behavior = torch.tensor([-0.1, -0.1, -700.0])
    loss = decoupled_loss(
        logp, proximal, behavior, torch.full((3,), advantage), clip_range=0.2, ratio_cap=10.0
    )
    (gradient,) = torch.autograd.grad(loss.sum(), logp)
    assert torch.isfinite(loss).all()
    assert torch.isfinite(gradient).all()


def test_no_gradient_through_the_weight():
    proximal = logs(0.5).requires_grad_()
    loss = decoupled_loss(
        logs(0.6).requires_grad_(),
        proximal.detach(),
        logs(0.2),
        torch.ones(1, dtype=torch.float64),
        clip_range=0.2,
        ratio_cap=10.0,
    )
    loss.sum().backward()
    assert proximal.grad is None


def test_awr_weights_are_capped():
    advantage = torch.tensor([0.0, 1.0, 9.0], dtype=torch.float64)
    loss = awr_loss(logs(0.5, 0.5, 0.5), advantage, weight_max=20.0)
    assert loss.tolist() == pytest.approx([w * math.log(2) for w in (1.0, math.e, 20.0)])


def test_value_loss():
    assert value_loss(torch.tensor([3.0]), torch.tensor([1.0]), coefficient=0.5).item() == 2.0


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match=r"accepted: \[n\] each"):
        value_loss(torch.zeros(3, 1), torch.zeros(3), coefficient=0.5)
    with pytest.raises(ValueError, match="shapes are"):
        reinforce_loss(torch.zeros(3), torch.zeros(1))
