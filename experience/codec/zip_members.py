"""The members of a small zip file, straight from its bytes.

Every size is checked before anything is unpacked, every CRC-32 afterwards.
Only what npz writers produce is accepted: one disk, stored or deflated members, no encryption, no ZIP64
directory (never needed below 4 GiB). The central directory is the truth; local headers must agree with it.
"""

import functools
import struct
import zlib

from experience.codec.contract import Limits
from experience.errors import InputError, reject

Buffer = bytes | bytearray | memoryview

END = struct.Struct("<4s4H2LH")
CENTRAL = struct.Struct("<4s4xHH4xLLLHHH8xL")
"""Signature, flags, method, CRC-32, packed and unpacked size, lengths of name, extra, comment; offset."""
LOCAL = struct.Struct("<4s2xHH4xL8xHH")
"""Signature, flags, method, CRC-32, lengths of name and extra."""
END_SIGNATURE, CENTRAL_SIGNATURE, LOCAL_SIGNATURE = b"PK\x05\x06", b"PK\x01\x02", b"PK\x03\x04"
_MAX_COMMENT_BYTES = 65_535
_ZIP64 = 0xFFFFFFFF
_ENCRYPTED, SIZES_FOLLOW = 0x1, 0x8
STORED, _DEFLATED = 0, 8
_SLICE_BYTES = 2**16
_ACCEPTED = "a zip file as numpy.savez writes it"

_Entry = tuple[bytes, int, int, int, int, int, int]
"""One row of the central directory: name, flags, method, CRC-32, packed bytes, unpacked bytes, offset."""


def read_members(data: bytes, limits: Limits) -> dict[str, Buffer]:
    """Return name -> verified bytes.

    Raises:
        InputError: ``truncated`` when the end of the directory is missing, ``too_large`` above a limit,
            else ``malformed``.
    """
    entries = _directory(data, limits)
    _check_sizes(entries, len(data), limits)
    members: dict[str, Buffer] = {}
    for entry in entries:
        name = _checked_name(entry[0])
        if name in members:
            raise _malformed(name, "two members of this name")
        members[name] = _content(data, entry, name)
    return members


def _malformed(field: str, value: str) -> InputError:
    return reject("malformed", field, value, _ACCEPTED)


def _directory(data: bytes, limits: Limits) -> list[_Entry]:
    if data[:4] not in (LOCAL_SIGNATURE[: len(data)], END_SIGNATURE[: len(data)]):
        raise _malformed("first bytes", f"{data[:4]!r}")
    end = _find_end(data)
    _, disk, first_disk, count_here, count, size, offset, _ = END.unpack_from(data, end)
    if disk or first_disk or count_here != count or offset == _ZIP64 or offset + size != end:
        raise _malformed("zip directory", f"{count} members in {size} bytes at {offset}, ends at {end}")
    if count > limits.max_members:
        raise reject("too_large", "zip directory", f"{count} members", f"at most {limits.max_members}")
    entries = []
    for _ in range(count):
        start = offset + CENTRAL.size
        if start > end:
            raise _malformed("zip directory", f"ends at {end}, within a member")
        row = CENTRAL.unpack_from(data, offset)
        signature, flags, method, crc, packed, size, n_name, n_extra, n_comment, local = row
        if signature != CENTRAL_SIGNATURE:
            raise _malformed("zip directory", f"{signature!r} at {offset}")
        entries.append((data[start : start + n_name], flags, method, crc, packed, size, local))
        offset = start + n_name + n_extra + n_comment
    if offset != end:
        raise _malformed("zip directory", f"{count} members end at {offset}, the directory at {end}")
    return entries


def _find_end(data: bytes) -> int:
    last = len(data) - END.size
    if last >= 0 and data.startswith(END_SIGNATURE, last) and data.endswith(b"\0\0"):
        return last  # no comment
    lowest = max(0, last - _MAX_COMMENT_BYTES)
    end = data.rfind(END_SIGNATURE, lowest, last + 4) if last >= 0 else -1
    while end >= 0:
        if end + END.size + END.unpack_from(data, end)[-1] == len(data):
            return end
        end = data.rfind(END_SIGNATURE, lowest, end)
    raise reject("truncated", "zip directory", f"not found in {len(data)} bytes", "a complete zip file")


def _check_sizes(entries: list[_Entry], file_bytes: int, limits: Limits) -> None:
    total = sum([n_bytes for _, _, _, _, _, n_bytes, _ in entries])
    if total > limits.max_decoded_bytes:
        raise reject(
            "too_large", "decoded size", f"{total} bytes", f"at most {limits.max_decoded_bytes} bytes"
        )
    if total > max(limits.ratio_floor_bytes, limits.max_ratio * file_bytes):
        found = f"{total} bytes from a file of {file_bytes}"
        raise reject("too_large", "compression ratio", found, f"at most {limits.max_ratio}")


@functools.lru_cache(maxsize=64)  # members have the same few names in every file
def _checked_name(raw: bytes) -> str:
    try:
        name = raw.decode()
    except UnicodeDecodeError as error:
        raise _malformed("member name", repr(raw)) from error
    if not name.isprintable() or "/" in name or "\\" in name or ".." in name:
        raise _malformed("member name", repr(name))
    return name


def _content(data: bytes, entry: _Entry, name: str) -> Buffer:
    raw_name, flags, method, crc, packed_bytes, n_bytes, offset = entry
    start = offset + LOCAL.size
    if start > len(data):
        raise _malformed(name, f"a header at {offset}, beyond the file")
    signature, local_flags, local_method, local_crc, n_name, n_extra = LOCAL.unpack_from(data, offset)
    local = (signature, local_flags, local_method, data[start : start + n_name])
    if local != (LOCAL_SIGNATURE, flags, method, raw_name):
        raise _malformed(name, "a local header that differs from the zip directory")
    if local_crc != crc and not flags & SIZES_FOLLOW:
        raise _malformed(name, "a local checksum that differs from the zip directory's")
    if flags & _ENCRYPTED:
        raise _malformed(name, "encrypted")
    start += n_name + n_extra
    packed = memoryview(data)[start : start + packed_bytes]
    if len(packed) < packed_bytes:
        raise _malformed(name, f"{packed_bytes} bytes at {start}, beyond the file's {len(data)}")
    content = packed if method == STORED else _unpack(packed, method, n_bytes, name)
    if len(content) != n_bytes:
        raise _malformed(name, f"{len(content)} bytes, {n_bytes} announced")
    if zlib.crc32(content) != crc:
        raise _malformed(name, "a checksum (CRC-32) that does not match its bytes")
    return content


def _unpack(packed: memoryview, method: int, n_bytes: int, name: str) -> bytearray:
    if method != _DEFLATED:
        raise _malformed(name, f"compression method {method} (stored and deflated are accepted)")
    try:
        return _inflate(packed, n_bytes)
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
