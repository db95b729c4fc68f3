"""Difference of two versions, for people: weights layer by layer, counters, episodes."""

from typing import Any

import numpy as np

from policies.checkpoint import Checkpoint


def difference(old: Checkpoint, new: Checkpoint) -> dict[str, Any]:
    """How far apart two versions are, as plain JSON.

    ``weights``: Euclidean norms of each array and of its change, ``relative`` to the old norm, and of ``all``
    of them; arrays of another shape are left out. ``episodes``: learned between the two.
    """
    shared = [name for name in sorted(old.weights) if _shape(old, name) == _shape(new, name)]
    rows = {name: _norms([old.weights[name]], [new.weights[name]]) for name in shared}
    rows["all"] = _norms([old.weights[name] for name in shared], [new.weights[name] for name in shared])
    counters = {
        name: [old.counters.get(name, 0), new.counters.get(name, 0)]
        for name in sorted({*old.counters, *new.counters})
    }
    return {
        "versions": [old.version, new.version],
        "same_spec": old.spec == new.spec,
        "weights": rows,
        "observations": [old.normalizer.count, new.normalizer.count],
        "counters": counters,
        "episodes": abs(new.counters.get("episodes", 0) - old.counters.get("episodes", 0)),
    }


def _shape(checkpoint: Checkpoint, name: str) -> tuple[int, ...] | None:
    return checkpoint.weights[name].shape if name in checkpoint.weights else None


def _norms(old: list[Any], new: list[Any]) -> dict[str, float]:
    before = _norm(old)
    moved = _norm([np.asarray(b, np.float64) - a for a, b in zip(old, new, strict=True)])
    return {"old": before, "new": _norm(new), "difference": moved, "relative": moved / max(before, 1e-12)}


def _norm(arrays: list[Any]) -> float:
    return float(np.sqrt(sum(float(np.square(array, dtype=np.float64).sum()) for array in arrays)))
