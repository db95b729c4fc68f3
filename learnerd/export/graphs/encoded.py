"""Networks behind encoders, as ``policies.forward`` computes them: images, indices, observations with parts.

The input is the observation as it is stored: one leaf in its own shape, several as one row, depth first and
keys sorted; indices from 0 on, pixels from 0 to 255.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from learnerd.export.graph import Graph
from learnerd.export.graphs.perceptron import add_layers, normalized
from learnerd.export.source import Source
from policies.checkpoint import Arrays
from policies.encoders import PIXEL_MAX, conv
from policies.spec import Part

Encode = Callable[[Graph, Part, Arrays, str], str]
"""Adds one encoder behind columns [batch, width]; returns its features [batch, k]."""


def refusal(source: Source) -> str:
    """Why this network has no encoders that are known here; "" when it has."""
    if source.spec.observation is None:
        return "the observation is a vector"
    unknown = [name for name in source.spec.encoders if name not in ENCODERS]
    return f"encoder is {unknown[0]!r}, expected {' or '.join(ENCODERS)}" if unknown else ""


def build(graph: Graph, source: Source, obs: str) -> str:
    """Add scaling, encoders and layers; returns the outputs [batch, k]."""
    spec = source.spec
    rows = graph.node("Reshape", obs, graph.constant("flat", [-1, spec.inputs], "int64"))
    features, begin = [], 0
    for part in spec.parts:
        number, leaf, *_ = part
        columns = _columns(graph, rows, leaf.start, leaf.stop)
        if not leaf.space.counts and spec.normalize:
            statistics = slice(begin, begin + leaf.space.width)
            columns, begin = normalized(graph, source, columns, statistics), statistics.stop
        elif leaf.space.kind == "image":
            columns = graph.node("Div", columns, graph.constant("pixel_max", PIXEL_MAX))
        features.append(ENCODERS[spec.encoders[number]](graph, part, source.weights, columns))
    return add_layers(graph, source, graph.node("Concat", *features, axis=1))


def _flat(graph: Graph, part: Part, weights: Arrays, columns: str) -> str:  # noqa: ARG001 - see ``Encode``
    return columns


def _onehot(graph: Graph, part: Part, weights: Arrays, columns: str) -> str:  # noqa: ARG001
    """A feature for each value of each index."""
    found = []
    for i, count in enumerate(part.leaf.space.counts):
        values = graph.constant(f"values.{count}", np.arange(count))
        equal = graph.node("Equal", _columns(graph, columns, i, i + 1), values)
        found.append(graph.node("Cast", equal, to=graph.FLOAT))
    return graph.node("Concat", *found, axis=1)


def _embedding(graph: Graph, part: Part, weights: Arrays, columns: str) -> str:
    """A row of a table for each index."""
    found = []
    for i, name in enumerate(part.shapes("policy")):
        index = graph.node("Cast", _columns(graph, columns, i, i + 1), to=graph.INT64)
        row = graph.node("Reshape", index, graph.constant("list", [-1], "int64"))
        found.append(graph.node("Gather", graph.matrix(name, weights[name]), row, axis=0))
    return graph.node("Concat", *found, axis=1)


def _conv(graph: Graph, part: Part, weights: Arrays, columns: str) -> str:
    """Convolutions, each followed by relu."""
    space, names = part.leaf.space, list(part.shapes("policy"))
    shape = graph.constant(f"image.{part.number}", [-1, *space.natural_shape], "int64")
    rows = graph.node("Transpose", graph.node("Reshape", columns, shape), perm=[0, 3, 1, 2])
    for layer, weight, bias in zip(conv.layers(space), names[::2], names[1::2], strict=True):
        kernel = graph.matrix(weight, weights[weight])
        offset = graph.constant(bias, weights[bias])
        rows = graph.node("Relu", graph.node("Conv", rows, kernel, offset, strides=[layer.stride] * 2))
    return graph.node("Flatten", rows, axis=1)


ENCODERS: Mapping[str, Encode] = {"flat": _flat, "onehot": _onehot, "embedding": _embedding, "conv": _conv}


def _columns(graph: Graph, rows: str, begin: int, end: int) -> str:
    bounds: Sequence[str] = [graph.constant(f"at.{one}", [one], "int64") for one in (begin, end, 1)]
    return graph.node("Slice", rows, *bounds)
