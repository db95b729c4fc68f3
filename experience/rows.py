"""Rows: episodes to an Arrow table and back, one row per (episode, segment, agent), steps as list columns."""

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from experience.episode import SCHEMA_VERSION, Episode
from experience.errors import Problem
from experience.list_columns import Column, matrix_column, read_matrix, read_vector, vector_column


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a shard.

    Attributes:
        episode: what was learned from, or not.
        verdict: why it was refused; None when it was learned.
    """

    episode: Episode
    verdict: Problem | None = None


_UNSTORABLE = re.compile("[\ud800-\udfff\ufffd]")
_STORED = re.compile("\ufffd([0-9a-f]{4})")


def _to_unicode(text: str | None) -> str | None:
    """Make any text storable: a byte of a file name that is no UTF-8 becomes U+FFFD and four hex digits."""
    return None if text is None else _UNSTORABLE.sub(lambda match: f"\ufffd{ord(match[0]):04x}", text)


def from_unicode(text: str | None) -> str | None:
    """Give back what ``_to_unicode`` made storable."""
    if text is None or "\ufffd" not in text:
        return text
    return _STORED.sub(lambda match: chr(int(match[1], 16)), text)


@dataclass(frozen=True, kw_only=True)
class _Scalar:
    """A column with one value a row.

    Attributes:
        type: Arrow type.
        pack: value of an episode -> value of the column.
        unpack: the inverse; None for a column that is derived from others.
    """

    type: pa.DataType
    pack: Callable[[Episode], Any]
    unpack: Callable[[Any], Any] | None = None


def _plain(name: str, arrow_type: pa.DataType) -> _Scalar:
    return _Scalar(type=arrow_type, pack=lambda episode: getattr(episode, name), unpack=lambda value: value)


def _text(name: str) -> _Scalar:
    def pack(episode: Episode) -> str | None:
        return _to_unicode(getattr(episode, name))

    return _Scalar(type=pa.string(), pack=pack, unpack=from_unicode)


def _time(name: str) -> _Scalar:
    def pack(episode: Episode) -> int | None:
        value: float | None = getattr(episode, name)
        if value is None:
            return None
        whole = math.floor(value)  # apart: seconds times 1e6 may not fit into 53 bits
        return whole * 1_000_000 + round((value - whole) * 1e6)

    def unpack(value: int | None) -> float | None:
        return None if value is None else value / 1_000_000

    return _Scalar(type=pa.timestamp("us", tz="UTC"), pack=pack, unpack=unpack)


def _json(name: str) -> _Scalar:
    def pack(episode: Episode) -> str | None:
        value = getattr(episode, name)
        return None if value is None else json.dumps(dict(value))

    def unpack(value: str | None) -> Any:
        return None if value is None else json.loads(value)

    return _Scalar(type=pa.string(), pack=pack, unpack=unpack)


def _sequence(name: str, item: pa.DataType) -> _Scalar:
    def unpack(value: list[Any] | None) -> tuple[Any, ...] | None:
        return None if value is None else tuple(value)

    return _Scalar(type=pa.list_(item), pack=lambda episode: getattr(episode, name), unpack=unpack)


SCALARS: dict[str, _Scalar] = {
    "schema_version": _Scalar(type=pa.int32(), pack=lambda _: SCHEMA_VERSION),
    "episode_id": _text("episode_id"),
    "segment": _plain("segment", pa.int64()),
    "client_id": _text("client_id"),
    "agent_id": _text("agent_id"),
    "env_id": _text("env_id"),
    "seed": _plain("seed", pa.int64()),
    "tags": _sequence("tags", pa.string()),
    "policy_version": _plain("policy_version", pa.int64()),
    "policy_digest": _text("policy_digest"),
    "started_at": _time("started_at"),
    "ended_at": _time("ended_at"),
    "ingested_at": _time("ingested_at"),
    "source_sha256": _text("source_sha256"),
    "source_name": _text("source_name"),
    "n_steps": _Scalar(type=pa.int64(), pack=lambda episode: episode.n_steps),
    "return": _Scalar(type=pa.float64(), pack=lambda episode: episode.total_reward),
    "terminated": _plain("terminated", pa.bool_()),
    "truncated": _plain("truncated", pa.bool_()),
    "incomplete": _plain("incomplete", pa.bool_()),
    "action_space": _json("action_space"),
    "observation_space": _json("observation_space"),
    "observation_shape": _sequence("observation_shape", pa.int64()),
    "info_json": _text("info_json"),
    "extensions_json": _json("extensions"),
    "row_sha256": _Scalar(type=pa.string(), pack=lambda episode: episode.row_sha256),
}
"""Columns with one value a row.

