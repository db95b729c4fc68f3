"""Parts: observations that stand in a file part by part, put together as stored rows.

In npz and tables a part has a field of its own, ``obs.<path>``; in JSON an observation is nested as the
client has it. Both become the flat rows of ``experience.flattening``.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experience.codec.arrays import Array
from experience.errors import InputError, reject
from experience.flattening import (
    Mismatch,
    as_stored,
    check_stored,
    flatten,
    infer_space,
    is_nested,
    leaf_rows,
)
from experience.spaces import Space, TupleSpace

PREFIXES = ("obs.", "final_obs.")


def has_parts(names: Mapping[str, Any]) -> bool:
    """Whether observations stand part by part."""
    return any(name.startswith("obs.") for name in names)


def check_parts(columns: Mapping[str, Array], final_obs: Array | None) -> None:
    """Refuse observations that stand whole and part by part, or final parts of observations without parts.

    Raises:
        InputError: naming the field.
    """
    parts = sorted(name for name in columns if name.startswith(PREFIXES))
    if not parts:
        return
    whole = "obs" if "obs" in columns else "final_obs" if final_obs is not None else None
    if whole is not None:
        raise reject("bad_value", whole, f"given beside {parts[0]}", "whole, or part by part")
    if not has_parts(columns):
        raise reject("missing_field", "obs", f"left out beside {parts[0]}", "its parts too, or final_obs")


def join_parts(columns: Mapping[str, Array], prefix: str, space: Space, lead: tuple[int, ...]) -> Array:
    """Put the arrays ``<prefix>.<path>`` together as stored rows [*lead, width].

    Args:
        columns: all step fields; others are left alone.
        prefix: "obs" or "final_obs".
        space: what they are parts of.
        lead: (rows,), or () for a single observation.

    Raises:
        InputError: a part is missing, is none of the space's, or does not fit it.
    """
    start = f"{prefix}."
    given = {n.removeprefix(start): array for n, array in columns.items() if n.startswith(start)}
    paths = [leaf.path for leaf in space.leaves]
    if set(given) != set(paths):
        raise reject("missing_field", prefix, f"parts {sorted(given)}", f"parts {paths}, as in {space}")
    try:
        rows = [leaf_rows(leaf.path, leaf.space, given[leaf.path], lead) for leaf in space.leaves]
    except Mismatch as error:
        raise rejected(error, prefix) from error
    return np.concatenate([as_stored(part, space) for part in rows], axis=-1)


def space_of_parts(columns: Mapping[str, Array]) -> Space:
    """Return what arrays ``obs.<path>`` [rows, …] say of their space: names only, pictures and boxes."""
    nested: dict[str, Any] = {}
    for name, array in columns.items():
        if name.startswith("obs."):
            *folders, last = name.removeprefix("obs.").split(".")
            place = nested
            for folder in folders:
                place = place.setdefault(folder, {})
                if not isinstance(place, dict):
                    raise reject("bad_value", name, "a part of a part", "one array a part")
            if last in place:
                raise reject("bad_value", name, "a part that has parts", "one array a part")
            place[last] = array[0]
    try:
        return infer_space(_positions(nested))
    except ValueError as error:
        raise reject("bad_value", "obs", f"parts {list(nested)}", str(error)) from error


def _positions(nested: Any) -> Any:
    """Parts named 0, 1, 2, … are those of a tuple."""
    if not isinstance(nested, dict):
        return nested
    parts = {name: _positions(part) for name, part in nested.items()}
    places = [str(i) for i in range(len(parts))]
    return tuple(parts[place] for place in places) if set(parts) == set(places) else parts


def to_stored(array: Array, space: Space) -> Array:
    """Return rows [rows, …] of a declared space as stored: its shape, its dtype, counted from 0.

    Raises:
        InputError: they do not fit it.
    """
    if array.dtype.kind not in "biuf":
        raise reject("bad_dtype", "obs", f"dtype {array.dtype}", f"numbers, as in {space}")
    if array.ndim == 0 or array[:1].size != space.width:
        found = f"rows of shape {list(array.shape[1:])}"
        raise reject("bad_shape", "obs", found, f"shape {list(space.stored_shape)}, {space}")
    rows = array.reshape(len(array), space.width)
    if space != space.canonical():
        first = np.concatenate([np.full(leaf.space.width, leaf.space.first) for leaf in space.leaves])
        rows = rows - first
    try:
        check_stored(space, rows.reshape(len(rows), *space.stored_shape))
    except Mismatch as error:
        raise rejected(error, "obs") from error
    return np.ascontiguousarray(as_stored(rows, space)).reshape(len(rows), *space.stored_shape)


class NestedObs:
    """Observations of one episode in JSON: as they are, or flattened, which the first one decides.

    Args:
        declared: the header's ``observation_space``.

    Attributes:
        space: what they are flattened by; None while they are not.
    """

    def __init__(self, declared: Space | None) -> None:
        self._declared = declared
        self.space: Space | None = None

    def row(self, value: Any, field: str, *, first: bool = False) -> Any:
        """Return one observation for its column; ``field`` names it in errors.

        Raises:
            InputError: it does not fit the space.
        """
        if first:
            self.space = self._decide(value, field)
        if self.space is None:
            return value
        try:
            return flatten(self.space, value)
        except Mismatch as error:
            raise rejected(error, field) from error

    def _decide(self, value: Any, field: str) -> Space | None:
        if not is_nested(value) and not self._is_tuple(value):
            return None
        try:
            return self._declared or infer_space(value)
        except ValueError as error:
            raise reject("bad_value", field, value, str(error)) from error

    def _is_tuple(self, value: Any) -> bool:
        """Whether a list is that of a tuple's parts, and not a flat row."""
        space = self._declared
        if not isinstance(space, TupleSpace) or not isinstance(value, list):
            return False
        return len(value) == len(space.spaces) or any(isinstance(part, list) for part in value)


def rejected(error: Mismatch, field: str) -> InputError:
    """The verdict for what does not fit a space."""
    where = f"{field}.{error.path}" if error.path else field
    return reject("bad_value", where, error.found, error.accepted)
