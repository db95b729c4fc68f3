"""What a Parquet footer announces, read without native code: rows, and bytes once decoded.

pyarrow ends the process on some damaged footers as soon as their columns are looked at from Python; and how
much a file decodes to must be known before its reader allocates. The footer is a Thrift structure in the
compact protocol (github.com/apache/parquet-format, parquet.thrift).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_WIDTHS = {0: 1, 1: 4, 2: 8, 3: 12, 4: 4, 5: 8}
"""Physical type (boolean, int32, int64, int96, float, double) -> bytes a value; others count by pages."""
_SCHEMA, _ROWS, _GROUPS = 2, 3, 4
_COLUMNS, _CHUNK = 1, 3
_GROUP_ROWS = 3
_TYPE, _PATH, _VALUES, _PAGE_BYTES = 1, 3, 5, 6
_ELEMENT_TYPE, _ELEMENT_NAME, _ELEMENT_CHILDREN = 1, 4, 5
_MAX_DEPTH = 16
_MAX_SHIFT = 70
"""An integer has at most ten bytes of seven bits."""
_MORE = 128
"""A byte of an integer from here on is not its last."""
_INTEGERS = (4, 5, 6)


@dataclass(frozen=True, kw_only=True)
class Footer:
    """What is announced.

    Attributes:
        n_rows: in all.
        n_groups: row groups.
        decoded_bytes: of all columns together, at least.
    """

    n_rows: int
    n_groups: int
    decoded_bytes: int


def read_footer(data: bytes) -> Footer:
    """Read ``data``, the footer alone.

    Raises:
        ValueError: it is none.
    """
    try:
        fields, _ = _struct(data, 0, 0)
        groups = fields.get(_GROUPS, [])
        _check_columns(fields[_SCHEMA], groups)
        if sum(group[_GROUP_ROWS] for group in groups) != fields[_ROWS]:
            raise ValueError(f"{fields[_ROWS]} rows, other than in its row groups")
        return Footer(
            n_rows=int(fields[_ROWS]),
            n_groups=len(groups),
            decoded_bytes=sum(
                _decoded_bytes(column[_CHUNK]) for group in groups for column in group[_COLUMNS]
            ),
        )
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"no footer: {type(error).__name__} {error}") from error


def _check_columns(schema: list[dict[int, Any]], groups: list[dict[int, Any]]) -> None:
    """Names and types stand in the schema and in every row group; nothing else notices a damaged name."""
    expected = _leaves(schema)
    for group in groups:
        chunks = [column[_CHUNK] for column in group[_COLUMNS]]
        found = [(tuple(chunk[_PATH]), chunk[_TYPE]) for chunk in chunks]
        if found != expected:
            name = next((a for a, b in zip(expected, found, strict=False) if a != b), "their number")
            raise ValueError(f"columns other than in its schema: {name}")


def _leaves(schema: list[dict[int, Any]]) -> list[tuple[tuple[bytes, ...], int]]:
    """Path and type of every column; the schema lists a tree, parents before their children."""
    leaves: list[tuple[tuple[bytes, ...], int]] = []
    path: list[tuple[bytes, int]] = []
    for element in schema[1:]:
        path.append((element[_ELEMENT_NAME], element.get(_ELEMENT_CHILDREN, 0)))
        if path[-1][1]:
            continue
        leaves.append((tuple(name for name, _ in path), element[_ELEMENT_TYPE]))
        while path and path[-1][1] <= 1:
            path.pop()
        if path:
            path[-1] = (path[-1][0], path[-1][1] - 1)
    return leaves


def _decoded_bytes(chunk: dict[int, Any]) -> int:
    values, pages = int(chunk[_VALUES]), int(chunk[_PAGE_BYTES])
    if values < 0 or pages < 0:
        raise ValueError(f"a column of {values} values in {pages} bytes")
    return max(pages, values * _WIDTHS.get(chunk[_TYPE], 0))


def _struct(data: bytes, at: int, depth: int) -> tuple[dict[int, Any], int]:
    """Read a structure of Thrift's compact protocol as a dictionary by field number; and where it ends.

    A footer has a thousand integers of one byte: those are not worth a call each.
    """
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    fields: dict[int, Any] = {}
    number = 0
    while head := data[at]:
        at += 1
        if head >> 4:
            number += head >> 4
        else:
            number, at = _integer(data, at, depth)
        kind = head & 15
        if kind in _INTEGERS and data[at] < _MORE:
            fields[number] = (data[at] >> 1) ^ -(data[at] & 1)
            at += 1
        else:
            fields[number], at = _READERS[kind](data, at, depth + 1)
    return fields, at + 1


def _list(data: bytes, at: int, depth: int) -> tuple[list[Any], int]:
    count, kind = data[at] >> 4, data[at] & 15
    at += 1
    if count == 15:  # noqa: PLR2004 - then the count follows
        count, at = _varint(data, at)
    if count > len(data) - at:
        raise ValueError(f"a list of {count} in {len(data)} bytes")
    if kind in (1, 2):
        return [byte == 1 for byte in data[at : at + count]], at + count
    read = _READERS[kind]
    items = []
    for _ in range(count):
        item, at = read(data, at, depth + 1)
        items.append(item)
    return items, at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    byte = data[at]
    value, shift = byte & 127, 0
    while byte >= _MORE:
        at, shift = at + 1, shift + 7
        if shift == _MAX_SHIFT:
            raise ValueError("an integer that does not end")
        byte = data[at]
        value |= (byte & 127) << shift
    return value, at + 1


def _integer(data: bytes, at: int, _depth: int) -> tuple[int, int]:
    zigzag, at = _varint(data, at)
    return (zigzag >> 1) ^ -(zigzag & 1), at


def _text(data: bytes, at: int, _depth: int) -> tuple[bytes, int]:
    n_bytes, at = _varint(data, at)
    return _bytes(data, at, n_bytes)


def _bytes(data: bytes, at: int, n_bytes: int) -> tuple[bytes, int]:
    if at + n_bytes > len(data):
        raise ValueError(f"{n_bytes} bytes beyond the end")
    return data[at : at + n_bytes], at + n_bytes


_READERS: Mapping[int, Callable[[bytes, int, int], tuple[Any, int]]] = {
    1: lambda _data, at, _depth: (True, at),
    2: lambda _data, at, _depth: (False, at),
    3: lambda data, at, _depth: (data[at], at + 1),
    4: _integer,
    5: _integer,
    6: _integer,
    7: lambda data, at, _depth: _bytes(data, at, 8),
    8: _text,
    9: _list,
    10: _list,
    12: _struct,
}