Extensions are one JSON column, not a column each: shards then have one schema, whatever clients pass, and
DuckDB and polars read a folder of them at once (``extensions_json->>'$.pnl'``).
"""

_LATER = frozenset({"observation_space"})
"""Columns that shards of earlier releases lack."""

_ARGUMENTS = {"extensions_json": "extensions"}
"""Column -> argument of Episode, where they differ."""

STEP_VECTORS = {"reward": np.float64, "logp": np.float64, "policy_version_step": np.int64}
STEP_MATRICES = ("obs", "action", "mask")
SCALAR_COLUMNS = [name for name, scalar in SCALARS.items() if not pa.types.is_nested(scalar.type)]
TEXT_COLUMNS = [name for name in SCALAR_COLUMNS if pa.types.is_string(SCALARS[name].type)]
_VERDICT = pa.struct(
    [
        ("reason", pa.string()),
        ("field", pa.string()),
        ("value", pa.string()),
        ("accepted", pa.string()),
        ("index", pa.int64()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class StepTypes:
    """How the steps of a whole shard are stored: a column has one type, also where its episodes differ.

    Attributes:
        dtypes: dtype of each matrix column that holds every episode's values exactly.
        flat: matrix columns with one number a step in every episode: lists instead of lists of lists.
    """

    dtypes: dict[str, np.dtype[Any]]
    flat: frozenset[str]

    @classmethod
    def of(cls, episodes: Sequence[Episode]) -> "StepTypes":
        """Find the types that hold all of ``episodes``."""
        given = {
            name: [array for episode in episodes if (array := getattr(episode, name)) is not None]
            for name in STEP_MATRICES
        }
        return cls(
            dtypes={
                name: np.result_type(*{array.dtype for array in arrays})
                for name, arrays in given.items()
                if arrays
            },
            flat=frozenset(
                name
                for name, arrays in given.items()
                if name == "action" and all(array.ndim == 1 for array in arrays)
            ),
        )

    @classmethod
    def of_schema(cls, schema: pa.Schema) -> "StepTypes":
        """Give back the types of the shard with this schema."""
        items = {name: schema.field(name).type.value_type for name in STEP_MATRICES}
        flat = frozenset(name for name, item in items.items() if not pa.types.is_nested(item))
        numbers = {name: item if name in flat else item.value_type for name, item in items.items()}
        return cls(
            dtypes={name: np.dtype(number.to_pandas_dtype()) for name, number in numbers.items()}, flat=flat
        )

    def including(self, other: "StepTypes") -> "StepTypes":
        """Find the types that hold what either holds."""
        absent = np.dtype(bool)
        return StepTypes(
            dtypes={
                name: np.result_type(self.dtypes.get(name, absent), other.dtypes.get(name, absent))
                for name in STEP_MATRICES
            },
            flat=self.flat & other.flat,
        )


def size_bytes(row: Row) -> int:
    """Bytes of its steps, and of the client's own text."""
    columns = (getattr(row.episode, name) for name in (*STEP_VECTORS, *STEP_MATRICES))
    steps: int = sum(array.nbytes for array in columns if array is not None)
    return steps + len(row.episode.info_json or "")


def fingerprint(row: Row) -> bytes:
    """Return what is the same for two rows only when nothing in them differs."""
    return repr([*(scalar.pack(row.episode) for scalar in SCALARS.values()), row.verdict]).encode(
        errors="surrogateescape"
    )


