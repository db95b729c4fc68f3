"""Graph: an ONNX graph that is put together node by node."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8
"""Both of 2022: every runtime that is in use reads them."""

Matrix = Callable[["Graph", str, NDArray[np.float32]], str]
"""Puts a weight matrix into a graph; returns the name of its float32 value."""


class Graph:
    """Nodes and constants; a value is known by its name.

    Args:
        matrix: how weight matrices are stored.
    """

    FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64

    def __init__(self, matrix: Matrix) -> None:
        self._matrix = matrix
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        """Store an array; the same name again is the same array."""
        self._constants.setdefault(name, numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def matrix(self, name: str, weight: NDArray[np.float32]) -> str:
        """Store a weight matrix."""
        return self._matrix(self, name, weight)

    def node(self, kind: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        """Add an operation of one output; returns its name."""
        out = out or f"{kind.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [out], name=out, **attributes))
        return out

    def split(self, rows: str, widths: tuple[int, ...]) -> list[str]:
        """Cut columns into parts of these widths."""
        names = [f"part_{len(self._nodes)}_{i}" for i in range(len(widths))]
        cuts = self.constant(f"{names[0]}.widths", widths, "int64")
        self._nodes.append(helper.make_node("Split", [rows, cuts], names, name=names[0], axis=1))
        return names

    def model(
        self, *, inputs: list[Any], outputs: list[Any], version: int, producer: str, facts: dict[str, str]
    ) -> bytes:
        """The whole as a checked file, the same bytes each time."""
        graph = helper.make_graph(
            self._nodes, "policy", inputs, outputs, initializer=list(self._constants.values())
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="learnerd",
            producer_version=producer,
            model_version=version,
        )
        helper.set_model_props(model, facts)
        onnx.checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString(deterministic=True))
