"""Inputs: stored observations as the rows that networks take, for the actor and the learner alike."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.normalizer import RunningStatistics
from policies.spec import PolicySpec

Rows = NDArray[np.float32]


def network_inputs(spec: PolicySpec, statistics: RunningStatistics, obs: NDArray[Any]) -> NDArray[Any]:
    """Return stored observations [B, *shape] as rows [B, inputs]: float32, or bytes where all are bytes.

    Real numbers are normalized with ``statistics`` when ``spec.normalize``. Pixels, indices and binary ones
    stay as they are: bytes take a quarter of the memory, and the encoders know what to make of them.
    """
    rows = obs.reshape(len(obs), spec.inputs)
    if spec.observation is not None and spec.observation.stored_dtype == "uint8":
        return rows.astype(np.uint8, copy=False)
    rows = rows.astype(np.float32, copy=False)
    if not spec.normalize:
        return rows
    return statistics.normalize(rows) if spec.observation is None else _normalized(spec, statistics, rows)


def real_numbers(spec: PolicySpec, obs: NDArray[Any]) -> NDArray[Any]:
    """Return what the statistics of the observations are of: [B, spec.statistics] of [B, *shape]."""
    rows = obs.reshape(len(obs), spec.inputs)
    if spec.observation is None:
        return rows
    leaves = [part.leaf for part in spec.parts if not part.leaf.space.counts]
    return np.concatenate([rows[:, :0], *(rows[:, leaf.start : leaf.stop] for leaf in leaves)], axis=1)


def _normalized(spec: PolicySpec, statistics: RunningStatistics, rows: Rows) -> Rows:
    """Replace the real numbers, which come first among ``spec.parts``, by normalized ones."""
    result = rows.copy()
    normalized = statistics.normalize(real_numbers(spec, rows))
    begin = 0
    for part in spec.parts:
        _, space, start, stop = part.leaf
        if not space.counts:
            result[:, start:stop] = normalized[:, begin : begin + space.width]
            begin += space.width
    return result
