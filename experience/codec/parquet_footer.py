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
_ROWS, _GROUPS = 3, 4
_COLUMNS, _CHUNK = 1, 3
_TYPE, _VALUES, _PAGE_BYTES = 1, 5, 6
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
        return Footer(
            n_rows=int(fields[_ROWS]),
            n_groups=len(groups),
            decoded_bytes=sum(
                _decoded_bytes(column[_CHUNK]) for group in groups for column in group[_COLUMNS]
            ),
        )
    except (KeyError, IndexError, TypeError, AttributeError, struct.error) as error:
        raise ValueError(f"no footer: {type(error).__name__} {error}") from error


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
            7: lambda _: self._skip(8),
            8: lambda _: self._skip(self._varint()),
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

    def _skip(self, n_bytes: int) -> None:
        self._at += n_bytes
        if self._at > len(self._data):
            raise ValueError(f"{n_bytes} bytes beyond the end")
