"""Each gradient that was derived by hand, against autograd in float64 or float32."""

import itertools

import numpy as np
import pytest
import torch

from policies import losses
from policies.arrays import slopes
from policies.arrays.actions import Categorical, Gaussian
from policies.arrays.perceptrons import FEW_STEPS, Block, Gradient, Inputs, Perceptrons
from policies.arrays.rows import ArrayRows
from policies.initial import initial_checkpoint
from policies.networks import activation_of, divergence, evaluate, network_layout, perceptron
from policies.spec import ContinuousSpace, DiscreteSpace, PolicySpec

N = 40


def drawn(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


LOSSES = {
    "reinforce": (losses.reinforce_loss, slopes.reinforce_slope, 0, {}),
    "clipped": (losses.clipped_loss, slopes.clipped_slope, 1, {"clip_range": 0.2}),
    "decoupled": (losses.decoupled_loss, slopes.decoupled_slope, 2, {"clip_range": 0.2, "ratio_cap": 1.5}),
    "awr": (losses.awr_loss, slopes.awr_slope, 0, {"weight_max": 2.0}),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", LOSSES)
def test_slopes_are_those_of_the_losses(name, dtype):
    loss_of, slope_of, others, options = LOSSES[name]
    logp = drawn(N, seed=1, dtype=dtype) - 1
    logp[:2] += 40  # beyond what is believed of a ratio
    more = [logp + 0.5 * drawn(N, seed=2 + i, dtype=dtype) for i in range(others)]
    for each in more:
        each[:2] -= 40
        each[2:4] = logp[2:4]  # a ratio of exactly 1
    advantage = drawn(N, seed=9, dtype=dtype)
    loss, slope = slope_of(logp, *more, advantage, **options)
    leaf = torch.from_numpy(logp).requires_grad_()
    expected = loss_of(leaf, *map(torch.from_numpy, more), torch.from_numpy(advantage), **options)
    (gradient,) = torch.autograd.grad(expected.sum(), leaf)
    assert (loss.dtype, slope.dtype) == (dtype, dtype)
    tolerance = 1e-12 if dtype == np.float64 else 1e-5
    np.testing.assert_allclose(loss, expected.detach().numpy(), rtol=tolerance)
    np.testing.assert_allclose(slope, gradient.numpy(), rtol=tolerance)
    if name in {"clipped", "decoupled"}:
        assert 0 < (slope == 0).sum() < N  # some are clipped, some are not


def test_slopes_refuse_other_shapes():
    with pytest.raises(ValueError, match="accepted"):
        slopes.reinforce_slope(drawn(3), drawn(2))
    with pytest.raises(ValueError, match="accepted"):
        slopes.awr_slope(drawn(3, 1), drawn(3, 1), weight_max=2.0)


def rows_for(action, barred=None):
    nothing = np.zeros(N, np.float32)
    return ArrayRows(
        inputs=nothing[:, None],
        action=action,
        advantage=nothing,
        target=nothing,
        behavior_logp=nothing,
        start_logp=nothing,
        barred=barred,
    )


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("per_step", [False, True])
def test_categorical(masked, per_step):
    logits, chosen = drawn(N, 3), np.random.default_rng(5).integers(0, 3, N)
    mask = np.random.default_rng(6).random((N, 3)) < 0.6 if masked else np.ones((N, 3), bool)
    mask[np.arange(N), chosen] = True
    slope, bonus = drawn(N, seed=7), np.abs(drawn(N, seed=8)) if per_step else 0.3
    bonuses = torch.as_tensor(bonus, dtype=torch.float64)
    leaf = torch.from_numpy(logits).requires_grad_()
    theirs = evaluate(leaf, None, torch.from_numpy(chosen), torch.from_numpy(mask))
    loss = (torch.from_numpy(slope) * theirs.logp - bonuses * theirs.entropy).sum()
    (expected,) = torch.autograd.grad(loss, leaf)
    taken = chosen == np.arange(3)[:, None]
    rows = rows_for(taken, ~mask.T if masked else None)
    ours, other = Categorical.of(logits.T.copy(), rows), Categorical.of(drawn(3, N, seed=3), rows)
    out = np.full((3, N), np.nan)
    assert ours.gradient(slope, bonus, out) is None
    np.testing.assert_allclose(out.T, expected.numpy(), atol=1e-12)
    np.testing.assert_allclose(ours.logp, theirs.logp.detach(), atol=1e-12)
    np.testing.assert_allclose(ours.entropy(), theirs.entropy.detach(), atol=1e-12)
    their_other = evaluate(
        torch.from_numpy(drawn(3, N, seed=3).T.copy()), None, torch.from_numpy(chosen), torch.from_numpy(mask)
    )
    np.testing.assert_allclose(ours.divergence(other), divergence(theirs, their_other).detach(), atol=1e-12)


@pytest.mark.parametrize("per_step", [False, True])
def test_gaussian(per_step):
    mean, action, log_std = drawn(N, 2), drawn(N, 2, seed=1), drawn(2, seed=2)
    slope, bonus = drawn(N, seed=7), np.abs(drawn(N, seed=8)) if per_step else 0.3
    leaves = [torch.from_numpy(array).requires_grad_() for array in (mean, log_std)]
    theirs = evaluate(*leaves, torch.from_numpy(action), None)
    each = torch.as_tensor(bonus, dtype=torch.float64).expand(N) * theirs.entropy
    expected = torch.autograd.grad((torch.from_numpy(slope) * theirs.logp - each).sum(), leaves)
    ours = Gaussian(mean.T.copy(), log_std, action.T.copy())
    out = np.full((2, N), np.nan)
    np.testing.assert_allclose(ours.gradient(slope, bonus, out), expected[1].numpy(), atol=1e-12)
    np.testing.assert_allclose(out.T, expected[0].numpy(), atol=1e-12)
    np.testing.assert_allclose(ours.logp, theirs.logp.detach(), atol=1e-6)  # its constant is float32
    np.testing.assert_allclose(ours.entropy(), theirs.entropy.detach(), atol=1e-6)
    other = drawn(N, 2, seed=11), drawn(2, seed=12)
    their_other = evaluate(*map(torch.from_numpy, other), torch.from_numpy(action), None)
    kl = ours.divergence(Gaussian(other[0].T.copy(), other[1], action.T.copy()))
    np.testing.assert_allclose(kl, divergence(theirs, their_other).detach(), rtol=1e-10)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("hidden", [(), (7,), (7, 5, 6)])
@pytest.mark.parametrize("space", [DiscreteSpace(n=1), DiscreteSpace(n=4), ContinuousSpace(size=1)])
@pytest.mark.parametrize("steps", [FEW_STEPS - 1, FEW_STEPS])
def test_perceptrons_side_by_side(activation, hidden, space, steps):
    spec = PolicySpec(observation_shape=(3,), action=space, hidden=hidden, activation=activation)
    weights = initial_checkpoint(spec, seed=2).weights
    weights = {
        name: array + drawn(*array.shape, seed=4, dtype=np.float32) / 2 for name, array in weights.items()
    }
    layouts = [network_layout(spec, name) for name in ("policy", "value")]
    flats = [layout.pack(weights) for layout in layouts]
    block, obs = Block(layouts), drawn(steps, 3, seed=1, dtype=np.float32)
    packed = torch.empty(block.shape)
    block.pack(flats, packed)
    inputs = Inputs(np.concatenate([obs, np.ones((steps, 1), np.float32)], axis=1), 2)
    gradient = torch.zeros_like(packed)
    ours = Perceptrons(block, packed, activation)
    work = ours.forward(inputs)
    widths, found = (space.outputs, 1), [torch.empty_like(flat) for flat in flats]
    for i, width in enumerate(widths):
        work.delta[i, :width] = drawn(width, steps, seed=20 + i)
    outputs = work.outputs.copy()
    ours.backward(inputs, work, Gradient(block, gradient))
    block.unpack(gradient, found)
    for i, (layout, flat) in enumerate(zip(layouts, flats, strict=True)):
        leaves = [view.clone().requires_grad_() for view in layout.views(flat)]
        theirs = perceptron(leaves, torch.from_numpy(obs), activation_of(spec))
        np.testing.assert_allclose(outputs[i, : widths[i]].T, theirs.detach(), atol=1e-5)
        loss = (theirs * torch.from_numpy(drawn(widths[i], steps, seed=20 + i)).float().T).sum()
        used = leaves if len(leaves) % 2 == 0 else leaves[:-1]
        expected = torch.cat([piece.reshape(-1) for piece in torch.autograd.grad(loss, used)])
        np.testing.assert_allclose(found[i][: len(expected)], expected, atol=1e-4, rtol=1e-4)


def test_a_block_gives_back_what_it_was_given(make_checkpoint):
    checkpoint = make_checkpoint(size=2)
    layouts = [network_layout(checkpoint.spec, name) for name in ("policy", "value")]
    flats = [torch.arange(1.0, layout.size + 1) for layout in layouts]
    block = Block(layouts)
    packed = torch.empty(block.shape)
    block.pack(flats, packed)
    assert (packed != 0).sum() == sum(layout.size for layout in layouts)  # nothing lies on anything else
    back = [torch.zeros_like(flat) for flat in flats]
    block.unpack(packed, back)
    assert all(torch.equal(one, other) for one, other in zip(flats, back, strict=True))
    np.testing.assert_array_equal(block.tail(packed), flats[0][-2:])
    for (out, fan_in), matrix in zip([(8, 3), (8, 8), (2, 8)], block.matrices(packed), strict=True):
        assert matrix.shape == (2, out, fan_in + 1)
    first, _ = itertools.islice(layouts[0].views(flats[0]), 2)
    np.testing.assert_array_equal(block.matrices(packed)[0][0, :, :-1], first)
