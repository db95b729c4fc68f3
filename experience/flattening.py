"""Flattening: an observation of any space as one row of numbers, and the one rule by which that is done.

Depth first, keys sorted, positions in order; each leaf is raveled in C order. A discrete number is stored as
its index from 0 on, a binary one as 0 or 1, a pixel as its byte: nothing is scaled or encoded here, so that a
row holds all that the client saw. A space that is a single leaf keeps its own shape.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experience.spaces import BoxSpace, DictSpace, ImageSpace, LeafSpace, Space, TupleSpace

Array = NDArray[Any]
IMAGE_AXES = 3


class Mismatch(ValueError):  # noqa: N818 - a fact about two spaces
    """An observation is not of its space.

    Attributes:
        path: of the leaf; "" for the whole.
        found, accepted: what was given, and what would be accepted.
    """

    def __init__(self, path: str, found: str, accepted: str) -> None:
        super().__init__(f"{f'obs.{path}' if path else 'obs'} is {found}; accepted: {accepted}")
        self.path, self.found, self.accepted = path, found, accepted


def flatten(space: Space, obs: Any, *, lead: tuple[int, ...] = ()) -> Array:
    """Return observations as stored, [*lead, *stored_shape] of the space's dtype.

    Args:
        space: what they are.
        obs: nested as the client has them: dicts, tuples or lists, arrays and numbers.
        lead: shape in front of every leaf: () for one observation, (B,) for a batch.

    Raises:
        Mismatch: naming the leaf.
    """
    if isinstance(space, LeafSpace):
        rows = leaf_rows("", space, obs, lead)
    else:
        parts = [leaf_rows(*part, lead) for part in _leaf_values(space, obs, "")]
        rows = np.concatenate([as_stored(part, space) for part in parts], axis=-1)
    return as_stored(rows, space).reshape(*lead, *space.stored_shape)


def as_stored(rows: Array, space: Space) -> Array:
    """Return checked numbers in the space's dtype; what is beyond float32 becomes infinite."""
    with np.errstate(over="ignore"):
        return rows.astype(space.stored_dtype, copy=False)


def leaf_rows(path: str, space: LeafSpace, value: Any, lead: tuple[int, ...]) -> Array:
    """Return the values of one leaf, [*lead, width], checked and counted from 0."""
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise Mismatch(path, "ragged", f"shape {[*lead, *space.natural_shape]}") from error
    shape = (*lead, *space.natural_shape)
    if array.shape != shape:
        if not space.natural_shape and array.shape == (*lead, 1):
            array = array.reshape(lead)
        else:
            raise Mismatch(path, f"of shape {list(array.shape)}", f"shape {list(shape)}, {space}")
    if array.dtype.kind not in "biuf":
        raise Mismatch(path, f"of {array.dtype}", f"numbers, {space}")
    if space.first:
        array = array - np.int64(space.first)  # a plain int may not fit the array's own type
    check_counts(path, space, array.reshape(*lead, space.width))
    return array.reshape(*lead, space.width)


def check_counts(path: str, space: LeafSpace, rows: Array) -> None:
    """Refuse numbers [..., width] that are not among those that a leaf counts, from 0 on.

    Raises:
        Mismatch: naming the first.
    """
    if not space.counts or rows.size == 0:
        return
    if rows.dtype == np.uint8 and min(space.counts) >= 256:  # noqa: PLR2004 - every byte is allowed
        return
    good = (rows >= 0) & (rows < np.asarray(space.counts))
    if rows.dtype.kind == "f":
        good &= rows == np.floor(rows)
    if not good.all():
        bad = rows[~good][0] + space.first
        raise Mismatch(path, str(bad), f"whole numbers as in {space}")


def check_stored(space: Space, rows: Array) -> None:
    """Refuse stored observations [N, *stored_shape] whose numbers are not of their space.

    Raises:
        Mismatch: naming the leaf.
    """
    if rows.shape[1:] != space.stored_shape:
        raise Mismatch("", f"of shape {list(rows.shape[1:])}", f"shape {list(space.stored_shape)}, {space}")
    flat = rows.reshape(len(rows), space.width)
    for path, leaf, start, stop in space.leaves:
        check_counts(path, leaf, flat[:, start:stop])


def infer_space(obs: Any) -> Space:
    """Return what an observation says of its own space: dicts, tuples, images (uint8 [H, W, C]), else boxes.

    Args:
        obs: one observation; a list counts as an array, unless it is ragged or there is a dict in it.

    Raises:
        ValueError: it has parts without a name, or none.
    """
    if isinstance(obs, Mapping | tuple | list) and len(obs) == 0:
        raise ValueError("an observation, or a part of one, without numbers; accepted: at least one")
    if isinstance(obs, Mapping):
        return DictSpace({name: infer_space(value) for name, value in obs.items()})
    if isinstance(obs, tuple) or (isinstance(obs, list) and any(isinstance(value, dict) for value in obs)):
        return TupleSpace(spaces=tuple(infer_space(value) for value in obs))
    try:
        array = np.asarray(obs)
    except ValueError:
        return TupleSpace(spaces=tuple(infer_space(value) for value in obs))
    if array.dtype == np.uint8 and array.ndim == IMAGE_AXES:
        return ImageSpace(shape=array.shape)
    return BoxSpace(shape=array.shape)


def is_nested(obs: Any) -> bool:
    """Whether an observation has parts: a dict, or a list with one in it."""
    return isinstance(obs, dict) or (
        isinstance(obs, (list, tuple)) and any(isinstance(value, dict) for value in obs)
    )


def _leaf_values(space: Space, obs: Any, path: str) -> list[tuple[str, LeafSpace, Any]]:
    if isinstance(space, LeafSpace):
        return [(path, space, obs)]
    if isinstance(space, DictSpace):
        names = [name for name, _ in space.items]
        if not isinstance(obs, Mapping) or set(obs) != set(names):
            found = f"parts {sorted(map(str, obs))}" if isinstance(obs, Mapping) else type(obs).__name__
            raise Mismatch(path, found, f"parts {names}")
        parts: list[tuple[str, Space, Any]] = [(name, part, obs[name]) for name, part in space.items]
    else:
        assert isinstance(space, TupleSpace)
        if not isinstance(obs, (list, tuple)) or len(obs) != len(space.spaces):
            found = f"{len(obs)} parts" if isinstance(obs, (list, tuple)) else type(obs).__name__
            raise Mismatch(path, found, f"{len(space.spaces)} parts")
        parts = [(str(i), part, obs[i]) for i, part in enumerate(space.spaces)]
    found_leaves: list[tuple[str, LeafSpace, Any]] = []
    for name, part, value in parts:
        found_leaves += _leaf_values(part, value, f"{path}.{name}" if path else name)
    return found_leaves
