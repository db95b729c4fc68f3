"""What a Parquet footer announces, read without native code: rows, and bytes once decoded.

pyarrow ends the process on some damaged footers as soon as their columns are looked at from Python; and how
much a file decodes to must be known before its reader allocates. The footer is a Thrift structure in the
compact protocol (github.com/apache/parquet-format, parquet.thrift).
"""

import struct
from collections.abc import Callable
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
_MAX_VARINT_BYTES = 10


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
        fields = _Compact(data).struct(0)
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
    except (KeyError, IndexError, TypeError, AttributeError, struct.error) as error:
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


class _Compact:
    """Thrift's compact protocol; structures become dictionaries by field number."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._readers: dict[int, Callable[[int], Any]] = {
            1: lambda _: True,
            2: lambda _: False,
            3: lambda _: self._byte(),
            4: lambda _: self._integer(),
            5: lambda _: self._integer(),
            6: lambda _: self._integer(),
            7: lambda _: self._bytes(8),
            8: lambda _: self._bytes(self._varint()),
            9: self._list,
            10: self._list,
            12: self.struct,
        }

    def struct(self, depth: int) -> dict[int, Any]:
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deeply")
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            fields[number] = self._readers[head & 15](depth + 1)
        return fields

    def _list(self, depth: int) -> list[Any]:
        head = self._byte()
        count, kind = head >> 4, head & 15
        if count == 15:  # noqa: PLR2004 - then the count follows
            count = self._varint()
        if count > len(self._data) - self._at:
            raise ValueError(f"a list of {count} in {len(self._data)} bytes")
        if kind in (1, 2):
            return [self._byte() == 1 for _ in range(count)]
        read = self._readers[kind]
        return [read(depth + 1) for _ in range(count)]

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _varint(self) -> int:
        value = 0
        for i in range(_MAX_VARINT_BYTES):
            byte = self._byte()
            value |= (byte & 127) << 7 * i
            if byte < 128:  # noqa: PLR2004 - the last one
                return value
        raise ValueError("an integer that does not end")

    def _integer(self) -> int:
        zigzag = self._varint()
        return (zigzag >> 1) ^ -(zigzag & 1)

    def _bytes(self, n_bytes: int) -> bytes:
        self._at += n_bytes
        if self._at > len(self._data):
            raise ValueError(f"{n_bytes} bytes beyond the end")
        return self._data[self._at - n_bytes : self._at]
