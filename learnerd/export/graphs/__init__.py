"""Kinds of networks that an ONNX graph can hold; a module each."""

import importlib
from typing import Protocol, cast

from learnerd.errors import ExportError
from learnerd.export.graph import Graph
from learnerd.export.source import Source

GRAPHS = ("perceptron", "encoded")
"""Each is ``learnerd.export.graphs.<name>`` with the functions of ``Network``."""


class Network(Protocol):
    """What such a module has."""

    def refusal(self, source: Source) -> str:
        """Why this is no network of this kind; "" when it is one."""

    def build(self, graph: Graph, source: Source, obs: str) -> str:
        """Add the network to a graph; returns the name of its outputs [batch, k]."""


def network_of(source: Source) -> Network:
    """The kind of network that a version has.

    Raises:
        ExportError: none that can be written as ONNX.
    """
    reasons = []
    for name in GRAPHS:
        network = cast("Network", importlib.import_module(f"{__name__}.{name}"))
        reason = network.refusal(source)
        if not reason:
            return network
        reasons.append(f"{name}: {reason}")
    raise ExportError(
        f"version {source.version} cannot be written as ONNX: {'; '.join(reasons)}; "
        f"accepted: {', '.join(GRAPHS)}"
    )
