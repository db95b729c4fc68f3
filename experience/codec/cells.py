"""Cells: columns with one value a row, as the Python values that JSON would have given."""

from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa

from experience.errors import reject

_UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
TIMES = ("started_at", "ended_at")

_PLAIN = (pa.types.is_boolean, pa.types.is_integer, pa.types.is_float32, pa.types.is_float64)
"""Types whose values need no second look, nor do lists of them."""

Text = Callable[[str], str | None]


def cell_values(name: str, column: pa.Array, *, text: Text | None = None) -> list[Any]:
    """Return one JSON-like value a row, None where it is null.

    Args:
        name: the field, for errors.
        column: of any type that JSON has a word for; timestamps become seconds in ``TIMES``, else ISO 8601.
        text: applied to every text.

    Raises:
        InputError: values that JSON has no word for, or a time without a zone.
    """
    if name in TIMES and pa.types.is_timestamp(column.type):
        return _seconds(name, column)
    try:
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.string())
        values: list[Any] = column.to_pylist()
        kind = column.type.value_type if pa.types.is_list(column.type) else column.type
        if any(is_plain(kind) for is_plain in _PLAIN):
            return values
        if pa.types.is_string(column.type):
            return values if text is None else [value and text(value) for value in values]
        if not pa.types.is_string(kind):
            values = [_json_value(value) for value in values]
        return values if text is None else [_restored(value, text) for value in values]
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid, TypeError, ValueError, OverflowError) as error:
        accepted = "text, numbers, booleans, times, lists or structs"
        raise reject("bad_dtype", name, f"{column.type} ({error})", accepted) from error


def _seconds(name: str, column: pa.Array) -> list[float | None]:
    if column.type.tz is None and column.null_count < len(column):
        accepted = "a timestamp with a time zone, or seconds since 1970 in UTC as a number"
        raise reject("bad_dtype", name, f"{column.type}, without a zone", accepted)
    unit = _UNITS[column.type.unit]
    return [None if value is None else value / unit for value in column.cast(pa.int64()).to_pylist()]


def _json_value(value: Any) -> Any:
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case datetime() | date() | time():
            return value.isoformat()
        case list() | tuple():
            return [_json_value(item) for item in value]
        case dict():
            return {str(key): _json_value(item) for key, item in value.items()}
    raise TypeError(f"{type(value).__name__} values")


def _restored(value: Any, text: Text) -> Any:
    if isinstance(value, str):
        return text(value)
    return [_restored(item, text) for item in value] if isinstance(value, list) else value
