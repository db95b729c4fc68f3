"""Tables: Arrow record batches to episodes, one row an episode, whoever wrote them.

Parquet and Arrow IPC files share this. Rows are read together where nothing is odd about any of them, else
one by one: a bad row becomes a problem with its index; its neighbors are read.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from experience.codec.assemble import REQUIRED
from experience.codec.cells import cell_values
from experience.codec.columnar import read_together
from experience.codec.contract import Decoded, Source
from experience.codec.nested import NestedColumn, is_nested
from experience.codec.parts import PREFIXES, has_parts
from experience.codec.table_rows import FLAGS, Batch, RowReader
from experience.episode import Episode
from experience.errors import InputError, Problem, reject
from experience.fields import STEP_FIELDS, accepted_names, resolve_names
from experience.rows import from_unicode

MAX_COLUMNS = 256
"""The canonical shard has 38."""

_STEPS = (*STEP_FIELDS, "final_obs")
_RECORDED = ("ingested_at", "source_sha256", "source_name", "return", "verdict")
"""Columns of our shards that follow from others, or tell of an earlier reading; a new file has its own."""

_PANDAS_INDEX = "__index_level_"
_BATCH_ROWS = 256
"""Rows turned into Python values at a time."""


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
        self._rows = RowReader(source, data)
        self._n_rows = 0
        self._decoded_bytes = 0
        self._episodes: list[Episode] = []
        self._recorded: list[str | None] = []
        self._problems: list[Problem] = []

    def add(self, batch: pa.RecordBatch) -> None:
        """Read the rows of one batch, which has been validated.

        Raises:
            InputError: a column is of the wrong kind, or the file holds too much.
        """
        limit = self._source.limits.max_episodes
        if self._n_rows + batch.num_rows > limit:
            raise reject("too_large", "episodes", f"more than {limit}", f"at most {limit} in one file")
        for start in range(0, batch.num_rows, _BATCH_ROWS):
            self._add(self._columns(batch.slice(start, _BATCH_ROWS)))

    def finish(self) -> Decoded:
        """Return what was read, not ``checked``.

        Raises:
            InputError: there was no row.
        """
        if not self._n_rows:
            raise reject("bad_shape", "rows", "0", "at least one row, each an episode")
        return Decoded(
            episodes=tuple(self._episodes), problems=tuple(self._problems), recorded=tuple(self._recorded)
        )

    def _columns(self, batch: pa.RecordBatch) -> Batch:
        steps: dict[str, NestedColumn] = {}
        cells: dict[str, list[Any]] = {}
        for i, given in enumerate(batch.schema.names):
            name = self._names.get(given)
            if name is None or name in _RECORDED:
                continue
            column = batch.column(i)
            if name in _STEPS or name.startswith(PREFIXES) or (name in FLAGS and is_nested(column.type)):
                steps[name] = NestedColumn(name, column)
            else:
                cells[name] = cell_values(name, column, text=from_unicode if self._ours else None)
        recorded = cells.pop("row_sha256", [None] * batch.num_rows)
        given = {name: values for name, values in cells.items() if values.count(None) < len(values)}
        return Batch(batch.num_rows, steps, given, [_as_text(value) for value in recorded])

    def _add(self, batch: Batch) -> None:
        room = self._source.limits.max_decoded_bytes - self._decoded_bytes
        together = read_together(batch, self._rows, self._n_rows)
        if together is None or together.n_bytes > room:
            for row in range(batch.n_rows):
                self._add_row(batch, row)
            return
        self._n_rows += batch.n_rows
        self._decoded_bytes += together.n_bytes
        self._episodes += together.episodes
        self._recorded += batch.recorded

    def _add_row(self, batch: Batch, row: int) -> None:
        index = self._n_rows
        self._n_rows += 1
        try:
            episode = self._rows.episode(batch, row, index)
        except InputError as error:
            self._problems.append(dataclasses.replace(error.problem, index=index))
            return
        arrays = (getattr(episode, name) for name in STEP_FIELDS)
        self._decoded_bytes += sum(array.nbytes for array in arrays if array is not None)
        limit = self._source.limits.max_decoded_bytes
        if self._decoded_bytes > limit:
            raise reject("too_large", "decoded size", f"more than {limit} bytes", f"at most {limit} bytes")
        self._episodes.append(episode)
        self._recorded.append(batch.recorded[row])


def _as_text(value: Any) -> str | None:
    """A hash as text; whatever else a column holds is none, and is told of as it is written."""
    return value if value is None or isinstance(value, str) else repr(value)


def read_batches(batches: Iterable[pa.RecordBatch], reader: TableReader) -> Decoded:
    """Validate each batch fully and read it: offsets, lengths, dictionary indices and UTF-8."""
    for batch in batches:
        batch.validate(full=True)
        reader.add(batch)
    return reader.finish()
