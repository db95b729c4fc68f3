"""Exports of versions: exact where they say so, measured where they are not."""

import dataclasses
import hashlib
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from experience.archive import write_shard
from learnerd import cli
from learnerd.errors import ExportError, LossyExportError
from learnerd.export import EXACT, FORMATS
from learnerd.export.encoding import encode
from learnerd.export.observations import archived, drawn
from learnerd.export.source import Source, read_source
from policies.checkpoint import Delta
from policies.distributions import categorical_log_probs
from policies.forward import policy_outputs
from policies.initial import initial_checkpoint
from policies.networks import Network, activation_of, evaluate, network_layout
from policies.normalizer import RunningStatistics
from policies.spec import ContinuousSpace, DiscreteSpace, PolicySpec
from policies.store import CheckpointStore

onnx = pytest.importorskip("onnx", reason="the extra learnerd[onnx] is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra learnerd[onnx] is not installed")

DISCRETE = DiscreteSpace(n=3)


def make_source(*, seed=0, shape=(4,), action=DISCRETE, hidden=(8, 8), normalize=True, seen=100, **options):
    """A version with weights as after some training, and statistics of ``seen`` observations."""
    spec = PolicySpec(observation_shape=shape, action=action, hidden=hidden, normalize=normalize, **options)
    rng = np.random.default_rng(seed)
    weights = {
        name: (rng.standard_normal(shape) / np.sqrt(max(1, shape[-1]))).astype(np.float32)
        for name, shape in spec.actor_shapes().items()
    }
    statistics = RunningStatistics.empty(spec.inputs)
    if seen:
        statistics = RunningStatistics.of(rng.normal(3.0, 2.0, (seen, spec.inputs)))
    return Source(version=7, model_sha256="ab" * 32, spec=spec, weights=weights, normalizer=statistics)


def run(data, **feed):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def by_torch(source, obs, mask=None):
    """What the learner itself says: log-probabilities [n, k] or means, in torch."""
    spec = source.spec
    layout = network_layout(spec, "policy")
    network = Network(layout, layout.pack(source.weights), activation_of(spec))
    rows = obs.reshape(len(obs), spec.inputs)
    rows = source.normalizer.normalize(rows) if spec.normalize else rows
    outputs = network(torch.from_numpy(rows))
    if network.log_std is not None:
        return outputs.detach().numpy()
    masks = None if mask is None else torch.from_numpy(mask)
    action = torch.from_numpy(np.zeros(len(obs), np.int64) if mask is None else mask.argmax(axis=1))
    return evaluate(outputs, None, action, masks).parameters.detach().numpy()


specs = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 1000),
        "shape": st.sampled_from([(1,), (4,), (3, 2), (2, 1, 2)]),
        "action": st.sampled_from(
            [DiscreteSpace(n=1), DISCRETE, DiscreteSpace(n=40), ContinuousSpace(size=2)]
        ),
        "hidden": st.sampled_from([(5,), (8, 8), (64, 64), (16, 8, 4)]),
        "normalize": st.booleans(),
        "seen": st.sampled_from([0, 1, 100]),
        "activation": st.sampled_from(["tanh", "relu"]),
        "layer_norm": st.booleans(),
    }
)


