"""Exports of policies that see parts, images and indices, and that make several choices at once."""

import numpy as np
import pytest
from test_export import run

from experience.spaces import (
    BoxSpace,
    DictSpace,
    DiscreteSpace,
    ImageSpace,
    MultiBinarySpace,
    MultiDiscreteSpace,
    TupleSpace,
)
from learnerd.errors import ExportError
from learnerd.export.encoding import encode
from learnerd.export.observations import drawn
from learnerd.export.source import Source
from policies.distributions import categorical_log_probs
from policies.factored import choices_of
from policies.forward import policy_outputs
from policies.initial import initial_checkpoint
from policies.normalizer import RunningStatistics
from policies.spec import ContinuousSpace, PolicySpec

pytest.importorskip("onnxruntime", reason="the extra learnerd[onnx] is not installed")

IMAGE = ImageSpace(shape=(6, 5, 2))
MIXED = DictSpace(
    {
        "a": DiscreteSpace(n=40),
        "b": BoxSpace(shape=(2, 2)),
        "c": IMAGE,
        "d": MultiBinarySpace(n=3),
        "e": BoxSpace(shape=()),
        "f": MultiDiscreteSpace(nvec=(3, 2)),
    }
)
SPACES = {
    "image": IMAGE,
    "large image": ImageSpace(shape=(33, 30, 1)),
    "index": DiscreteSpace(n=7),
    "indices": MultiDiscreteSpace(nvec=(3, 2)),
    "binary": MultiBinarySpace(n=3),
    "mixed": MIXED,
    "tuple": TupleSpace(spaces=(BoxSpace(shape=(3,)), DiscreteSpace(n=2))),
}
ACTIONS = {
    "discrete": DiscreteSpace(n=3),
    "continuous": ContinuousSpace(size=2),
    "several": MultiDiscreteSpace(nvec=(3, 2, 4)),
    "binary": MultiBinarySpace(n=3),
}


def make_source(observation, action, *, network="auto", **options):
    """A version with weights of some size, and statistics where there are real numbers."""
    options = {"hidden": (8, 8), "normalize": True, **options}
    spec = PolicySpec.of(observation, action, network=network, **options)
    rng = np.random.default_rng(0)
    weights = {
        name: (rng.normal(size=shape) / np.sqrt(max(1, np.prod(shape[1:])))).astype(np.float32)
        for name, shape in spec.actor_shapes().items()
    }
    statistics = RunningStatistics.of(rng.normal(3.0, 2.0, (50, spec.statistics)))
    return Source(version=7, model_sha256="ab" * 32, spec=spec, weights=weights, normalizer=statistics)


def expected_of(source, obs):
    return policy_outputs(source.weights, source.spec, source.normalizer, obs)


@pytest.mark.parametrize("network", ["auto", "mlp", "embedding"])
@pytest.mark.parametrize("space", SPACES)
def test_what_is_observed_gives_the_learners_logits(space, network):
    source = make_source(SPACES[space], ACTIONS["discrete"], network=network)
    obs = drawn(source, 50)
    exported = encode("onnx", source, lossy=False)
    found = run(exported.data, obs=obs, mask=np.ones((50, 3), bool))
    np.testing.assert_allclose(found["logits"], expected_of(source, obs), atol=1e-5, rtol=1e-5)
    assert len(np.unique(found["logits"], axis=0)) > 1
    shape = ", ".join(map(str, source.spec.observation_shape))
    assert exported.facts["inputs"]["obs"] == f"float32 [batch, {shape}]"


@pytest.mark.parametrize("options", [{"layer_norm": True, "activation": "relu"}, {"normalize": False}])
@pytest.mark.parametrize("action", ACTIONS)
def test_what_is_done_has_the_learners_probabilities(action, options):
    source = make_source(MIXED, ACTIONS[action], **options)
    obs = drawn(source, 50)
    expected = expected_of(source, obs)
    data = encode("onnx", source, lossy=False).data
    if action == "continuous":
        np.testing.assert_allclose(run(data, obs=obs)["mean"], expected, atol=1e-5)
        return
    mask = np.random.default_rng(1).random(expected.shape) < 0.5
    if action == "discrete":
        mask[:, 0] = True
        choices = [(expected, mask)]
    else:
        mask[:, [0, 3, 5][: mask.shape[1] // 3 or 1]] = True  # the first of each of several choices
        choices = choices_of(expected, source.spec.action, mask)
    log_probs = [categorical_log_probs(logits, allowed) for logits, allowed in choices]
    found = run(data, obs=obs, mask=mask)
    np.testing.assert_allclose(found["log_probs"], np.concatenate(log_probs, axis=1), atol=1e-5)
    best = np.stack([one.argmax(axis=1) for one in log_probs], axis=1)
    np.testing.assert_array_equal(found["action"].reshape(best.shape), best)


@pytest.mark.parametrize("action", ["several", "binary"])
def test_int8_of_convolutions_tables_and_several_choices_is_measured(action):
    source = make_source(MIXED, ACTIONS[action], hidden=(64,))
    exported = encode("onnx_int8", source, lossy=True)
    figures = exported.facts["difference"]
    assert 1e-6 < figures["probability_max"] < 0.1
    assert 0.9 <= figures["greedy_agreement"] <= 1.0
    assert len(exported.data) < len(encode("onnx", source, lossy=False).data)


def test_initial_weights_behind_encoders_are_exported():
    checkpoint = initial_checkpoint(PolicySpec.of(MIXED, ACTIONS["discrete"], normalize=True), seed=0)
    names = checkpoint.spec.actor_shapes()
    source = Source(
        version=1,
        model_sha256="",
        spec=checkpoint.spec,
        weights={name: checkpoint.weights[name] for name in names},
        normalizer=checkpoint.normalizer,
    )
    assert encode("onnx", source, lossy=False).loss == ""


def test_an_encoder_without_a_graph_is_refused_by_name(monkeypatch):
    source = make_source(IMAGE, ACTIONS["discrete"])
    monkeypatch.setattr("learnerd.export.graphs.encoded.ENCODERS", {"flat": None})
    with pytest.raises(ExportError, match="encoded: encoder is 'conv', expected flat; accepted: perceptron"):
        encode("onnx", source, lossy=True)
