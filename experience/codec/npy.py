"""One array in NumPy's npy format (versions 1 to 3), from bytes and without pickle."""

import ast
import functools
import math
import re
import struct
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experience.codec.zip_members import Buffer
from experience.errors import InputError, reject

_MAGIC = b"\x93NUMPY"
_MAX_HEADER_BYTES = 10_000
_KEYS = {"descr", "fortran_order", "shape"}
_USUAL_HEADER = re.compile(
    rb"\{'descr': '([<>|=][a-zA-Z]\d*)', 'fortran_order': (True|False), 'shape': \(([\d, ]*)\), \} *\n"
)
_LENGTHS = {
    b"\x01\x00": struct.Struct("<H"),
    b"\x02\x00": struct.Struct("<I"),
    b"\x03\x00": struct.Struct("<I"),
}

USUAL_BYTES = 128
"""numpy.save fills magic, length and header up to a multiple of 64 bytes; those of numbers take two."""


class Layout(NamedTuple):
    """What stands before the numbers."""

    start: int
    dtype: np.dtype[Any]
    order: Literal["C", "F"]
    shape: tuple[int, ...]
    n_bytes: int


def read_array(content: Buffer, field: str) -> NDArray[Any]:
    """Return a read-only view of ``content``; ``field`` names it in errors.

    Raises:
        InputError: ``pickled`` for object arrays, ``bad_dtype``, ``bad_shape`` or ``malformed``.
    """
    head = bytes(content[:USUAL_BYTES])
    known = layout(head, field) or layout(bytes(content[: _header_end(head, field)]), field)
    if known is None:
        n_header = _header_end(head, field) - (10 if head[6] == 1 else 12)
        raise _malformed(field, f"a header of {n_header} bytes")
    start, dtype, order, shape, n_bytes = known
    if n_bytes != len(content) - start:
        raise _malformed(field, f"{len(content) - start} bytes for shape {list(shape)} of {dtype.str}")
    if not n_bytes:
        return _empty(dtype, shape, field)
    try:
        array: NDArray[Any] = np.ndarray(shape, dtype, content, start, order=order)
    except ValueError as error:
        raise _bad_shape(field, shape, error) from error
    return array


@functools.lru_cache(maxsize=1024)  # a client's files differ in little but T
def layout(head: bytes, field: str) -> Layout | None:
    """Read the header at the beginning of ``head``; None where it is longer than that."""
    end = _header_end(head, field)
    if end > len(head):
        return None
    dtype, fortran, shape = _header(head[8 + _LENGTHS[head[6:8]].size : end], field)
    return Layout(end, dtype, "F" if fortran else "C", shape, math.prod(shape) * dtype.itemsize)


def _header_end(head: bytes, field: str) -> int:
    length = _LENGTHS.get(head[6:8])
    if head[:6] != _MAGIC or length is None or len(head) < 12:  # noqa: PLR2004 - the longest prefix
        raise _malformed(field, f"{head[:8]!r} as its first bytes")
    n_header = length.unpack_from(head, 8)[0]
    if n_header > _MAX_HEADER_BYTES:
        raise _malformed(field, f"a header of {n_header} bytes")
    return int(8 + length.size + n_header)


def _empty(dtype: np.dtype[Any], shape: tuple[int, ...], field: str) -> NDArray[Any]:
    if dtype.itemsize == 0:  # empty text; a shape would multiply nothing
        if shape:
            raise reject("bad_dtype", field, f"dtype {dtype.str}", "numbers")
        return np.zeros((), dtype)
    try:
        return np.zeros(0, dtype).reshape(shape)
    except ValueError as error:
        raise _bad_shape(field, shape, error) from error


def _bad_shape(field: str, shape: tuple[int, ...], error: ValueError) -> InputError:
    return reject("bad_shape", field, f"shape {list(shape)}: {error}", "a shape that fits")


def _malformed(field: str, value: str) -> InputError:
    return reject("malformed", field, value, "an array as numpy.save writes it")


def _header(header: bytes, field: str) -> tuple[np.dtype[Any], bool, tuple[int, ...]]:
    descr, fortran, shape = _parse_usual(header) or _parse_unusual(header, field)
    if "O" in descr:
        raise reject("pickled", field, f"dtype {descr} (Python objects)", "numbers; meta as JSON text")
    try:
        dtype = np.dtype(descr)
    except (TypeError, ValueError, SyntaxError) as error:
        raise reject("bad_dtype", field, f"dtype {descr!r}", "numbers, such as <f4 or <i8") from error
    unportable = dtype.kind == "f" and dtype.itemsize > 8  # noqa: PLR2004 - float64; long double differs by machine
    if dtype.hasobject or dtype.fields or dtype.subdtype or unportable:
        raise reject("bad_dtype", field, f"dtype {descr!r}", "numbers, such as <f4 or <i8")
    return dtype, fortran, shape


def _parse_usual(header: bytes) -> tuple[str, bool, tuple[int, ...]] | None:
    match = _USUAL_HEADER.fullmatch(header)
    if match is None:
        return None
    sizes = [size for size in match[3].replace(b" ", b"").split(b",") if size]
    return match[1].decode(), match[2] == b"True", tuple(map(int, sizes))


def _parse_unusual(header: bytes, field: str) -> tuple[str, bool, tuple[int, ...]]:
    """Read headers of other writers: any Python literal of a dictionary with the three keys."""
    try:
        value = ast.literal_eval(header.decode().strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise _malformed(field, f"the header {header[:60]!r}") from error
    if not isinstance(value, dict) or set(value) != _KEYS:
        raise _malformed(field, f"the header {header[:60]!r}")
    descr, fortran, shape = value["descr"], value["fortran_order"], value["shape"]
    if not isinstance(descr, str):
        raise reject("bad_dtype", field, f"dtype {descr!r}", "numbers, such as <f4 or <i8")
    whole = isinstance(shape, tuple) and all(type(size) is int and size >= 0 for size in shape)
    if not whole or not isinstance(fortran, bool):
        raise _malformed(field, f"shape {shape!r}, fortran_order {fortran!r}")
    return descr, fortran, shape
