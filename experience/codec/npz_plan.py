"""Plan: what the files of one client have in common, so that the next one is compared and not parsed.

Such files have the same members under the same names, stored, in one order; what differs is times, sizes,
checksums and values. A plan is made from a file that was read the long way (``zip_members``, then ``npy``).
It takes the next one apart with one ``struct`` for the directory and one a member, and looks at everything
that the long way looks at: fixed bytes are compared, places, sizes and checksums are looked at again. Where
anything is other than planned it says so, and the long way finds the words for it: a plan refuses nothing.
"""

import struct
import zlib
from typing import NamedTuple

import numpy as np

from experience.codec.arrays import Array
from experience.codec.contract import Limits
from experience.codec.npy import USUAL_BYTES, layout
from experience.codec.zip_members import (
    CENTRAL,
    CENTRAL_SIGNATURE,
    END,
    END_SIGNATURE,
    LOCAL,
    SIZES_FOLLOW,
    STORED,
)
from experience.errors import InputError

MOST_PLANS = 4
"""Kinds of files at a time: a client writes one or two. One that does not fit costs a microsecond."""

_FIELDS = 7
"""Of each entry of the directory, in ``_DIRECTORY_ENTRY``."""
_DIRECTORY_ENTRY = "12s4xLLL6s8xL{name}s{rest}x"
"""Signature to method; CRC-32, packed and unpacked size; lengths; offset; name: ``CENTRAL`` in pieces."""
_DIRECTORY_END = "16sL2s"
"""Signature to size of the directory; its offset; length of the comment."""
_MEMBER = "<10s4xL8x{named}s"
"""Signature to method; CRC-32; lengths and name. ``LOCAL``, in other pieces."""


class _Member(NamedTuple):
    """One array: ``header`` takes its local header of ``n_bytes`` apart: ``before``, its CRC, ``after``."""

    field: str
    header: struct.Struct
    n_bytes: int
    before: bytes
    after: bytes


class Plan(NamedTuple):
    """How files of one kind are laid out.

    Attributes:
        directory: takes the zip directory and its end apart.
        fixed: what in them is the same in every file.
        members: in the order of the directory.
    """

    directory: struct.Struct
    fixed: tuple[tuple[bytes, ...], ...]
    members: tuple[_Member, ...]

    def read(self, data: bytes, limits: Limits) -> dict[str, Array] | None:
        """Return field -> array, read-only and aligned; None where the file is not as planned."""
        begin = len(data) - self.directory.size
        if begin < 0:
            return None
        row = self.directory.unpack_from(data, begin)
        entries = row[:-3]
        sizes = entries[3::_FIELDS]
        total = sum(sizes)
        if (
            _fixed(row) != self.fixed
            or row[-2] != begin
            or entries[5]  # the first offset: the file begins with a member
            or entries[2::_FIELDS] != sizes
            or total > limits.ratio_floor_bytes
            or total > limits.max_decoded_bytes
            or len(sizes) > limits.max_members
        ):
            return None
        try:
            return self._arrays(data, entries)
        except (InputError, ValueError, struct.error):
            return None

    def _arrays(self, data: bytes, entries: tuple[int, ...]) -> dict[str, Array] | None:
        arrays = {}
        rows = zip(self.members, entries[1::_FIELDS], entries[3::_FIELDS], entries[5::_FIELDS], strict=True)
        for (field, header, n_header, before, after), crc, size, offset in rows:
            start = offset + n_header
            content = data[start : start + size]  # a copy: its arrays are aligned, whatever stands before it
            if (
                header.unpack_from(data, offset) != (before, crc, after)
                or len(content) != size
                or zlib.crc32(content) != crc
            ):
                return None
            known = layout(content[:USUAL_BYTES], field)
            if known is None:
                return None
            begin, dtype, order, shape, n_bytes = known
            if not n_bytes or begin + n_bytes != size:
                return None
            arrays[field] = np.ndarray(shape, dtype, content, begin, None, order)
        return arrays


class Plans:
    """The plans of the last few kinds of files."""

    def __init__(self) -> None:
        self._known: list[Plan] = []

    def read(self, data: bytes, limits: Limits) -> dict[str, Array] | None:
        """Return field -> array as the plan that fits gives it; None where none does."""
        for plan in self._known:
            arrays = plan.read(data, limits)
            if arrays is not None:
                return arrays
        return None

    def learn(self, data: bytes) -> None:
        """Plan for files like this one, which was read the long way."""
        plan = plan_of(data)
        if plan is not None and plan not in self._known:
            self._known = [plan, *self._known[: MOST_PLANS - 1]]


def plan_of(data: bytes) -> Plan | None:
    """Return the plan for files like ``data``, which ``read_members`` accepts; None where there is none."""
    end = len(data) - END.size
    _, _, _, _, count, size, begin, n_comment = END.unpack_from(data, end)
    if not data.startswith(END_SIGNATURE, end) or n_comment or not count or begin + size != end:
        return None
    pieces, members, offset = ["<"], [], begin
    for _ in range(count):
        signature, flags, method, _, _, _, n_name, n_extra, n_rest, local = CENTRAL.unpack_from(data, offset)
        if signature != CENTRAL_SIGNATURE or method != STORED or flags & SIZES_FOLLOW:
            return None
        start = offset + CENTRAL.size
        pieces.append(_DIRECTORY_ENTRY.format(name=n_name, rest=n_extra + n_rest))
        members.append(_member(data, local, data[start : start + n_name]))
        offset = start + n_name + n_extra + n_rest
    directory = struct.Struct("".join([*pieces, _DIRECTORY_END]))
    return Plan(directory, _fixed(directory.unpack_from(data, begin)), tuple(members))


def _member(data: bytes, offset: int, name: bytes) -> _Member:
    *_, n_name, n_extra = LOCAL.unpack_from(data, offset)
    header = struct.Struct(_MEMBER.format(named=4 + n_name))
    before, _, after = header.unpack_from(data, offset)
    return _Member(name.decode().removesuffix(".npy"), header, LOCAL.size + n_name + n_extra, before, after)


def _fixed(row: tuple[bytes, ...]) -> tuple[tuple[bytes, ...], ...]:
    """What does not differ: signatures, flags, methods, lengths and names."""
    return row[::_FIELDS], row[4:-3:_FIELDS], row[6:-3:_FIELDS], row[-1:]