@settings(max_examples=25, deadline=None)
@given(specs, st.data())
def test_onnx_says_what_torch_says(given_spec, data):
    source = make_source(**given_spec)
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    obs = np.concatenate([drawn(source, 60), np.zeros((1, *source.spec.observation_shape), np.float32)])
    if source.spec.normalize and given_spec["seen"] == 100:
        obs = np.concatenate([obs, np.float32(1e12) * np.sign(obs[:2] - 3), -obs[:2] * np.float32(1e6)])
    exported = encode("onnx", source, obs, lossy=False)
    if isinstance(source.spec.action, ContinuousSpace):
        found = run(exported.data, obs=obs)
        np.testing.assert_allclose(found["mean"], by_torch(source, obs), atol=1e-5, rtol=1e-5)
        np.testing.assert_array_equal(found["log_std"], source.weights["log_std"])
        np.testing.assert_array_equal(found["action"], found["mean"])
        return
    n = source.spec.action.n
    mask = rng.random((len(obs), n)) < 0.5
    mask[np.arange(len(obs)), rng.integers(n, size=len(obs))] = True
    found = run(exported.data, obs=obs, mask=mask)
    expected = by_torch(source, obs, mask)
    np.testing.assert_allclose(np.exp(found["log_probs"]), np.exp(expected), atol=1e-5)
    np.testing.assert_allclose(found["log_probs"][mask], expected[mask], atol=1e-5, rtol=1e-5)
    assert np.isneginf(found["log_probs"][~mask]).all()
    assert np.isneginf(found["logits"][~mask]).all()
    best = np.take_along_axis(found["log_probs"], found["action"][:, None], axis=1)[:, 0]
    np.testing.assert_array_equal(best, found["log_probs"].max(axis=1))
    assert mask[np.arange(len(obs)), found["action"]].all()


def test_an_onnx_file_names_its_version_shapes_and_opset():
    source = make_source(shape=(3, 2))
    exported = encode("onnx", source, lossy=False)
    assert exported.loss == ""
    assert exported.facts["opset"] == 17
    assert exported.facts["inputs"] == {"obs": "float32 [batch, 3, 2]", "mask": "bool [batch, 3]"}
    assert exported.facts["outputs"] == {
        "logits": "float32 [batch, 3]",
        "log_probs": "float32 [batch, 3]",
        "action": "int64 [batch]",
    }
    model = onnx.load_from_string(exported.data)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 17)]
    assert model.model_version == 7
    facts = {one.key: one.value for one in model.metadata_props}
    assert facts["version"] == "7"
    assert facts["model_sha256"] == "ab" * 32
    assert PolicySpec.from_json(json.loads(facts["spec"])) == source.spec


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_the_same_version_gives_the_same_bytes(name):
    source = make_source()
    first, second = (encode(name, source, lossy=True).data for _ in range(2))
    assert first == second


@pytest.mark.parametrize("action", [DISCRETE, ContinuousSpace(size=2)])
@pytest.mark.parametrize("name", ["safetensors", "npz"])
def test_the_plain_formats_hold_what_was_published(name, action):
    source = make_source(action=action)
    data = encode(name, source, lossy=False).data
    if name == "npz":
        arrays = dict(np.load(io.BytesIO(data), allow_pickle=False))
        facts = json.loads(str(arrays.pop("meta")))
    else:
        arrays = safetensors.numpy.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        facts = json.loads(header["learnerd"])
    assert facts["version"] == 7
    assert PolicySpec.from_json(facts["spec"]) == source.spec
    statistics = source.normalizer
    expected = {
        **source.weights,
        "normalizer.count": np.array([statistics.count]),
        "normalizer.mean": statistics.mean,
        "normalizer.m2": statistics.m2,
    }
    assert arrays.keys() == expected.keys()
    for key, array in expected.items():
        assert arrays[key].dtype == array.dtype
        np.testing.assert_array_equal(arrays[key], array)


def test_int8_needs_consent_and_tells_its_error():
    source = make_source(hidden=(64, 64))
    obs = drawn(source, 500)
    with pytest.raises(LossyExportError, match=r"version 7 as onnx_int8 .*8-bit weights; on 500 .*--lossy"):
        encode("onnx_int8", source, obs, lossy=False)
    exported = encode("onnx_int8", source, obs, lossy=True)
    mask = np.ones((500, 3), np.bool_)
    there = run(exported.data, obs=obs, mask=mask)["log_probs"]
    here = categorical_log_probs(policy_outputs(source.weights, source.spec, source.normalizer, obs))
    apart = np.abs(np.exp(here) - np.exp(there))
    figures = exported.facts["difference"]
    assert figures["probability_max"] == pytest.approx(apart.max(), abs=1e-6)
    assert figures["probability_mean"] == pytest.approx(apart.mean(), abs=1e-6)
    assert figures["logp_max"] == pytest.approx(np.abs(here - there).max(), abs=1e-6)
    assert figures["greedy_agreement"] == np.mean(here.argmax(axis=1) == there.argmax(axis=1))
    assert 1e-5 < figures["probability_max"] < 0.05
    assert len(exported.data) < 0.5 * len(encode("onnx", source, obs, lossy=False).data)


