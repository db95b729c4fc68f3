"""Nesting: stored rows as Gymnasium's nested arrays, and its spaces from ours."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experience.space_parsing import space_of
from experience.spaces import Space


def unflatten(gym_space: Any, rows: NDArray[Any]) -> Any:
    """Undo ``experience.flattening.flatten`` for a batch.

    Args:
        gym_space: the space, as an object of Gymnasium's, which knows the types of its arrays.
        rows: [N, *stored_shape].

    Returns:
        Arrays [N, …], in dicts and tuples as the space has them.
    """
    space = space_of(gym_space)
    flat = rows.reshape(len(rows), space.width)
    leaves = {leaf.path: (leaf.space.first, flat[:, leaf.start : leaf.stop]) for leaf in space.leaves}
    return _nested(gym_space, leaves, "")


def _nested(gym_space: Any, leaves: Mapping[str, tuple[int, NDArray[Any]]], path: str) -> Any:
    parts = getattr(gym_space, "spaces", None)
    if parts is None:
        first, columns = leaves[path]
        values = columns.reshape(len(columns), *gym_space.shape)
        return (values + first if first else values).astype(gym_space.dtype)
    prefix = f"{path}." if path else ""
    if isinstance(parts, Mapping):
        return {name: _nested(part, leaves, f"{prefix}{name}") for name, part in parts.items()}
    return tuple(_nested(part, leaves, f"{prefix}{index}") for index, part in enumerate(parts))


def same(left: Any, right: Any) -> bool:
    """Whether two nested values hold the same numbers, of the same types."""
    if isinstance(left, Mapping):
        return left.keys() == right.keys() and all(same(left[name], right[name]) for name in left)
    if isinstance(left, tuple):
        return len(left) == len(right) and all(map(same, left, right))
    first, second = np.asarray(left), np.asarray(right)
    return first.dtype == second.dtype and np.array_equal(first, second)


def gym_space_of(data: Mapping[str, Any] | Space) -> Any:
    """Return Gymnasium's space for one of ours, or its JSON.

    Raises:
        ValueError: it is none.
    """
    from gymnasium import spaces  # noqa: PLC0415 - an extra

    found = dict(data.to_json() if isinstance(data, Space) else data)
    made: Any = None
    match found:
        case {"kind": "dict"}:
            made = spaces.Dict({name: gym_space_of(part) for name, part in found["spaces"].items()})
        case {"kind": "tuple"}:
            made = spaces.Tuple([gym_space_of(part) for part in found["spaces"]])
        case {"kind": "box" | "continuous", "shape": shape}:
            made = spaces.Box(-np.inf, np.inf, tuple(shape), np.float32)
        case {"kind": "image", "shape": shape}:
            made = spaces.Box(0, 255, tuple(shape), np.uint8)
        case {"kind": "discrete", "n": n}:
            made = spaces.Discrete(n, start=found.get("start", 0))
        case {"kind": "multi_discrete", "nvec": nvec}:
            made = spaces.MultiDiscrete(nvec)
        case {"kind": "multi_binary", "n": n}:
            made = spaces.MultiBinary(n)
        case _:
            raise ValueError(f"space is {found!r}; it cannot be one of Gymnasium's")
    return made
