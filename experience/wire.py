"""Results on the pipe from the decoder process: a JSON header and raw arrays, never pickle.

A frame is ``<4s I Q``: magic, header bytes, body bytes; then the header, then the arrays' bytes, each at a
multiple of 16. The reader takes nothing on trust: the decoder process has just parsed a stranger's file.
"""

import dataclasses
import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experience.codec.contract import Decoded
from experience.episode import Episode
from experience.errors import BadFrame, InputError, Problem

PREFIX = struct.Struct("<4sIQ")
_MAGIC = b"LRN1"
_ALIGNMENT_BYTES = 16
_ZEROS = bytes(_ALIGNMENT_BYTES)
_ARRAYS = ("obs", "action", "reward", "logp", "mask", "policy_version_step")
_DTYPES = frozenset(np.dtype(kind).str for kind in (np.float32, np.float64, np.int64, np.uint8, np.bool_))
_SCALARS: Mapping[str, Any] = {
    item.name: {} if item.name == "extensions" else item.default
    for item in dataclasses.fields(Episode)
    if item.name not in _ARRAYS
}
"""Field -> its default, which is left out: most episodes give few of them."""
_TUPLES = ("tags", "observation_shape")


@dataclass(frozen=True, kw_only=True)
class Message:
    """What the decoder process says about one job.

    Attributes:
        job: the job's number.
        mtime_s: when the claimed file was last written.
        decoded: what it held, or
        problem: why the whole file cannot be read.
    """

    job: int
    mtime_s: float
    decoded: Decoded | None = None
    problem: Problem | None = None


def encode(message: Message) -> list[bytes | memoryview]:
    """Return the frame in pieces, to be written one after another; arrays are not copied."""
    body = _Body()
    decoded = message.decoded
    header = {
        "job": message.job,
        "mtime_s": message.mtime_s,
        "problem": _problem_row(message.problem),
        "episodes": [_row(episode, body) for episode in decoded.episodes] if decoded else None,
        "problems": [_problem_row(problem) for problem in decoded.problems] if decoded else [],
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGNMENT_BYTES)
    return [PREFIX.pack(_MAGIC, len(text), body.n_bytes), text, *body.parts]


class _Body:
    """The arrays' bytes, one after another."""

    def __init__(self) -> None:
        self.parts: list[bytes | memoryview] = []
        self.n_bytes = 0

    def add(self, array: NDArray[Any]) -> list[Any]:
        """Return [dtype, shape, offset]."""
        entry = [array.dtype.str, array.shape, self.n_bytes]
        n_bytes = array.nbytes
        self.parts.append(np.ascontiguousarray(array).data.cast("B"))
        if padding := -n_bytes % _ALIGNMENT_BYTES:
            self.parts.append(_ZEROS[:padding])
        self.n_bytes += n_bytes + padding
        return entry


def _row(episode: Episode, body: _Body) -> dict[str, Any]:
    fields = vars(episode)
    row: dict[str, Any] = {
        name: value for name, default in _SCALARS.items() if (value := fields[name]) != default
    }
    row["arrays"] = {name: body.add(array) for name in _ARRAYS if (array := fields[name]) is not None}
    return row


def frame_bytes(prefix: bytes) -> int:
    """Return how many bytes follow ``prefix``.

    Raises:
        BadFrame: it is no prefix.
    """
    if len(prefix) != PREFIX.size:
        raise BadFrame(f"{len(prefix)} bytes instead of {PREFIX.size}")
    magic, n_header, n_body = PREFIX.unpack(prefix)
    if magic != _MAGIC:
        raise BadFrame(f"begins with {magic!r}")
    return int(n_header + n_body)


def decode(prefix: bytes, rest: bytes | bytearray) -> Message:
    """Read a frame; the episodes' arrays are views of ``rest``.

    Raises:
        BadFrame: it is none.
    """
    if len(rest) != frame_bytes(prefix):
        raise BadFrame(f"{len(rest)} bytes instead of {frame_bytes(prefix)}")
    _, n_header, _ = PREFIX.unpack(prefix)
    try:
        header = json.loads(rest[:n_header].decode())  # quicker than from bytes
        return _message(header, memoryview(rest)[n_header:])
    except (ValueError, KeyError, TypeError, AttributeError, InputError, RecursionError) as error:
        raise BadFrame(f"{type(error).__name__}: {error}") from error


def _message(header: Mapping[str, Any], body: memoryview) -> Message:
    decoded = None
    if header["episodes"] is not None:
        decoded = Decoded(
            episodes=tuple(_episode(row, body) for row in header["episodes"]),
            problems=tuple(Problem(**row) for row in header["problems"]),
        )
    problem = header["problem"]
    return Message(
        job=int(header["job"]),
        mtime_s=float(header["mtime_s"]),
        decoded=decoded,
        problem=None if problem is None else Problem(**problem),
    )


def _episode(row: Mapping[str, Any], body: memoryview) -> Episode:
    values = {**row, **{name: _array(entry, body) for name, entry in row["arrays"].items()}}
    del values["arrays"]
    for name in _TUPLES:
        if name in values:
            values[name] = tuple(values[name])
    return Episode.of(values)


def _array(entry: Sequence[Any], body: memoryview) -> NDArray[Any]:
    dtype, shape, offset = entry
    if dtype not in _DTYPES or min(shape, default=0) < 0 or offset < 0:
        raise BadFrame(f"an array of {dtype}, shape {shape}, at {offset}")
    return np.frombuffer(body, np.dtype(dtype), count=math.prod(shape), offset=offset).reshape(shape)


def _problem_row(problem: Problem | None) -> dict[str, Any] | None:
    return None if problem is None else dataclasses.asdict(problem)