def test_int8_weights_are_the_nearest_of_255_levels():
    source = make_source(hidden=(8,))
    model = onnx.load_from_string(encode("onnx_int8", source, drawn(source), lossy=True).data)
    arrays = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    for i in range(2):
        weight = source.weights[f"policy.{i}.weight"]
        stored, scale = arrays[f"policy.{i}.weight.int8"], arrays[f"policy.{i}.weight.scale"]
        assert stored.dtype == np.int8
        assert np.abs(stored).max(axis=1).tolist() == [127] * len(weight)
        assert (np.abs(stored * scale[:, None] - weight) <= scale[:, None] * 0.5001).all()


def test_int8_of_continuous_actions_is_measured_in_their_deviations():
    source = make_source(action=ContinuousSpace(size=2))
    figures = encode("onnx_int8", source, drawn(source), lossy=True).facts["difference"]
    assert figures["deviations_max"] > 0
    assert "probability_max" not in figures


def test_an_export_that_is_not_exact_says_so(monkeypatch):
    source = make_source()
    other = make_source(seed=1)
    monkeypatch.setattr(
        "learnerd.export.formats.onnx._as_it_is",
        lambda graph, name, weight: graph.constant(name, other.weights[name]),
    )
    with pytest.raises(LossyExportError, match=r"outputs differ by up to .* rounding explains"):
        encode("onnx", source, lossy=False)
    assert encode("onnx", source, lossy=True).loss.startswith("its outputs differ")


def test_a_network_of_another_kind_is_refused_by_name():
    source = make_source()
    weights = {**source.weights, "policy.embedding.weight": np.zeros((5, 3), np.float32)}
    with pytest.raises(
        ExportError, match=r"version 7 .*policy\.embedding\.weight is \(5, 3\), expected None"
    ):
        encode("onnx", dataclasses.replace(source, weights=weights), drawn(source), lossy=True)


def test_a_field_that_may_change_the_arithmetic_is_refused_by_name(monkeypatch):
    source = make_source()
    further = {**source.spec.to_json(), "observation": {"kind": "image"}}
    monkeypatch.setattr(PolicySpec, "to_json", lambda spec: further)
    with pytest.raises(ExportError, match=r"the policy has observation .*image.*, expected none"):
        encode("onnx", source, lossy=True)
    assert encode("safetensors", source, lossy=False).data


def test_a_space_of_another_kind_is_refused_by_name():
    class Other(DiscreteSpace):
        pass

    source = make_source()
    spec = dataclasses.replace(source.spec, action=Other(n=3))
    with pytest.raises(ExportError, match="accepted by ONNX exports: discrete, continuous, multi"):
        encode("onnx", dataclasses.replace(source, spec=spec), drawn(source), lossy=True)


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    source = make_source()
    with pytest.raises(ExportError, match=r"onnx needs onnx and onnxruntime; .*learnerd\[onnx\]"):
        encode("onnx", source, lossy=False)
    assert encode("npz", source, lossy=False).data


def test_drawn_observations_follow_the_statistics():
    source = make_source(shape=(2,))
    rows = drawn(source, 4000)
    np.testing.assert_array_equal(rows, drawn(source, 4000))
    np.testing.assert_allclose(rows.mean(axis=0), source.normalizer.mean, atol=0.2)
    assert np.abs(source.normalizer.normalize(rows)).max() < 15


