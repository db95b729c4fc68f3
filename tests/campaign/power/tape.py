"""Tape: what reached a disk, in order: writes, flushes, and marks of what was acknowledged when."""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WRITE, FLUSH, MARK = b"W", b"F", b"M"
HEADER = struct.Struct("<cQQ")


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One entry.

    Attributes:
        kind: WRITE, FLUSH or MARK.
        offset: of a write, in bytes.
        data: of a write, or a mark's JSON.
    """

    kind: bytes
    offset: int
    data: bytes

    def mark(self) -> dict[str, Any]:
        """What a mark says."""
        document: dict[str, Any] = json.loads(self.data)
        return document


def encode(kind: bytes, offset: int = 0, data: bytes = b"") -> bytes:
    """One entry as bytes; entries are simply joined."""
    return HEADER.pack(kind, offset, len(data)) + data


def read_tape(path: Path) -> list[Event]:
    """Every entry of a tape."""
    return list(_entries(path.read_bytes()))


def _entries(tape: bytes) -> Iterator[Event]:
    at = 0
    while at < len(tape):
        kind, offset, size = HEADER.unpack_from(tape, at)
        at += HEADER.size
        yield Event(kind=kind, offset=offset, data=tape[at : at + size])
        at += size
