"""Lists of any Arrow kind as one NumPy array a row: the steps of an episode, as others write them."""

import math
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from experience.alike import Laid
from experience.codec.arrays import Array
from experience.errors import InputError, reject

MAX_DIMENSIONS = 8
"""Steps, and up to seven axes of an observation."""

_ACCEPTED = "a list of numbers, or of lists of them, one row an episode"


class _Level(NamedTuple):
    """One level of lists: item i is entries offsets[i] to offsets[i + 1] of the next level.

    ``width`` is the length of all of them where they have one: then no row needs a look at its own.
    """

    offsets: NDArray[np.int64]
    valid: NDArray[np.bool_] | None
    width: int | None


class NestedColumn:
    """A list column of one batch, read row by row.

    Args:
        field: names it in errors.
        column: any list type over any numbers, at any depth.

    Raises:
        InputError: it holds something else.
    """

    def __init__(self, field: str, column: pa.Array) -> None:
        self._field = field
        self._levels: list[_Level] = []
        column = _storage(column)
        if pa.types.is_null(column.type):
            nothing = np.zeros(len(column), bool)
            self._levels.append(_Level(np.zeros(len(column) + 1, np.int64), nothing, None))
        while _is_list(column.type):
            if len(self._levels) == MAX_DIMENSIONS:
                raise reject("bad_shape", field, f"lists nested deeper than {MAX_DIMENSIONS}", _ACCEPTED)
            level, column = _unwrap(column)
            self._levels.append(level)
        if not self._levels:
            raise reject("bad_dtype", field, f"{column.type}", _ACCEPTED)
        self._values, self._valid = _numbers(field, column)

    def row(self, index: int) -> Array | None:
        """Return the array of one row, a view where the numbers allow it; None where the row is null.

        Raises:
            InputError: a step is null, or its lists differ in length.
        """
        first = self._levels[0]
        if first.valid is not None and not first.valid[index]:
            return None
        start, end = int(first.offsets[index]), int(first.offsets[index + 1])
        shape = [end - start]
        for level in self._levels[1:]:
            self._check_valid(level.valid, start, end, shape)
            width = level.width if end > start else 0
            shape.append(self._width(level.offsets[start : end + 1], shape) if width is None else width)
            start, end = int(level.offsets[start]), int(level.offsets[end])
        self._check_valid(self._valid, start, end, shape)
        return self._values[start:end].reshape(shape)

    @property
    def is_empty(self) -> bool:
        """Whether every row is null."""
        valid = self._levels[0].valid
        return valid is not None and not valid.any()

    def whole(self) -> Laid | None:
        """All rows end to end, as ``row`` returns each; None where one is null or odd in any way."""
        first, *inner = self._levels
        if any(level.valid is not None for level in self._levels) or self._valid is not None:
            return None
        start, end = int(first.offsets[0]), int(first.offsets[-1])
        rows, shape = first.offsets - start, [end - start]
        for level in inner:
            if not level.width:
                return None
            shape.append(level.width)
            start, end = int(level.offsets[start]), int(level.offsets[end])
        return Laid(self._values[start:end].reshape(shape), rows.tolist())

    def _width(self, offsets: NDArray[np.int64], shape: list[int]) -> int:
        widths = np.diff(offsets)
        if not len(widths):
            return 0
        other = np.flatnonzero(widths != widths[0])
        if other.size:
            where = self._step(int(other[0]), shape)
            raise reject("bad_shape", where, f"{widths[other[0]]} entries", f"{widths[0]}, as before")
        return int(widths[0])

    def _check_valid(self, valid: NDArray[np.bool_] | None, start: int, end: int, shape: list[int]) -> None:
        if valid is not None and not valid[start:end].all():
            where = self._step(int(np.argmin(valid[start:end])), shape)
            raise reject("bad_value", where, "null", "a number, or a list of them, for every step")

    def _step(self, entry: int, shape: list[int]) -> str:
        """Name the step that an entry of the innermost level so far belongs to."""
        return f"{self._field}[{entry // max(1, math.prod(shape[1:]))}]"


def is_nested(column_type: pa.DataType) -> bool:
    """Whether a column holds lists: one entry a step, and not one value a row."""
    return _is_list(
        column_type.storage_type if isinstance(column_type, pa.BaseExtensionType) else column_type
    )


def _is_list(column_type: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(column_type)
        or pa.types.is_large_list(column_type)
        or pa.types.is_fixed_size_list(column_type)
    )


def _storage(column: pa.Array) -> pa.Array:
    return column.storage if isinstance(column.type, pa.BaseExtensionType) else column


def _unwrap(column: pa.Array) -> tuple[_Level, pa.Array]:
    """Take one level of lists off. Entries before the column's own offset stay, and are never looked at."""
    valid = column.is_valid().to_numpy(zero_copy_only=False) if column.null_count else None
    if pa.types.is_fixed_size_list(column.type):
        size = column.type.list_size
        offsets = (np.arange(len(column) + 1, dtype=np.int64) + column.offset) * size
    else:
        offsets = column.offsets.to_numpy().astype(np.int64)
    widths = np.diff(offsets)
    uniform = len(widths) > 0 and widths.min() == widths.max()
    return _Level(offsets, valid, int(widths[0]) if uniform else None), _storage(column.values)


def _numbers(field: str, values: pa.Array) -> tuple[Array, NDArray[np.bool_] | None]:
    """Return the innermost values, and which of them are there; None when all are."""
    kind = values.type
    if pa.types.is_null(kind):
        return np.zeros(len(values)), np.zeros(len(values), bool)
    if pa.types.is_decimal(kind):  # what SQL makes of a literal such as 0.5
        values = values.cast(pa.float64())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise _not_numbers(field, kind)
    valid = None
    if values.null_count:
        valid = values.is_valid().to_numpy(zero_copy_only=False)
        values = pc.fill_null(values, pa.scalar(0).cast(values.type))
    numbers: NDArray[Any] = values.to_numpy(zero_copy_only=False)
    return numbers, valid


def _not_numbers(field: str, kind: pa.DataType) -> InputError:
    return reject("bad_dtype", field, f"lists of {kind}", "lists of integers, booleans or floating numbers")
