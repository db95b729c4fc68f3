"""Tables: rows of Arrow record batches to episodes, one row an episode, whoever wrote them.

Parquet and Arrow IPC files share this. A bad row becomes a problem with its index; its neighbors are read.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from experience.codec.arrays import Array, last_flag
from experience.codec.assemble import REQUIRED, assemble
from experience.codec.cells import cell_values
from experience.codec.contract import Decoded, Source
from experience.codec.nested import NestedColumn, is_nested
from experience.codec.parts import PREFIXES, has_parts
from experience.episode import Episode
from experience.errors import InputError, Problem, reject
from experience.fields import CANONICAL, STEP_FIELDS, accepted_names, outcome, resolve_names
from experience.rows import from_unicode
from experience.strict_json import parse_json

MAX_COLUMNS = 256
"""The canonical shard has 38."""

_FLAGS = ("terminated", "truncated", "done")
_STEPS = (*STEP_FIELDS, "final_obs")
_RECORDED = ("ingested_at", "source_sha256", "source_name", "return", "verdict")
"""Columns of our shards that follow from others, or tell of an earlier reading; a new file has its own."""

_PANDAS_INDEX = "__index_level_"
_BATCH_ROWS = 256
"""Rows turned into Python values at a time."""

_DTYPES: Mapping[str, Mapping[str, type[np.generic]]] = {
    "obs": {"float32": np.float32, "uint8": np.uint8},
    "action": {"int64": np.int64, "float32": np.float32},
    "mask": {"bool": np.bool_},
}
"""What ``<column>_dtype`` may say: our shards keep one type a column, also where episodes differ."""


class _Batch(NamedTuple):
    """The columns of one batch: arrays for what is stepped, Python values for the rest."""

    steps: dict[str, NestedColumn]
    cells: dict[str, list[Any]]


class TableReader:
    """Collects the episodes of one file's batches.

    Args:
        schema: of the file.
        source: where it came from.
        data: the file's bytes, for ids where the client gave none.

    Raises:
        InputError: columns are missing, given twice or of the wrong kind.
    """

    def __init__(self, schema: pa.Schema, source: Source, data: bytes) -> None:
        if len(schema.names) > MAX_COLUMNS:
            raise reject("too_large", "columns", len(schema.names), f"at most {MAX_COLUMNS}")
        for name in schema.names:
            name.encode()  # text that is no Unicode ends here
        self._names = resolve_names(name for name in schema.names if not name.startswith(_PANDAS_INDEX))
        for name in REQUIRED:
            known = self._names.values()
            if name not in known and not (name == "obs" and has_parts(dict.fromkeys(known))):
                raise reject("missing_field", name, "no such column", accepted_names(name))
        self._ours = {"schema_version", "row_sha256", "extensions_json"} <= self._names.keys()
        self._source = source
        self._data = data
        self._n_rows = 0
        self._decoded_bytes = 0
        self._episodes: list[Episode] = []
        self._problems: list[Problem] = []
        self._parsed: dict[str, tuple[str, Any]] = {}

    def add(self, batch: pa.RecordBatch) -> None:
        """Read the rows of one batch, which has been validated.

        Raises:
            InputError: a column is of the wrong kind, or the file holds too much.
        """
        limit = self._source.limits.max_episodes
        if self._n_rows + batch.num_rows > limit:
            raise reject("too_large", "episodes", f"more than {limit}", f"at most {limit} in one file")
        for start in range(0, batch.num_rows, _BATCH_ROWS):
            part = batch.slice(start, _BATCH_ROWS)
            columns = self._columns(part)
            for row in range(part.num_rows):
                self._add_row(columns, row)

    def finish(self) -> Decoded:
        """Return what was read.

        Raises:
            InputError: there was no row.
        """
        if not self._n_rows:
            raise reject("bad_shape", "rows", "0", "at least one row, each an episode")
        return Decoded(episodes=tuple(self._episodes), problems=tuple(self._problems))

    def _columns(self, batch: pa.RecordBatch) -> _Batch:
        steps: dict[str, NestedColumn] = {}
        cells: dict[str, list[Any]] = {}
        for i, given in enumerate(batch.schema.names):
            name = self._names.get(given)
            if name is None or name in _RECORDED:
                continue
            column = batch.column(i)
            if name in _STEPS or name.startswith(PREFIXES) or (name in _FLAGS and is_nested(column.type)):
                steps[name] = NestedColumn(name, column)
            else:
                cells[name] = cell_values(name, column, text=from_unicode if self._ours else None)
        given = {name: values for name, values in cells.items() if values.count(None) < len(values)}
        return _Batch(steps, given)

    def _add_row(self, batch: _Batch, row: int) -> None:
        index = self._n_rows
        self._n_rows += 1
        try:
            episode = self._episode(batch, row, index)
        except InputError as error:
            self._problems.append(dataclasses.replace(error.problem, index=index))
            return
        arrays = (getattr(episode, name) for name in STEP_FIELDS)
        self._decoded_bytes += sum(array.nbytes for array in arrays if array is not None)
        limit = self._source.limits.max_decoded_bytes
        if self._decoded_bytes > limit:
            raise reject("too_large", "decoded size", f"more than {limit} bytes", f"at most {limit} bytes")
        self._episodes.append(episode)

    def _episode(self, batch: _Batch, row: int, index: int) -> Episode:
        cells = {name: values[row] for name, values in batch.cells.items() if values[row] is not None}
        arrays = {
            name: array for name, column in batch.steps.items() if (array := column.row(row)) is not None
        }
        flags = {name: cells.pop(name) for name in _FLAGS if name in cells}
        flags |= {name: last_flag(name, arrays.pop(name)) for name in _FLAGS if name in arrays}
        n_steps, row_sha256 = cells.pop("n_steps", None), cells.pop("row_sha256", None)
        for name in _DTYPES:
            _restore(arrays, name, cells.pop(f"{name}_shape", None), cells.pop(f"{name}_dtype", None))
        final_obs = arrays.pop("final_obs", None)
        terminated, truncated = (False, False) if _incomplete(cells, flags) else outcome(flags)
        episode = assemble(
            arrays,
            header=self._header(cells),
            terminated=terminated,
            truncated=truncated,
            final_obs=final_obs,
            source=self._source,
            data=self._data,
            index=index,
        )
        _check_recorded(episode, n_steps, row_sha256)
        return episode

    def _header(self, cells: dict[str, Any]) -> dict[str, Any]:
        """Header fields and extensions; those that Parquet keeps as JSON text become values."""
        for name in ("action_space", "observation_space"):
            space = cells.get(name)
            if space is not None:
                cells[name] = self._parse(name, space) if isinstance(space, str) else _without_nulls(space)
        extensions = cells.pop("extensions_json", None)
        return cells if extensions is None else cells | self._extensions(extensions, cells)

    def _extensions(self, text: Any, beside: Mapping[str, Any]) -> dict[str, Any]:
        value = self._parse("extensions_json", text)
        if not isinstance(value, dict):
            raise reject("bad_value", "extensions_json", value, "a JSON object, as text")
        for name in value:
            if name in CANONICAL or name in beside:
                raise reject("bad_value", f"extensions_json.{name}", value[name], "names of no column")
        return value

    def _parse(self, name: str, text: Any) -> Any:
        """Parse JSON; most rows say what the row before said."""
        if not isinstance(text, str):
            raise reject("bad_value", name, text, "JSON, as text")
        before, value = self._parsed.get(name, (None, None))
        if text != before:
            limits = self._source.limits
            value = parse_json(
                text.encode(errors="surrogatepass"),
                field=name,
                max_depth=limits.max_json_depth,
                max_number_characters=limits.max_number_characters,
            )
            self._parsed[name] = text, value
        return value


def _without_nulls(value: Any) -> Any:
    """A struct has every field of its type; those that this value lacks are null."""
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return value


def _incomplete(cells: Mapping[str, Any], flags: Mapping[str, Any]) -> bool:
    return cells.get("incomplete") in (True, 1) and not flags


def _restore(arrays: dict[str, Array], name: str, shape: Any, dtype: Any) -> None:
    """Undo what our shards do to an array: steps flattened, one type for all rows."""
    array = arrays.get(name)
    if array is None:
        return
    if shape is not None:
        array = _reshaped(name, array, shape)
    if dtype is not None:
        array = _typed(name, array, dtype)
    arrays[name] = array


def _reshaped(name: str, array: Array, shape: Any) -> Array:
    sizes = shape if isinstance(shape, list) else [shape]
    try:
        return array.reshape(len(array), *(int(size) for size in sizes))
    except (TypeError, ValueError) as error:
        accepted = f"the shape of one step of {name}, which is {list(array.shape[1:])}"
        raise reject("bad_shape", f"{name}_shape", shape, accepted) from error


def _typed(name: str, array: Array, dtype: Any) -> Array:
    accepted = _DTYPES[name]
    if dtype not in accepted:
        raise reject("bad_dtype", f"{name}_dtype", dtype, " or ".join(accepted))
    result = array.astype(accepted[dtype], copy=False)
    if result is not array and not np.array_equal(result, array, equal_nan=True):
        raise reject("bad_value", name, f"numbers that are no {dtype}", f"what {name}_dtype says")
    return result


def _check_recorded(episode: Episode, n_steps: Any, row_sha256: Any) -> None:
    """What a row says of itself must be so."""
    if n_steps is not None and n_steps != episode.n_steps:
        raise reject("bad_value", "n_steps", n_steps, f"{episode.n_steps}, the number of rewards")
    if row_sha256 is not None and row_sha256 != episode.row_sha256:
        accepted = (
            f"{episode.row_sha256}, the sha256 of this row; leave the column out of rows that you change"
        )
        raise reject("bad_value", "row_sha256", row_sha256, accepted)


def read_batches(batches: Iterable[pa.RecordBatch], reader: TableReader) -> Decoded:
    """Validate each batch fully and read it: offsets, lengths, dictionary indices and UTF-8."""
    for batch in batches:
        batch.validate(full=True)
        reader.add(batch)
    return reader.finish()
