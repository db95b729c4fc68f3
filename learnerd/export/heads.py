"""Heads: what a graph gives out, by the kind of action."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from learnerd.errors import ExportError
from learnerd.export.graph import Graph
from learnerd.export.source import Source
from policies.spec import (
    ActionSpace,
    ContinuousSpace,
    DiscreteSpace,
    MultiBinarySpace,
    MultiDiscreteSpace,
)

BATCH = "batch"

Head = Callable[[Graph, Source, str], tuple[list[Any], list[Any]]]
"""Adds itself to a graph behind the network's outputs; returns further inputs, and outputs."""


def head_of(source: Source) -> Head:
    """The head for a version's actions.

    Raises:
        ExportError: none is written yet.
    """
    head = HEADS.get(type(source.spec.action))
    if head is None:
        found = source.spec.action.to_json()
        kinds = ", ".join(kind.kind for kind in HEADS)
        raise ExportError(f"version {source.version}: action is {found}; accepted by ONNX exports: {kinds}")
    return head


def _categorical(graph: Graph, source: Source, rows: str) -> tuple[list[Any], list[Any]]:
    """Mask -> ``logits`` (-inf where forbidden), ``log_probs``, ``action`` (the likeliest)."""
    n = source.spec.action.outputs
    forbidden = graph.constant("forbidden", -np.inf)
    logits = graph.node("Where", "mask", rows, forbidden, out="logits")
    graph.node("LogSoftmax", logits, axis=-1, out="log_probs")
    graph.node("ArgMax", logits, axis=-1, keepdims=0, out="action")
    return [_tensor("mask", TensorProto.BOOL, [BATCH, n])], [
        _tensor("logits", TensorProto.FLOAT, [BATCH, n]),
        _tensor("log_probs", TensorProto.FLOAT, [BATCH, n]),
        _tensor("action", TensorProto.INT64, [BATCH]),
    ]


def _several(graph: Graph, source: Source, rows: str) -> tuple[list[Any], list[Any]]:
    """Several choices: mask, ``logits``, ``log_probs`` side by side, ``action`` with an index for each."""
    action = source.spec.action
    logits = graph.node("Where", "mask", rows, graph.constant("forbidden", -np.inf), out="logits")
    parts = graph.split(logits, action.factors)
    found = [graph.node("LogSoftmax", part, axis=-1) for part in parts]
    graph.node("Concat", *found, axis=1, out="log_probs")
    best = [graph.node("ArgMax", part, axis=-1, keepdims=1) for part in parts]
    graph.node("Concat", *best, axis=1, out="action")
    return _choices(action.outputs, action.outputs, len(action.factors))


def _binary(graph: Graph, source: Source, rows: str) -> tuple[list[Any], list[Any]]:
    """Numbers that are 0 or 1; mask: which may be 1; ``log_probs``: of 0 and of 1, in turn."""
    n = source.spec.action.outputs
    logits = graph.node("Where", "mask", rows, graph.constant("forbidden", -np.inf), out="logits")
    last = graph.constant("last_axis", [2], "int64")
    zeros = graph.node("Unsqueeze", graph.node("Sub", rows, rows), last)
    both = graph.node("Concat", zeros, graph.node("Unsqueeze", logits, last), axis=2)
    log_probs = graph.node("LogSoftmax", both, axis=-1)
    graph.node("Reshape", log_probs, graph.constant("pairs", [-1, 2 * n], "int64"), out="log_probs")
    graph.node("ArgMax", both, axis=2, keepdims=0, out="action")
    return _choices(n, 2 * n, n)


def _choices(logits: int, log_probs: int, actions: int) -> tuple[list[Any], list[Any]]:
    return [_tensor("mask", TensorProto.BOOL, [BATCH, logits])], [
        _tensor("logits", TensorProto.FLOAT, [BATCH, logits]),
        _tensor("log_probs", TensorProto.FLOAT, [BATCH, log_probs]),
        _tensor("action", TensorProto.INT64, [BATCH, actions]),
    ]


def _gaussian(graph: Graph, source: Source, rows: str) -> tuple[list[Any], list[Any]]:
    """``mean``, ``log_std`` (the same for all rows), ``action`` (the likeliest: the mean)."""
    size = source.spec.action.outputs
    graph.node("Identity", rows, out="mean")
    graph.node("Identity", graph.constant("policy.log_std", source.weights["log_std"]), out="log_std")
    graph.node("Identity", rows, out="action")
    return [], [
        _tensor("mean", TensorProto.FLOAT, [BATCH, size]),
        _tensor("log_std", TensorProto.FLOAT, [size]),
        _tensor("action", TensorProto.FLOAT, [BATCH, size]),
    ]


def _tensor(name: str, kind: int, shape: list[Any]) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


HEADS: Mapping[type[ActionSpace], Head] = {
    DiscreteSpace: _categorical,
    ContinuousSpace: _gaussian,
    MultiDiscreteSpace: _several,
    MultiBinarySpace: _binary,
}
