"""List columns: arrays of steps to Arrow lists and back, by their buffers, without a loop over elements."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Column = NDArray[Any] | None
"""The steps of one row; None where the row has none."""


def vector_column(rows: Sequence[Column], dtype: np.dtype[Any]) -> pa.ListArray:
    """Store [T] arrays as list<dtype>."""
    return pa.ListArray.from_arrays(_offsets(rows), pa.array(_flat(rows, dtype)), mask=_missing(rows))


def matrix_column(rows: Sequence[Column], dtype: np.dtype[Any]) -> pa.ListArray:
    """Store [T, ...] arrays as list<list<dtype>>, each step flattened."""
    steps = [0 if row is None else len(row) for row in rows]
    widths = [0 if row is None else int(np.prod(row.shape[1:])) for row in rows]
    inner_offsets = np.concatenate([[0], np.cumsum(np.repeat(widths, steps))]).astype(np.int32)
    inner = pa.ListArray.from_arrays(inner_offsets, pa.array(_flat(rows, dtype)))
    return pa.ListArray.from_arrays(_offsets(rows), inner, mask=_missing(rows))


def read_vector(column: pa.ListArray) -> list[Column]:
    """Give back what ``vector_column`` stored, without a copy."""
    values = _numbers(column.values)
    return [None if bounds is None else values[bounds[0] : bounds[1]] for bounds in _bounds(column)]


def read_matrix(column: pa.ListArray) -> list[Column]:
    """Give back what ``matrix_column`` stored, as [T, width] arrays, without a copy.

    Raises:
        ValueError: the steps of a row differ in width.
    """
    inner = column.values
    starts = inner.offsets.to_numpy()
    values = _numbers(inner.values)
    return [
        None if bounds is None else _matrix(values, starts[bounds[0] : bounds[1] + 1])
        for bounds in _bounds(column)
    ]


def _matrix(values: NDArray[Any], starts: NDArray[np.int32]) -> NDArray[Any]:
    widths = np.diff(starts)
    if len(widths) and (widths != widths[0]).any():
        raise ValueError("steps of different widths in one row")
    width = int(widths[0]) if len(widths) else 0
    return values[starts[0] : starts[-1]].reshape(len(widths), width)


def _bounds(column: pa.ListArray) -> list[tuple[int, int] | None]:
    offsets = column.offsets.to_numpy()
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    return [
        (int(start), int(end)) if there else None
        for start, end, there in zip(offsets[:-1], offsets[1:], valid, strict=True)
    ]


def _numbers(values: pa.Array) -> NDArray[Any]:
    if values.null_count:
        raise ValueError("a step without a value")
    numbers: NDArray[Any] = values.to_numpy(zero_copy_only=False)
    return numbers


def _flat(rows: Sequence[Column], dtype: np.dtype[Any]) -> NDArray[Any]:
    there = [row.reshape(-1) for row in rows if row is not None]
    return np.concatenate(there).astype(dtype, copy=False) if there else np.empty(0, dtype)


def _offsets(rows: Sequence[Column]) -> NDArray[np.int32]:
    lengths = [0 if row is None else len(row) for row in rows]
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def _missing(rows: Sequence[Column]) -> pa.Array:
    return pa.array(np.array([row is None for row in rows], bool))
