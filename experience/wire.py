"""Results on the pipe from the decoder process: a JSON header and raw arrays, never pickle.

A frame is ``<4s I Q``: magic, header bytes, body bytes; then the header, then the arrays' bytes. It holds the
results of one job, or of several that were worked on together: what their episodes have in common stands in
it once, what differs in a list for each field, and the steps of all of them stand end to end, one block for
each field, dtype and shape, at a multiple of 16. The reader takes nothing on trust: the decoder process has
just parsed a stranger's file.
"""

import dataclasses
import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experience.alike import Alike, Laid
from experience.codec.contract import Decoded
from experience.episode import Episode
from experience.errors import REASON, BadFrame, InputError, Problem

PREFIX = struct.Struct("<4sIQ")
_MAGIC = b"LRN2"
_ALIGNMENT_BYTES = 16
_ZEROS = bytes(_ALIGNMENT_BYTES)
_ARRAYS = ("obs", "action", "reward", "logp", "mask", "policy_version_step")
_DTYPES: Mapping[str, tuple[str, ...]] = {
    "obs": ("<f4", "|u1"),
    "action": ("<i8", "<f4"),
    "reward": ("<f8",),
    "logp": ("<f8",),
    "mask": ("|b1",),
    "policy_version_step": ("<i8",),
}
_STEP_AXES: Mapping[str, int] = {"logp": 0, "mask": 1, "policy_version_step": 0}
"""Field -> axes of one step; ``Episode`` looks at those of the others."""
_NESTED: Mapping[str, Any] = {"action_space": None, "observation_space": None, "extensions": {}}
"""Field -> its default, which is left out. Equal ones may still differ: 1 is true, and 1.0."""
_PLAIN = tuple(
    item.name for item in dataclasses.fields(Episode) if item.name not in _ARRAYS and item.name not in _NESTED
)
"""Fields that stand once where all episodes of the frame have the same."""
_OWN = "episode_id"
"""Always a list: so many episodes there are."""
_TUPLES = ("tags", "observation_shape")
_TYPES: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("episode_id", "client_id", "agent_id", "source_sha256", "source_name"), (str,)),
    **dict.fromkeys(("env_id", "policy_digest", "info_json"), (str, type(None))),
    **dict.fromkeys(("terminated", "truncated", "incomplete"), (bool,)),
    **dict.fromkeys(("seed", "policy_version"), (int, type(None))),
    **dict.fromkeys(("started_at", "ended_at"), (float, type(None))),
    **dict.fromkeys(("action_space", "observation_space"), (dict, type(None))),
    "segment": (int,),
    "ingested_at": (float,),
    "extensions": (dict,),
    "tags": (list,),
    "observation_shape": (list, type(None)),
}
"""Field -> what JSON makes of it."""

Part = bytes | memoryview


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


def encode(messages: Sequence[Message]) -> list[Part]:
    """Return one frame for ``messages`` in pieces, to be written one after another; arrays are not copied."""
    episodes = [e for message in messages if message.decoded for e in message.decoded.episodes]
    common, varying = _columns(episodes)
    blocks, parts, n_bytes = _blocks(episodes)
    header = {
        "jobs": [_job_row(message) for message in messages],
        "common": common,
        "varying": varying,
        "blocks": blocks,
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGNMENT_BYTES)
    return [PREFIX.pack(_MAGIC, len(text), n_bytes), text, *parts]


def _job_row(message: Message) -> list[Any]:
    """[job, mtime_s, problem, number of episodes, their problems, their recorded hashes]."""
    decoded = message.decoded or Decoded()
    problems = [_problem_row(problem) for problem in decoded.problems]
    n_episodes = len(decoded.episodes) if message.decoded else None
    whole = _problem_row(message.problem)
    return [message.job, message.mtime_s, whole, n_episodes, problems, decoded.recorded]


def _problem_row(problem: Problem | None) -> dict[str, Any] | None:
    return None if problem is None else dataclasses.asdict(problem)


def _columns(episodes: Sequence[Episode]) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """What all of them have, and what differs, field by field."""
    fields = [vars(episode) for episode in episodes]
    common: dict[str, Any] = {}
    varying: dict[str, list[Any]] = {_OWN: [each[_OWN] for each in fields]}
    for name in _PLAIN if episodes else ():
        values = [each[name] for each in fields]
        if values.count(values[0]) < len(values):
            varying[name] = values
        elif name != _OWN:
            common[name] = values[0]
    for name, default in _NESTED.items():
        values = [each[name] for each in fields]
        if values.count(default) < len(values):
            varying[name] = values
    return common, varying


def _blocks(episodes: Sequence[Episode]) -> tuple[list[list[Any]], list[Part], int]:
    """[field, dtype, shape of a step, positions of the episodes, rows of each]; the bytes; how many."""
    found: dict[tuple[str, np.dtype[Any], tuple[int, ...]], list[tuple[int, NDArray[Any]]]] = {}
    for place, episode in enumerate(episodes):
        fields = vars(episode)
        for name in _ARRAYS:
            array = fields[name]
            if array is not None:
                kind = name, array.dtype, array.shape[1:]
                found.setdefault(kind, []).append((place, array))
    blocks: list[list[Any]] = []
    parts: list[Part] = []
    n_bytes = 0
    for (name, dtype, shape), placed in found.items():
        blocks.append(
            [name, dtype.str, shape, [place for place, _ in placed], [len(array) for _, array in placed]]
        )
        parts += [np.ascontiguousarray(array).data for _, array in placed]
        size = sum([array.nbytes for _, array in placed])
        padding = -size % _ALIGNMENT_BYTES
        parts.append(_ZEROS[:padding])
        n_bytes += size + padding
    return blocks, parts, n_bytes


