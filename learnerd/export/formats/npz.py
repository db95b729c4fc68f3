"""Npz: the same arrays as in the safetensors export, for those who have NumPy or a reader of it."""

import io
import json

import numpy as np
from numpy.typing import NDArray

from learnerd.export.source import Exported, Source


def encode(source: Source, observations: NDArray[np.float32] | None) -> Exported:  # noqa: ARG001 - it is exact
    """The version's own arrays; the facts are the JSON string ``meta``."""
    statistics = source.normalizer
    stream = io.BytesIO()
    np.savez(
        stream,
        allow_pickle=False,
        meta=np.array(json.dumps(source.facts())),
        **source.weights,
        **{
            "normalizer.count": np.array([statistics.count]),
            "normalizer.mean": statistics.mean,
            "normalizer.m2": statistics.m2,
        },
    )
    return Exported(data=stream.getvalue())
