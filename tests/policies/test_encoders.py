"""Encoders: numpy against torch, and both against a slow second version."""

import dataclasses

import numpy as np
import pytest
import torch

from experience.flattening import flatten
from experience.space_parsing import space_from_json
from experience.spaces import (
    BoxSpace,
    DictSpace,
    DiscreteSpace,
    ImageSpace,
    MultiBinarySpace,
    MultiDiscreteSpace,
)
from policies.encoders import ENCODERS, chosen_encoders, create_encoder, scaled, torch_scaled
from policies.encoders.conv import layers
from policies.forward import EncodedForward, policy_outputs, values
from policies.initial import initial_checkpoint
from policies.inputs import network_inputs, real_numbers
from policies.learner_state import LearnerState
from policies.normalizer import RunningStatistics
from policies.settings import LearnerSettings
from policies.spec import ContinuousSpace, PolicySpec

LEAVES = {
    "flat": [BoxSpace(shape=(2, 3)), MultiBinarySpace(n=4)],
    "onehot": [DiscreteSpace(n=5), MultiDiscreteSpace(nvec=(2, 3))],
    "embedding": [DiscreteSpace(n=5), MultiDiscreteSpace(nvec=(2, 3))],
    "conv": [ImageSpace(shape=(5, 5, 2)), ImageSpace(shape=(10, 12, 3)), ImageSpace(shape=(33, 30, 1))],
}
MIXED = DictSpace(
    {
        "a": DiscreteSpace(n=40),
        "b": BoxSpace(shape=(2, 2)),
        "c": ImageSpace(shape=(6, 5, 2)),
        "d": MultiBinarySpace(n=3),
        "e": BoxSpace(shape=()),
        "f": MultiDiscreteSpace(nvec=(3, 2)),
    }
)


def sample(space, n, seed=0):
    """Stored rows [n, width] of any space."""
    rng = np.random.default_rng(seed)
    parts = []
    for leaf in space.leaves:
        counts = leaf.space.counts
        shape = (n, leaf.space.width)
        parts.append(rng.integers(0, counts, shape) if counts else rng.normal(5.0, 3.0, shape))
    return np.concatenate(parts, axis=1).astype(space.stored_dtype)


def weights_of(encoder, leaf, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(0, 0.3, shape).astype(np.float32) for shape in encoder.shapes(leaf).values()]


@pytest.mark.parametrize(("name", "leaf"), [(name, leaf) for name in ENCODERS for leaf in LEAVES[name]])
def test_numpy_is_torch(name, leaf):
    encoder = create_encoder(name)
    rows = sample(leaf, 7).astype(np.float32)
    weights = weights_of(encoder, leaf)
    ours = encoder.forward(leaf, weights, rows)
    theirs = encoder.torch_forward(leaf, [torch.from_numpy(w) for w in weights], torch.from_numpy(rows))
    assert encoder.serves(leaf)
    assert ours.shape == (7, encoder.width(leaf))
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5, atol=1e-5 * np.abs(ours).max())


def test_every_registered_encoder_is_tried_here():
    assert LEAVES.keys() == ENCODERS.keys()


def test_a_convolution_by_hand():
    leaf = ImageSpace(shape=(13, 14, 2))
    encoder = create_encoder("conv")
    rows = np.random.default_rng(1).random((1, leaf.width)).astype(np.float32)
    weights = weights_of(encoder, leaf)
    x = rows.reshape(13, 14, 2).astype(np.float64)
    for layer, weight, bias in zip(layers(leaf), weights[::2], weights[1::2], strict=True):
        y = np.zeros((layer.height, layer.width, layer.channels))
        for i, j, o in np.ndindex(*y.shape):
            window = x[i * layer.stride :, j * layer.stride :][:3, :3]
            y[i, j, o] = max(0.0, (window * weight[o].transpose(1, 2, 0)).sum() + bias[o])
        x = y
    np.testing.assert_allclose(
        encoder.forward(leaf, weights, rows)[0], x.transpose(2, 0, 1).ravel(), rtol=1e-4
    )


@pytest.mark.parametrize(
    ("shape", "sides"),
    [
        ((3, 3, 1), [(1, 1)]),
        ((5, 5, 2), [(3, 3), (1, 1)]),
        ((10, 10, 4), [(8, 8), (6, 6)]),
        ((84, 84, 4), [(41, 41), (20, 20), (9, 9), (7, 7)]),
        ((210, 160, 3), [(104, 79), (51, 39), (25, 19), (12, 9), (10, 7)]),
    ],
)
def test_the_layers_of_a_convolution(shape, sides):
    assert [(layer.height, layer.width) for layer in layers(ImageSpace(shape=shape))] == sides
    assert layers(ImageSpace(shape=shape))[0].channels == 16


@pytest.mark.parametrize(
    ("network", "chosen"),
    [
        ("auto", ("embedding", "flat", "conv", "flat", "flat", "onehot")),
        ("mlp", ("onehot", "flat", "flat", "flat", "flat", "onehot")),
        ("conv", ("embedding", "flat", "conv", "flat", "flat", "onehot")),
        ("embedding", ("embedding", "flat", "conv", "flat", "flat", "embedding")),
    ],
)
def test_encoders_are_chosen_by_the_space_and_the_network(network, chosen):
    assert chosen_encoders(MIXED, network) == chosen
    assert chosen_encoders(ImageSpace(shape=(2, 9, 1)), network) == ("flat",)  # too small to convolve
    with pytest.raises(ValueError, match="accepted: auto, mlp"):
        chosen_encoders(MIXED, "transformer")