def to_table(rows: Sequence[Row], types: StepTypes, *, with_verdict: bool) -> pa.Table:
    """Lay ``rows`` out as columns.

    Args:
        rows: at least one.
        types: of the whole shard that they belong to.
        with_verdict: whether there is a column ``verdict``.
    """
    episodes = [row.episode for row in rows]
    columns: dict[str, Any] = {
        name: pa.array([scalar.pack(episode) for episode in episodes], scalar.type)
        for name, scalar in SCALARS.items()
    }
    for name, dtype in STEP_VECTORS.items():
        columns[name] = vector_column([getattr(episode, name) for episode in episodes], np.dtype(dtype))
    for name in STEP_MATRICES:
        columns |= _matrix_columns(name, [getattr(episode, name) for episode in episodes], types)
    if with_verdict:
        columns["verdict"] = pa.array([_verdict_fields(row.verdict) for row in rows], _VERDICT)
    return pa.table(columns)


def _matrix_columns(name: str, arrays: Sequence[Column], types: StepTypes) -> dict[str, pa.Array]:
    dtype = types.dtypes.get(name, np.dtype(bool))
    store = vector_column if name in types.flat else matrix_column
    shapes = [None if array is None else array.shape[1:] for array in arrays]
    dtypes = [None if array is None else array.dtype.name for array in arrays]
    return {
        name: store(arrays, dtype),
        f"{name}_shape": pa.array(shapes, pa.list_(pa.int64())),
        f"{name}_dtype": pa.array(dtypes, pa.string()),
    }


def from_table(table: pa.Table) -> list[Row]:
    """Give back the rows of ``to_table``, exactly.

    Raises:
        KeyError, ValueError: it is not a table of ours, or a row is not what it was.
    """
    versions = set(table["schema_version"].to_pylist())
    if versions != {SCHEMA_VERSION}:
        raise ValueError(f"schema_version is {sorted(versions)}; this release reads {SCHEMA_VERSION}")
    columns = {
        _ARGUMENTS.get(name, name): [scalar.unpack(value) for value in _values(table[name])]
        for name, scalar in SCALARS.items()
        if scalar.unpack is not None and (name not in _LATER or name in table.column_names)
    }
    columns |= {name: read_vector(table[name].combine_chunks()) for name in STEP_VECTORS}
    columns |= {name: _read_matrices(table, name) for name in STEP_MATRICES}
    hashes = table["row_sha256"].to_pylist()
    verdicts = table["verdict"].to_pylist() if "verdict" in table.column_names else [None] * len(hashes)
    episodes = [Episode(**{name: values[i] for name, values in columns.items()}) for i in range(len(hashes))]
    for i, (episode, row_sha256) in enumerate(zip(episodes, hashes, strict=True)):
        if episode.row_sha256 != row_sha256:
            raise ValueError(f"row {i} has not the sha256 that it was written with")
    return [Row(episode=e, verdict=_to_problem(v)) for e, v in zip(episodes, verdicts, strict=True)]


def _values(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    values: list[Any] = column.to_pylist()
    return values


def _read_matrices(table: pa.Table, name: str) -> list[Column]:
    column = table[name].combine_chunks()
    flat = not pa.types.is_nested(column.type.value_type)
    arrays = read_vector(column) if flat else read_matrix(column)
    shapes = table[f"{name}_shape"].to_pylist()
    dtypes = table[f"{name}_dtype"].to_pylist()
    return [
        None if array is None else _restore(array, shape, np.dtype(dtype))
        for array, shape, dtype in zip(arrays, shapes, dtypes, strict=True)
    ]


def _restore(array: np.ndarray[Any, Any], shape: list[int], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    return array.reshape(len(array), *shape).astype(dtype, copy=False)


def _verdict_fields(problem: Problem | None) -> dict[str, Any] | None:
    if problem is None:
        return None
    texts = {name: _to_unicode(getattr(problem, name)) for name in ("reason", "field", "value", "accepted")}
    return {**texts, "index": problem.index}


def _to_problem(fields: dict[str, Any] | None) -> Problem | None:
    if fields is None:
        return None
    restored: dict[str, Any] = {
        name: from_unicode(value) if isinstance(value, str) else value for name, value in fields.items()
    }
    return Problem(**restored)