def frame_bytes(prefix: bytes | bytearray) -> int:
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


def decode(prefix: bytes | bytearray, rest: bytes | bytearray) -> list[Message]:
    """Read a frame; the episodes' arrays are views of ``rest``, which nobody may change any longer.

    Raises:
        BadFrame: it is none.
    """
    if len(rest) != frame_bytes(prefix):
        raise BadFrame(f"{len(rest)} bytes instead of {frame_bytes(prefix)}")
    _, n_header, _ = PREFIX.unpack(prefix)
    try:
        header = json.loads(rest[:n_header].decode())  # quicker than from bytes
        return _messages(header, memoryview(rest).toreadonly()[n_header:])
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise BadFrame(f"{type(error).__name__}: {error}") from error
    except (InputError, RecursionError) as error:
        raise BadFrame(f"{type(error).__name__}: {error}") from error


def _problem(row: Mapping[str, Any] | None) -> Problem | None:
    if row is None:
        return None
    problem = Problem(**row)
    texts = problem.reason, problem.field, problem.value, problem.accepted
    index = 0 if problem.index is None else problem.index
    if not (REASON.fullmatch(problem.reason) and set(map(type, texts)) == {str} and type(index) is int):
        raise BadFrame(f"{problem!r}")
    return problem


def _messages(header: Mapping[str, Any], body: memoryview) -> list[Message]:
    episodes = _episodes(header, body)
    messages, begin = [], 0
    for job, mtime_s, problem, n_episodes, problems, recorded in header["jobs"]:
        end = begin + (n_episodes or 0)
        if end < begin or not math.isfinite(mtime_s):
            raise BadFrame(f"{n_episodes} episodes of a file of {mtime_s}")
        decoded = None if n_episodes is None else _decoded(episodes[begin:end], problems, recorded)
        whole = _problem(problem)
        messages.append(Message(job=int(job), mtime_s=float(mtime_s), decoded=decoded, problem=whole))
        begin = end
    if begin != len(episodes):
        raise BadFrame(f"{len(episodes)} episodes, {begin} in its jobs")
    return messages


def _decoded(episodes: Sequence[Episode], problems: Sequence[Any], recorded: Sequence[Any]) -> Decoded:
    """What a file held; what it says of its rows is compared here, where their hashes are needed anyway."""
    if not set(map(type, recorded)) <= {str, type(None)}:
        raise BadFrame(f"{len(recorded)} recorded hashes, not all text")
    found = tuple([each for row in problems if (each := _problem(row))])
    return Decoded(episodes=tuple(episodes), problems=found, recorded=tuple(recorded)).checked()


def _episodes(header: Mapping[str, Any], body: memoryview) -> Sequence[Episode]:
    common = {name: _column(name, [value])[0] for name, value in header["common"].items()}
    varying = {name: _column(name, values) for name, values in header["varying"].items()}
    n_episodes = len(varying[_OWN])
    blocks = list(_laid(header["blocks"], body))
    everyone = list(range(n_episodes))
    if n_episodes > 1 and all(places == everyone for _, places, _ in blocks):
        steps = {name: laid for name, _, laid in blocks}
        return Alike(common=common, varying=varying, steps=steps).episodes()
    rows = zip(*varying.values(), strict=True)
    values = [{**common, **dict(zip(varying, row, strict=True))} for row in rows]
    for name, places, laid in blocks:
        for place, array in zip(places, laid.cut(), strict=True):
            values[place][name] = array
    return [Episode.of(each) for each in values]


def _laid(blocks: Sequence[Any], body: memoryview) -> Iterator[tuple[str, list[int], Laid]]:
    """Field, positions of the episodes, their arrays."""
    offset = 0
    for name, dtype, shape, places, rows in blocks:
        is_fitting = dtype in _DTYPES[name] and len(shape) == _STEP_AXES.get(name, len(shape))
        if not is_fitting or min(*shape, *rows, 0) < 0:
            raise BadFrame(f"arrays {name!r} of {dtype}, shape {shape}, {rows} rows")
        offsets = list(accumulate(rows, initial=0))
        block = np.frombuffer(body, dtype, offsets[-1] * math.prod(shape), offset)
        offset += block.nbytes + -block.nbytes % _ALIGNMENT_BYTES
        yield name, places, Laid(block.reshape(offsets[-1], *shape), offsets)


def _column(name: str, values: list[Any]) -> list[Any]:
    """Look at the types of a field's values; JSON has no tuples."""
    types = set(map(type, values))
    if type(values) is not list or not types.issubset(_TYPES[name]):
        raise BadFrame(f"{name} of types {types}")
    return [None if value is None else tuple(value) for value in values] if name in _TUPLES else values