def spec_of(space, **others):
    return PolicySpec.of(space, ContinuousSpace(size=2), hidden=(8,), normalize=True, **others)


def test_a_plain_box_is_what_it_always_was():
    plain = PolicySpec(observation_shape=(4,), action=ContinuousSpace(size=2), hidden=(8,), normalize=True)
    assert spec_of(BoxSpace(shape=(4,))) == plain
    assert set(plain.to_json()) == {
        "observation_shape",
        "action",
        "hidden",
        "activation",
        "normalize",
        "layer_norm",
    }
    assert list(plain.shapes()) == [
        *("policy.0.weight", "policy.0.bias", "policy.1.weight", "policy.1.bias"),
        *("value.0.weight", "value.0.bias", "value.1.weight", "value.1.bias"),
        "log_std",
    ]


def test_a_spec_travels_in_json():
    spec = spec_of(MIXED, network="embedding")
    assert PolicySpec.from_json(spec.to_json()) == spec
    assert spec.to_json()["encoders"] == ["embedding", "flat", "conv", "flat", "flat", "embedding"]
    with pytest.raises(ValueError, match="encoders"):
        dataclasses.replace(spec, encoders=("flat",))
    with pytest.raises(ValueError, match="observation_shape"):
        dataclasses.replace(spec, observation_shape=(3,))


def test_bytes_stay_bytes_until_the_encoder():
    for space in (ImageSpace(shape=(3, 3, 1)), DiscreteSpace(n=9)):
        spec, rows = spec_of(space), sample(space, 4)
        assert network_inputs(spec, RunningStatistics.empty(0), rows).dtype == np.uint8
        seen = scaled(space, rows)
        np.testing.assert_array_equal(seen, rows / np.float32(255 if isinstance(space, ImageSpace) else 1))
        np.testing.assert_array_equal(seen, torch_scaled(space, torch.from_numpy(rows)).numpy())


def test_only_real_numbers_are_normalized():
    spec, rows = spec_of(MIXED), sample(MIXED, 50)
    statistics = RunningStatistics.of(real_numbers(spec, rows))
    assert statistics.mean.shape == (spec.statistics,) == (5,)
    seen = network_inputs(spec, statistics, rows)
    for leaf in MIXED.leaves:
        given, found = rows[:, leaf.start : leaf.stop], seen[:, leaf.start : leaf.stop]
        if leaf.space.counts:
            np.testing.assert_array_equal(found, given)
        else:
            np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-4)
            np.testing.assert_allclose(found.std(axis=0), 1, atol=1e-4)


@pytest.mark.parametrize("space", [MIXED, ImageSpace(shape=(7, 7, 1)), DiscreteSpace(n=50)])
def test_the_clients_forward_pass_is_the_learners(space):
    spec, rows = spec_of(space), sample(space, 9).reshape(9, *space.stored_shape)
    base = initial_checkpoint(spec, seed=3)
    base = dataclasses.replace(base, normalizer=RunningStatistics.of(real_numbers(spec, rows)))
    state = LearnerState(base, LearnerSettings(), device="cpu")
    seen = torch.from_numpy(network_inputs(spec, base.normalizer, rows))
    policy = policy_outputs(base.weights, spec, base.normalizer, rows)
    value = values(base.weights, spec, base.normalizer, rows)
    with torch.no_grad():
        np.testing.assert_allclose(policy, state.policy(seen).numpy(), atol=1e-5)
        np.testing.assert_allclose(value, state.value(seen).numpy()[:, 0], atol=1e-5)


def test_one_observation_is_a_row_of_a_batch():
    spec = spec_of(MIXED)
    base = initial_checkpoint(spec, seed=3)
    obs = {
        "a": 39,
        "b": np.ones((2, 2)),
        "c": np.full((6, 5, 2), 7, np.uint8),
        "d": [1, 0, 1],
        "e": 0.5,
        "f": [2, 1],
    }
    single = EncodedForward(base.weights, spec, base.normalizer)(obs)
    batch = policy_outputs(base.weights, spec, base.normalizer, flatten(MIXED, obs)[None])
    np.testing.assert_array_equal(single, batch[0])


def test_initial_weights_of_encoders():
    spec = PolicySpec.of(space_from_json(MIXED.to_json()), DiscreteSpace(n=3), hidden=(8,))
    weights = initial_checkpoint(spec, seed=0).weights
    conv = weights["policy.encoders.2.0.weight"].reshape(16, -1)
    np.testing.assert_allclose(conv @ conv.T, 2 * np.eye(16), atol=1e-5)
    assert weights["value.encoders.0.0.table"].shape == (40, 16)
    assert 0.8 < weights["value.encoders.0.0.table"].std() < 1.2
    assert not weights["policy.encoders.2.1.bias"].any()
