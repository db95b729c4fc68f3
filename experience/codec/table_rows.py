"""Rows of a table, one by one: each is one episode, and what is wrong with it is said of it alone."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from experience.codec.arrays import Array, last_flag
from experience.codec.assemble import assemble
from experience.codec.contract import Source
from experience.codec.nested import NestedColumn
from experience.episode import Episode
from experience.errors import reject
from experience.fields import CANONICAL, outcome
from experience.strict_json import parse_json

FLAGS = ("terminated", "truncated", "done")

DTYPES: Mapping[str, Mapping[str, type[np.generic]]] = {
    "obs": {"float32": np.float32, "uint8": np.uint8},
    "action": {"int64": np.int64, "float32": np.float32},
    "mask": {"bool": np.bool_},
}
"""What ``<column>_dtype`` may say: our shards keep one type a column, also where episodes differ."""


class Batch(NamedTuple):
    """The columns of one batch by canonical names: arrays for what is stepped, Python values for the rest."""

    n_rows: int
    steps: dict[str, NestedColumn]
    cells: dict[str, list[Any]]
    recorded: list[str | None]
    """What each row says that its hash is."""


class RowReader:
    """Reads rows of one file.

    Args:
        source: where it came from.
        data: the file's bytes, for ids where the client gave none.
    """

    def __init__(self, source: Source, data: bytes) -> None:
        self.source = source
        self.data = data
        self._parsed: dict[str, tuple[str, Any]] = {}

    @property
    def provenance(self) -> dict[str, Any]:
        """What every episode of the file says of where it comes from."""
        source = self.source
        return {
            "ingested_at": source.ingested_at,
            "source_sha256": source.sha256,
            "source_name": source.name,
        }

    def episode(self, batch: Batch, row: int, index: int) -> Episode:
        """Return the episode of one row.

        Args:
            batch: the row's.
            row: its place there.
            index: its place in the file.

        Raises:
            InputError: naming the field, its value and what would be accepted.
        """
        cells = {name: values[row] for name, values in batch.cells.items() if values[row] is not None}
        arrays = {
            name: array for name, column in batch.steps.items() if (array := column.row(row)) is not None
        }
        flags = {name: cells.pop(name) for name in FLAGS if name in cells}
        flags |= {name: last_flag(name, arrays.pop(name)) for name in FLAGS if name in arrays}
        n_steps = cells.pop("n_steps", None)
        for name in DTYPES:
            restore(arrays, name, cells.pop(f"{name}_shape", None), cells.pop(f"{name}_dtype", None))
        final_obs = arrays.pop("final_obs", None)
        terminated, truncated = ended(cells, flags)
        episode = assemble(
            arrays,
            header=self.header(cells),
            terminated=terminated,
            truncated=truncated,
            final_obs=final_obs,
            source=self.source,
            data=self.data,
            index=index,
        )
        check_length(episode, n_steps)
        return episode

    def header(self, cells: dict[str, Any]) -> dict[str, Any]:
        """Header fields and extensions; those that Parquet keeps as JSON text become values.

        Raises:
            InputError: a text is no such JSON.
        """
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
            limits = self.source.limits
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


def ended(cells: Mapping[str, Any], flags: Mapping[str, Any]) -> tuple[bool, bool]:
    """Return (terminated, truncated); an incomplete row need not say.

    Raises:
        InputError: they are not known.
    """
    return (False, False) if cells.get("incomplete") in (True, 1) and not flags else outcome(flags)


def restore(arrays: dict[str, Array], name: str, shape: Any, dtype: Any) -> None:
    """Undo what our shards do to an array: steps flattened, one type for all rows.

    Raises:
        InputError: it has not that shape, or holds what is not of that type.
    """
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
    accepted = DTYPES[name]
    if dtype not in accepted:
        raise reject("bad_dtype", f"{name}_dtype", dtype, " or ".join(accepted))
    result = array.astype(accepted[dtype], copy=False)
    if result is not array and not np.array_equal(result, array, equal_nan=True):
        raise reject("bad_value", name, f"numbers that are no {dtype}", f"what {name}_dtype says")
    return result


def check_length(episode: Episode, n_steps: Any) -> None:
    """What a row says of its length must be so.

    Raises:
        InputError: it is not.
    """
    if n_steps is not None and n_steps != episode.n_steps:
        raise reject("bad_value", "n_steps", n_steps, f"{episode.n_steps}, the number of rewards")
