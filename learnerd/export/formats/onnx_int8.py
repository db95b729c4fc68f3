"""ONNX with the weight matrices in 8 bits: a quarter of the bytes, and not exact.

Each row of a matrix (each channel of a convolution) is stored as round(w / s) with s = max |w| / 127
(symmetric, per output channel: Jacob et al. 2018, section 2.1, without zero points); a DequantizeLinear node
multiplies it out when it is loaded.
Biases, normalization and activations stay float32.
"""

import numpy as np
from numpy.typing import NDArray

from learnerd.export.graph import Graph
from learnerd.export.measure import differences
from learnerd.export.observations import drawn
from learnerd.export.onnx_model import build, outputs_of
from learnerd.export.source import Exported, Source

LEVELS = 127.0


def encode(source: Source, observations: NDArray[np.float32] | None) -> Exported:
    """The version with 8-bit weights, and how far it is off on ``observations``; None: on made-up ones."""
    data, facts = build(source, _quantized)
    rows = drawn(source) if observations is None else observations
    found = differences(source, rows, outputs_of(data, source, rows))
    return Exported(data=data, facts=facts | {"difference": found}, loss=_loss(found))


def _quantized(graph: Graph, name: str, weight: NDArray[np.float32]) -> str:
    largest = np.abs(weight).max(axis=tuple(range(1, weight.ndim)), keepdims=True)
    scale = np.where(largest > 0, largest / np.float32(LEVELS), np.float32(1)).astype(np.float32)
    rounded = np.clip(np.rint(weight / scale), -LEVELS, LEVELS)
    stored = graph.constant(f"{name}.int8", rounded, np.int8)
    return graph.node("DequantizeLinear", stored, graph.constant(f"{name}.scale", scale.reshape(-1)), axis=0)


def _loss(found: dict[str, float]) -> str:
    text = f"8-bit weights; on {found['observations']} observations "
    if "probability_max" not in found:
        return f"{text}the mean is off by up to {found['deviations_max']:.3g} standard deviations"
    return (
        f"{text}probabilities are off by up to {found['probability_max']:.3g} "
        f"(mean {found['probability_mean']:.3g}), log-probabilities by up to {found['logp_max']:.3g}; "
        f"the likeliest action is the same in {found['greedy_agreement']:.2%}"
    )
