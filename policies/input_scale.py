"""Input scale: the first layers are carried over when the statistics of the observations move.

A layer sees x̂ = (x - mean) / s. Under new statistics W' = W diag(s' / s), b' = b + W (mean' - mean) / s give
the same sums for every observation, but for the clipping: what was learned is not disturbed by a publish. It
is what PopArt does for the value network's outputs (van Hasselt et al. 2016, eq. 3), done for the inputs.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.checkpoint import Checkpoint, Delta
from policies.normalizer import EPSILON, RunningStatistics

Floats = NDArray[np.float64]

FIRST_LAYERS = ("policy.0", "value.0")


def carry_over(
    arrays: Mapping[str, NDArray[Any]], *, old: RunningStatistics, new: RunningStatistics, prefix: str = ""
) -> dict[str, NDArray[Any]]:
    """Express first layers that were trained under ``old`` statistics in ``new`` ones.

    Args:
        arrays: weights by name, or the proximal weights, whose names begin with ``prefix``; others are kept.
        old: the statistics that they were trained under; nothing changes when it has no observations.
        new: the statistics that they will see; likewise.
        prefix: "" or "prox.".

    Returns:
        All of ``arrays``, the changed ones as float64.
    """
    result = dict(arrays)
    if old.count == 0 or new.count == 0 or old is new:
        return result
    (mean, scale), (new_mean, new_scale) = _moments(old), _moments(new)
    for layer in FIRST_LAYERS:
        weight, bias = f"{prefix}{layer}.weight", f"{prefix}{layer}.bias"
        if weight in arrays:
            before = np.asarray(arrays[weight], np.float64)
            seen = before[:, : len(mean)]  # what encoders make of the rest follows
            result[weight] = np.hstack([seen * (new_scale / scale), before[:, len(mean) :]])
            result[bias] = np.asarray(arrays[bias], np.float64) + seen @ ((new_mean - mean) / scale)
    return result


def change_in(
    base: Checkpoint,
    delta: Delta,
    *,
    old: RunningStatistics,
    new: RunningStatistics,
    since: Checkpoint | None = None,
) -> Delta:
    """Express what a writer did since ``base`` in ``new`` statistics.

    Args:
        base: what it began with.
        delta: its change, of weights that see ``old`` statistics.
        old: the statistics that its weights see.
        new: the statistics that they will see.
        since: what the result is a change of; None: ``base`` as it is.
    """
    start = base.weights if since is None else since.weights
    ours = {name: np.asarray(array, np.float64) for name, array in base.weights.items()}
    ours |= {name: ours[name] + change for name, change in delta.weights.items()}
    after = carry_over(ours, old=old, new=new)
    values = {name: np.asarray(average.value) for name, average in delta.averages.items()}
    moved = carry_over(values, old=old, new=new, prefix="prox.")
    return replace(
        delta,
        weights={name: after[name] - np.asarray(start[name], np.float64) for name in delta.weights},
        averages={
            name: replace(average, value=moved[name].astype(values[name].dtype))
            for name, average in delta.averages.items()
        },
    )


def _moments(statistics: RunningStatistics) -> tuple[Floats, Floats]:
    return statistics.mean, np.sqrt(statistics.m2 / statistics.count + EPSILON)