@pytest.fixture
def learned(site, make_episode):
    """A site with two versions, and what the second one learned from in the archive."""
    site.configure("")
    spec = make_source(shape=(3,)).spec
    store = CheckpointStore(site.state)
    first = store.publish(Delta(weights={}), base=initial_checkpoint(spec, seed=0), writer="x", episodes=[])
    rng = np.random.default_rng(0)
    change = {name: rng.standard_normal(array.shape) for name, array in first.weights.items()}
    store.publish(Delta(weights=change), base=first, writer="x", episodes=[])
    day = site.folder / "spool" / "archive" / "2026-11-21"
    day.mkdir(parents=True)
    write_shard(day / "00000002.parquet", [make_episode(steps=47, width=3)])
    write_shard(day / "00000003.parquet", [make_episode(steps=5, width=4)])  # another policy's
    return site


@pytest.fixture
def invoke(learned, monkeypatch):
    """Run ``learnerd export`` in this process."""
    monkeypatch.chdir(learned.folder)
    return lambda *arguments: CliRunner().invoke(cli.app, ["export", *arguments])


def test_the_command_writes_the_version_that_clients_act_with(learned):
    result = learned.learnerd("export", "--out", "p.onnx", "--json")
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    data = (learned.folder / "p.onnx").read_bytes()
    assert told["version"] == 2
    assert told["sha256"] == hashlib.sha256(data).hexdigest()
    assert told["loss"] == ""
    source = read_source(learned.state, 2)
    assert data == encode("onnx", source, lossy=False).data


def test_the_command_takes_a_version_and_a_format(learned, invoke):
    result = invoke("1", "--format", "npz")
    assert result.exit_code == 0, result.output
    assert "wrote policy-00000001.npz: version 1" in result.output
    assert sorted(learned.folder.glob("*policy*")) == [learned.folder / "policy-00000001.npz"]


def test_without_an_archive_observations_are_made_up(learned):
    shutil.rmtree(learned.folder / "spool" / "archive")
    assert archived(learned.folder / "spool" / "archive", read_source(learned.state, 2)) is None


def test_the_command_measures_int8_on_what_was_archived(learned, invoke):
    refused = invoke("--int8", "--out", "p.onnx")
    assert isinstance(refused.exception, LossyExportError)
    assert refused.exception.exit_code == 1
    assert "on 48 observations" in str(refused.exception)
    assert not (learned.folder / "p.onnx").exists()
    result = invoke("--int8", "--lossy", "--out", "p.onnx", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["measured_on"] == "archived"
    assert told["difference"]["observations"] == 48
    source = read_source(learned.state, 2)
    rows = archived(learned.folder / "spool" / "archive", source)
    assert rows.shape == (48, 3)
    assert encode("onnx_int8", source, rows, lossy=True).data == (learned.folder / "p.onnx").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["--format", "pickle"], 2, "accepted: onnx, safetensors, npz"),
        (["--format", "npz", "--int8"], 2, "accepted with --format onnx"),
        (["--out", "missing/p.onnx"], 2, "there is no folder missing"),
        (["9"], 1, "accepted: 1-2"),
    ],
)
def test_the_command_says_what_it_accepts(invoke, arguments, code, complaint):
    result = invoke(*arguments)
    assert result.exit_code == code
    assert complaint in " ".join(result.stderr.replace("│", " ").split())


def test_a_damaged_version_is_not_exported(learned, invoke):
    model = learned.state / "checkpoints" / "00000002" / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    result = invoke()
    assert result.exit_code == 1
    assert "version 2 is damaged: model.safetensors: has sha256" in result.stderr


def test_without_a_version_there_is_nothing_to_export(site):
    result = site.learnerd("export")
    assert result.returncode == 9
    assert "no version yet" in result.stderr


def test_the_registry_loads_nothing_heavy():
    heavy = "{'numpy', 'torch', 'onnx', 'pyarrow'}"
    script = f"import sys, learnerd.export, learnerd.cli.export; sys.exit(bool({heavy} & set(sys.modules)))"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", script], cwd=root, check=False).returncode == 0
    assert EXACT == ("onnx", "safetensors", "npz")
