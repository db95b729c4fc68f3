"""The multilayer perceptron of vectors, with its normalization, as ``policies.forward`` computes it."""

import itertools

import numpy as np

from learnerd.export.graph import Graph
from learnerd.export.source import Source
from policies.normalizer import CLIP
from policies.spec import LAYER_NORM_EPSILON

UNDERSTOOD = {"observation_shape", "action", "hidden", "activation", "normalize", "layer_norm"}
"""Fields of a spec; one that is not among them may change what is computed."""

ACTIVATIONS = {"tanh": "Tanh", "relu": "Relu"}


def refusal(source: Source) -> str:
    """Why this is no perceptron of vectors; "" when it is one. The weights themselves are asked."""
    spec, weights = source.spec, source.weights
    if further := sorted(spec.to_json().keys() - UNDERSTOOD):
        return f"the policy has {further[0]} {spec.to_json()[further[0]]}, expected none"
    widths = (spec.inputs, *spec.hidden, spec.action.outputs)
    expected = {"log_std": weights["log_std"].shape} if "log_std" in weights else {}
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
        expected |= {f"policy.{i}.weight": (fan_out, fan_in), f"policy.{i}.bias": (fan_out,)}
    found = {name: array.shape for name, array in weights.items()}
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            return f"weight {name} is {found.get(name)}, expected {expected.get(name)}"
    if spec.activation not in ACTIVATIONS:
        return f"activation is {spec.activation!r}, expected {' or '.join(ACTIVATIONS)}"
    return ""


def build(graph: Graph, source: Source, obs: str) -> str:
    """Add flattening, normalization and layers; y = W_n · act(… act(W_0 x̂ + b_0)) + b_n, [batch, k]."""
    spec = source.spec
    rows = obs
    if len(spec.observation_shape) != 1:
        rows = graph.node("Reshape", rows, graph.constant("flat", [-1, spec.inputs], "int64"))
    if spec.normalize:
        rows = normalized(graph, source, rows, slice(None))
    return add_layers(graph, source, rows)


def normalized(graph: Graph, source: Source, rows: str, columns: slice) -> str:
    """x̂ = clip((x - mean) / sqrt(var + 1e-8), ±10), with the float32 figures that the learner uses.

    Args:
        graph: where it is added.
        source: whose statistics.
        rows: [batch, width].
        columns: which of the statistics are theirs.
    """
    mean, inverse = (array[columns] for array in source.normalizer.scale())
    which = "" if columns.start is None else f".{columns.start}"
    centered = graph.node("Sub", rows, graph.constant(f"normalizer.mean{which}", mean))
    scaled = graph.node("Mul", centered, graph.constant(f"normalizer.inverse_std{which}", inverse))
    return graph.node("Clip", scaled, graph.constant("least", -CLIP), graph.constant("most", CLIP))


def add_layers(graph: Graph, source: Source, rows: str) -> str:
    """Add y = W_n · act(… act(W_0 x̂ + b_0)) + b_n behind rows x̂; returns its name, [batch, k]."""
    spec, weights = source.spec, source.weights
    last = len(spec.hidden)
    for i in range(last + 1):
        weight = graph.matrix(f"policy.{i}.weight", weights[f"policy.{i}.weight"])
        bias = graph.constant(f"policy.{i}.bias", weights[f"policy.{i}.bias"])
        rows = graph.node("Gemm", rows, weight, bias, transB=1)
        if i < last:
            sums = _standardize(graph, rows, spec.hidden[i]) if spec.layer_norm else rows
            rows = graph.node(ACTIVATIONS[spec.activation], sums)
    return rows


def _standardize(graph: Graph, rows: str, width: int) -> str:
    """Layer normalization over a layer's units, without a learned gain and bias."""
    gain = graph.constant(f"gain.{width}", np.ones(width))
    return graph.node("LayerNormalization", rows, gain, axis=-1, epsilon=LAYER_NORM_EPSILON)
