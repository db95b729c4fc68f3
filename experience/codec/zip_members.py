"""The members of a small zip file, straight from its bytes.

Every size is checked before anything is unpacked, every CRC-32 afterwards.
Only what npz writers produce is accepted: one disk, stored or deflated members, no encryption, no ZIP64
directory (never needed below 4 GiB). The central directory is the truth; local headers must agree with it.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from experience.codec.contract import Limits
from experience.errors import InputError, reject

Buffer = bytes | bytearray | memoryview

_END = struct.Struct("<4s4H2LH")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_END_SIGNATURE, _CENTRAL_SIGNATURE, _LOCAL_SIGNATURE = b"PK\x05\x06", b"PK\x01\x02", b"PK\x03\x04"
_MAX_COMMENT_BYTES = 65_535
_ZIP64 = 0xFFFFFFFF
_ENCRYPTED, _SIZES_FOLLOW = 0x1, 0x8
_STORED, _DEFLATED = 0, 8
_SLICE_BYTES = 2**16
_ACCEPTED = "a zip file as numpy.savez writes it"


class _Entry(NamedTuple):
    """One row of the central directory."""

    name: bytes
    flags: int
    method: int
    crc: int
    packed_bytes: int
    n_bytes: int
    offset: int


def read_members(data: bytes, limits: Limits) -> dict[str, Buffer]:
    """Return name -> verified bytes.

    Raises:
        InputError: ``truncated`` when the end of the directory is missing, ``too_large`` above a limit,
            else ``malformed``.
    """
    entries = list(_directory(data, limits))
    _check_sizes(entries, len(data), limits)
    members: dict[str, Buffer] = {}
    for entry in entries:
        name = _checked_name(entry.name)
        if name in members:
            raise _malformed(name, "two members of this name")
        members[name] = _content(data, entry, name)
    return members


def _malformed(field: str, value: str) -> InputError:
    return reject("malformed", field, value, _ACCEPTED)


def _directory(data: bytes, limits: Limits) -> Iterator[_Entry]:
    if data[:4] not in (_LOCAL_SIGNATURE[: len(data)], _END_SIGNATURE[: len(data)]):
        raise _malformed("first bytes", f"{data[:4]!r}")
    end = _find_end(data)
    _, disk, first_disk, count_here, count, size, offset, _ = _END.unpack_from(data, end)
    if disk or first_disk or count_here != count or offset == _ZIP64 or offset + size != end:
        raise _malformed("zip directory", f"{count} members in {size} bytes at {offset}, ends at {end}")
    if count > limits.max_members:
        raise reject("too_large", "zip directory", f"{count} members", f"at most {limits.max_members}")
    for _ in range(count):
        if offset + _CENTRAL.size > end:
            raise _malformed("zip directory", f"ends at {end}, within a member")
        entry, offset = _central_entry(data, offset)
        yield entry
    if offset != end:
        raise _malformed("zip directory", f"{count} members end at {offset}, the directory at {end}")


def _find_end(data: bytes) -> int:
    last = len(data) - _END.size
    lowest = max(0, last - _MAX_COMMENT_BYTES)
    end = data.rfind(_END_SIGNATURE, lowest, last + 4) if last >= 0 else -1
    while end >= 0:
        if end + _END.size + _END.unpack_from(data, end)[-1] == len(data):
            return end
        end = data.rfind(_END_SIGNATURE, lowest, end)
    raise reject("truncated", "zip directory", f"not found in {len(data)} bytes", "a complete zip file")


def _central_entry(data: bytes, at: int) -> tuple[_Entry, int]:
    row = _CENTRAL.unpack_from(data, at)
    signature, _, _, flags, method, _, _, crc, packed, size, n_name, n_extra, n_comment, _, _, _, offset = row
    if signature != _CENTRAL_SIGNATURE:
        raise _malformed("zip directory", f"{signature!r} at {at}")
    start = at + _CENTRAL.size
    name = data[start : start + n_name]
    return _Entry(name, flags, method, crc, packed, size, offset), start + n_name + n_extra + n_comment


def _check_sizes(entries: list[_Entry], file_bytes: int, limits: Limits) -> None:
    total = sum(entry.n_bytes for entry in entries)
    if total > limits.max_decoded_bytes:
        raise reject(
            "too_large", "decoded size", f"{total} bytes", f"at most {limits.max_decoded_bytes} bytes"
        )
    if total > max(limits.ratio_floor_bytes, limits.max_ratio * file_bytes):
        found = f"{total} bytes from a file of {file_bytes}"
        raise reject("too_large", "compression ratio", found, f"at most {limits.max_ratio}")


def _checked_name(raw: bytes) -> str:
    try:
        name = raw.decode()
    except UnicodeDecodeError as error:
        raise _malformed("member name", repr(raw)) from error
    if not name.isprintable() or "/" in name or "\\" in name or ".." in name:
        raise _malformed("member name", repr(name))
    return name


def _content(data: bytes, entry: _Entry, name: str) -> Buffer:
    start = _data_start(data, entry, name)
    if start + entry.packed_bytes > len(data):
        raise _malformed(name, f"{entry.packed_bytes} bytes at {start}, beyond the file's {len(data)}")
    packed = memoryview(data)[start : start + entry.packed_bytes]
    content = _unpack(packed, entry, name)
    if len(content) != entry.n_bytes:
        raise _malformed(name, f"{len(content)} bytes, {entry.n_bytes} announced")
    if zlib.crc32(content) != entry.crc:
        raise _malformed(name, "a checksum (CRC-32) that does not match its bytes")
    return content


def _data_start(data: bytes, entry: _Entry, name: str) -> int:
    if entry.offset + _LOCAL.size > len(data):
        raise _malformed(name, f"a header at {entry.offset}, beyond the file")
    row = _LOCAL.unpack_from(data, entry.offset)
    signature, _, flags, method, _, _, crc, _, _, n_name, n_extra = row
    start = entry.offset + _LOCAL.size
    same = (signature, flags, method, data[start : start + n_name])
    if same != (_LOCAL_SIGNATURE, entry.flags, entry.method, entry.name):
        raise _malformed(name, "a local header that differs from the zip directory")
    if not entry.flags & _SIZES_FOLLOW and crc != entry.crc:
        raise _malformed(name, "a local checksum that differs from the zip directory's")
    return int(start + n_name + n_extra)


def _unpack(packed: memoryview, entry: _Entry, name: str) -> Buffer:
    if entry.flags & _ENCRYPTED:
        raise _malformed(name, "encrypted")
    if entry.method == _STORED:
        return packed
    if entry.method != _DEFLATED:
        raise _malformed(name, f"compression method {entry.method} (stored and deflated are accepted)")
    try:
        return _inflate(packed, entry.n_bytes)
    except (zlib.error, ValueError) as error:
        raise _malformed(name, f"not deflated data: {error}") from error


def _inflate(packed: memoryview, n_bytes: int) -> bytearray:
    """Unpack into memory of the announced size, in slices: ``zlib.decompress`` takes twice as much."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    content = bytearray(n_bytes)
    at = 0
    for start in range(0, len(packed), _SLICE_BYTES):
        part = inflater.decompress(packed[start : start + _SLICE_BYTES], n_bytes - at + 1)
        if at + len(part) > n_bytes:
            raise ValueError(f"more than the {n_bytes} bytes announced")
        content[at : at + len(part)] = part
        at += len(part)
        if inflater.eof:
            break
    if at < n_bytes or not inflater.eof:
        raise ValueError(f"{at} bytes of the {n_bytes} announced")
    return content
