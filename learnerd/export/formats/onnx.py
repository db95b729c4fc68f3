"""ONNX in float32: the normalization, the network, the mask and the log-probabilities in one graph."""

import numpy as np
from numpy.typing import NDArray

from learnerd.export.graph import Graph
from learnerd.export.measure import differences
from learnerd.export.observations import drawn
from learnerd.export.onnx_model import build, outputs_of
from learnerd.export.source import Exported, Source


def encode(source: Source, observations: NDArray[np.float32] | None) -> Exported:  # noqa: ARG001 - it is exact
    """The version as ONNX; run once in onnxruntime, on made-up observations, before it is given out."""
    data, facts = build(source, _as_it_is)
    probes = drawn(source)
    found = differences(source, probes, outputs_of(data, source, probes))
    loss = ""
    if not found["output_max"] <= found["output_limit"]:
        rounding = f"rounding explains {found['output_limit']:.3g}"
        loss = f"its outputs differ by up to {found['output_max']:.3g}, {rounding}"
    return Exported(data=data, facts=facts | {"difference": found}, loss=loss)


def _as_it_is(graph: Graph, name: str, weight: NDArray[np.float32]) -> str:
    return graph.constant(name, weight)
