"""A version as an ONNX model, and what onnxruntime makes of it."""

import json
from importlib.metadata import version as installed
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from learnerd.export.graph import OPSET, Graph, Matrix
from learnerd.export.graphs import network_of
from learnerd.export.heads import BATCH, head_of
from learnerd.export.source import Source
from policies.spec import ContinuousSpace

ERRORS_ONLY = 3


def build(source: Source, matrix: Matrix) -> tuple[bytes, dict[str, Any]]:
    """The file, and its inputs and outputs as {"obs": "float32 [batch, 4]", …}.

    Raises:
        ExportError: this policy cannot be written as ONNX.
    """
    graph = Graph(matrix)
    network, head = network_of(source), head_of(source)
    shape: list[str | int | None] = [BATCH, *source.spec.observation_shape]
    obs = helper.make_tensor_value_info("obs", TensorProto.FLOAT, shape)
    further, outputs = head(graph, source, network.build(graph, source, "obs"))
    inputs = [obs, *further]
    data = graph.model(
        inputs=inputs,
        outputs=outputs,
        version=source.version,
        producer=installed("learnerd"),
        facts={key: _text(value) for key, value in source.facts().items()},
    )
    shapes = {"inputs": _shapes(inputs), "outputs": _shapes(outputs)}
    return data, {"opset": OPSET, **shapes}


def outputs_of(data: bytes, source: Source, observations: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits or means [n, k] as onnxruntime computes them, on one thread, everything allowed."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    feed: dict[str, Any] = {"obs": observations}
    if not isinstance(source.spec.action, ContinuousSpace):
        feed["mask"] = np.ones((len(observations), source.spec.action.outputs), np.bool_)
    found: NDArray[np.float32] = session.run([session.get_outputs()[0].name], feed)[0]
    return found


def _shapes(values: list[Any]) -> dict[str, str]:
    names = {TensorProto.FLOAT: "float32", TensorProto.BOOL: "bool", TensorProto.INT64: "int64"}
    found = {}
    for value in values:
        tensor = value.type.tensor_type
        shape = ", ".join(str(one.dim_param or one.dim_value) for one in tensor.shape.dim)
        found[value.name] = f"{names[tensor.elem_type]} [{shape}]"
    return found


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
