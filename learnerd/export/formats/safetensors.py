"""Safetensors: the policy network and its statistics as published, without value network and optimizer."""

import json

import numpy as np
from numpy.typing import NDArray

from learnerd.export.source import Exported, Source
from policies.manifest import encode_model


def encode(source: Source, observations: NDArray[np.float32] | None) -> Exported:  # noqa: ARG001 - it is exact
    """The version's own arrays, under their names in ``model.safetensors``; the facts as metadata."""
    metadata = {"learnerd": json.dumps(source.facts())}  # one entry: several come in any order
    return Exported(data=encode_model(source.weights, source.normalizer, metadata))
