import dataclasses

import numpy as np
import pytest
import torch

from policies.initial import initial_checkpoint
from policies.learner import Learner
from policies.networks import Network, network_layout
from policies.remedies import pull_, shrink_and_perturb_
from policies.settings import LearnerSettings

ONE_STEP = LearnerSettings(
    algorithm="reinforce",
    baseline="value",
    optimizer="sgd",
    epochs=1,
    minibatches=1,
    learning_rate=0.1,
    lr_scaling="none",
    max_grad_norm=1e6,
    value_max_grad_norm=1e6,
)


def after(base, batch, settings, **options):
    learner = Learner(base, settings, **options)
    learner.update(batch, seed=5)
    return learner


@pytest.fixture(params=[None, 2])
def moved(request, make_checkpoint):
    """A policy that is not what it began as, and a batch for it."""
    base = make_checkpoint(size=request.param, seed=7)
    rng = np.random.default_rng(0)
    weights = {
        name: (array + 0.1 * rng.normal(size=array.shape)).astype(np.float32)
        for name, array in base.weights.items()
    }
    return dataclasses.replace(base, weights=weights)


@pytest.fixture
def batch(moved, make_batch):
    return make_batch(size=getattr(moved.spec.action, "size", None))


def test_the_pull_is_the_gradient_of_the_squared_distance(moved):
    layout = network_layout(moved.spec, "policy")
    network = Network(layout, layout.pack(moved.weights), torch.tanh)
    initial = layout.pack(initial_checkpoint(moved.spec, seed=7).weights)
    initial = initial if network.log_std is None else initial[: -len(network.log_std)]
    before = torch.randn(layout.size, generator=torch.Generator().manual_seed(0))
    network.gradient.copy_(before)
    theta = network.flat.clone().requires_grad_()
    (0.03 * (theta[: len(initial)] - initial).square().sum()).backward()
    pull_(network, initial, strength=0.03)
    torch.testing.assert_close(network.gradient, before + theta.grad)


def test_l2_init_pulls_every_weight_towards_the_ones_of_the_seed(moved, batch):
    plain = after(moved, batch, ONE_STEP).weights()
    pulled = after(moved, batch, dataclasses.replace(ONE_STEP, l2_init=0.5), seed=7).weights()
    initial = initial_checkpoint(moved.spec, seed=7).weights
    for name, array in plain.items():
        # θ at the step is the base's, but for the value head, which PopArt may have rescaled before.
        pull = 0.0 if name == "log_std" else 0.1 * 2 * 0.5 * (moved.weights[name] - initial[name])
        np.testing.assert_allclose(pulled[name], array - pull, atol=1e-6, err_msg=name)


def test_another_seed_pulls_elsewhere(moved, batch):
    settings = dataclasses.replace(ONE_STEP, l2_init=0.5)
    one, other = (after(moved, batch, settings, seed=seed).weights() for seed in (7, 8))
    assert not np.array_equal(one["policy.0.weight"], other["policy.0.weight"])


def test_it_keeps_a_network_near_its_beginning(make_checkpoint, make_batch):
    base, distance = make_checkpoint(seed=7), {}
    for strength in (0.0, 0.1):
        learner = Learner(base, LearnerSettings(l2_init=strength, learning_rate=5e-3), seed=7)
        for i in range(20):
            learner.update(make_batch(seed=i), seed=i)
        delta = learner.delta().weights
        distance[strength] = np.sqrt(sum((change**2).sum() for change in delta.values()))
    assert distance[0.1] < 0.7 * distance[0.0]


def test_shrinking_literally():
    flat = torch.tensor([1.0, -2.0, 4.0])
    shrink_and_perturb_(flat, torch.tensor([0.0, 2.0]), share=0.25)
    assert flat.tolist() == [0.75, -1.0, 4.0]


def test_shrink_and_perturb_mixes_fresh_weights_into_policy_and_average(moved, batch):
    plain = after(moved, batch, LearnerSettings())
    mixed = after(moved, batch, LearnerSettings(shrink_perturb=0.2))
    seed = int(np.random.SeedSequence([5, 1]).generate_state(1)[0])
    fresh = initial_checkpoint(moved.spec, seed=seed).weights
    left, right = plain.weights(), mixed.weights()
    for name, array in left.items():
        share = 0.0 if name == "log_std" else 0.2
        np.testing.assert_allclose(right[name], (1 - share) * array + share * fresh[name], atol=1e-6)
    before, now = (learner.delta().averages["prox.policy.0.weight"] for learner in (plain, mixed))
    expected = 0.8 * before.value + 0.2 * fresh["policy.0.weight"]
    np.testing.assert_allclose(now.value, expected, atol=1e-6)
    assert now.retained == pytest.approx(0.8 * before.retained)


def test_what_was_not_trained_is_not_perturbed(make_checkpoint, make_batch):
    base, batch = make_checkpoint(), make_batch()
    stale = dataclasses.replace(batch, logp=batch.logp - 30.0 * np.arange(batch.n_steps))
    learner = after(base, stale, LearnerSettings(shrink_perturb=0.2))
    assert {name.split(".")[0] for name in learner.delta().weights} == {"value"}
    alone = LearnerSettings(algorithm="reinforce", baseline="ema", shrink_perturb=0.2)
    assert {name.split(".")[0] for name in after(base, batch, alone).delta().weights} == {"policy"}


def test_each_update_perturbs_afresh(make_checkpoint, make_batch):
    base, settings = make_checkpoint(), LearnerSettings(shrink_perturb=0.9)
    first, second = Learner(base, settings), Learner(base, settings)
    first.update(make_batch(), seed=1)
    second.update(make_batch(), seed=2)
    assert np.abs(first.weights()["policy.0.weight"] - second.weights()["policy.0.weight"]).max() > 0.1
