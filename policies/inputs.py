"""Inputs: stored observations as the rows that networks see; the one place where anything is scaled."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from experience.spaces import ImageSpace
from policies.normalizer import RunningStatistics
from policies.spec import PolicySpec

Rows = NDArray[np.float32]
PIXEL_MAX = np.float32(255)


def network_inputs(spec: PolicySpec, statistics: RunningStatistics, obs: NDArray[Any]) -> Rows:
    """Return stored observations [B, *shape] as float32 rows [B, inputs].

    Real numbers are normalized with ``statistics`` when ``spec.normalize``, pixels divided by 255; indices
    and binary numbers stay as they are.
    """
    rows: Rows = obs.reshape(len(obs), spec.inputs).astype(np.float32, copy=False)
    if spec.observation is None:
        return statistics.normalize(rows) if spec.normalize else rows
    return _scale(spec, statistics, rows)


def real_numbers(spec: PolicySpec, obs: NDArray[Any]) -> NDArray[Any]:
    """Return what the statistics of the observations are of: [B, spec.statistics] of [B, *shape]."""
    rows = obs.reshape(len(obs), spec.inputs)
    if spec.observation is None:
        return rows
    leaves = [part.leaf for part in spec.parts if not part.leaf.space.counts]
    return np.concatenate([rows[:, :0], *(rows[:, leaf.start : leaf.stop] for leaf in leaves)], axis=1)


def _scale(spec: PolicySpec, statistics: RunningStatistics, rows: Rows) -> Rows:
    scaled = rows.copy()
    normalized = statistics.normalize(real_numbers(spec, rows)) if spec.normalize else None
    begin = 0
    for part in spec.parts:
        _, space, start, stop = part.leaf
        if isinstance(space, ImageSpace):
            scaled[:, start:stop] /= PIXEL_MAX
        elif not space.counts and normalized is not None:
            scaled[:, start:stop] = normalized[:, begin : begin + space.width]
            begin += space.width
    return scaled
