"""Tables of logged decisions: one row a step, in any order of columns, as CSV or Parquet.

Columns: ``episode_id`` (with ``client_id``, ``segment``, ``agent_id``; without it each row is an episode of
one step), ``step`` (the order; without it that of the rows), ``obs`` or ``obs.0`` …, ``action`` or
``action.0`` …, ``reward``, and, where known, ``logp``, ``mask.0`` …, ``policy_version``, ``terminated``,
``truncated``. A last row without a reward holds the observation after the last action.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from experience.episode import Episode
from experience.errors import reject
from learnerd.datasets import Losses

KEYS = ("client_id", "episode_id", "segment", "agent_id")
VECTORS = ("obs", "action", "mask")
EMPTY, UNMASKED = "?action", "?mask"
"""Our columns of whether a row leaves out its action, or its mask."""
KNOWN = (*KEYS, *VECTORS, "step", "reward", "logp", "policy_version", "terminated", "truncated")
ACCEPTED = (
    "episode_id (with client_id, segment, agent_id), step, obs or obs.0 …, action or action.0 …, reward, "
    "logp, mask.0 …, policy_version, terminated, truncated; --map field=column names others"
)


def to_episodes(table: pa.Table, source: str, losses: Losses, names: Mapping[str, str]) -> Iterator[Episode]:
    """Yield the episodes of a table, in the order of their first rows.

    Args:
        table: rows as described above.
        source: its name, for errors and ids.
        losses: is told what an episode loses.
        names: field -> column, where the table has other names than ours.

    Raises:
        InputError: naming the episode or column, and what is accepted.
    """
    columns = _named(table, source, names)
    for number, rows in enumerate(_groups(columns, table.num_rows)):
        yield _episode({name: column[rows] for name, column in columns.items()}, f"{source}:{number}", losses)


def to_table(episodes: Iterable[Episode]) -> tuple[pa.Table, int]:
    """Return the table of ``episodes`` and their number; what one of them does not have is null."""
    parts = [_rows(episode) for episode in episodes]
    return pa.concat_tables(parts, promote_options="default"), len(parts)


def lost(episode: Episode, losses: Losses) -> None:
    """Tell what a table has no place for; see ``Format.lost``."""
    losses.add("the shape of observations", when=episode.obs.ndim > 2)  # noqa: PLR2004 - [T + 1, D]
    losses.add("an end that was never recorded counts as truncated", when=episode.incomplete)
    losses.add(
        "info, tags, seeds, spaces and times",
        when=bool(episode.info_json or episode.tags or episode.extensions),
    )


def _named(table: pa.Table, source: str, names: Mapping[str, str]) -> dict[str, NDArray[Any]]:
    """Columns under our names, as arrays; null is NaN or None."""
    given = {column: field for field, column in names.items()}
    if missing := given.keys() - set(table.column_names):
        raise reject(
            "missing_field", f"{source}, column {min(missing)}", "none", f"one of {table.column_names}"
        )
    columns: dict[str, NDArray[Any]] = {name: np.zeros(table.num_rows, bool) for name in (EMPTY, UNMASKED)}
    for column in table.column_names:
        name = given.get(column, column)
        if name.partition(".")[0] in KNOWN:
            columns[name] = _array(table[column], name)
            if name.partition(".")[0] in ("action", "mask"):
                empty = EMPTY if name.startswith("action") else UNMASKED
                columns[empty] |= table[column].is_null().to_numpy()
    for field in ("obs", "action", "reward"):
        if not any(name.partition(".")[0] == field for name in columns):
            raise reject("missing_field", f"{source}, column {field}", f"{table.column_names}", ACCEPTED)
    return columns


def _groups(columns: Mapping[str, NDArray[Any]], rows: int) -> Iterator[NDArray[np.int64]]:
    """Row numbers of each episode, in order."""
    if "episode_id" not in columns:
        yield from np.arange(rows)[:, None]
        return
    of: dict[tuple[Any, ...], list[int]] = {}
    keys = [columns[name].tolist() for name in KEYS if name in columns]
    for row, key in enumerate(zip(*keys, strict=True)):
        of.setdefault(key, []).append(row)
    for found in of.values():
        numbers = np.array(found)
        yield numbers[np.argsort(columns["step"][numbers], kind="stable")] if "step" in columns else numbers


def _episode(columns: Mapping[str, NDArray[Any]], name: str, losses: Losses) -> Episode:
    alone = "episode_id" not in columns
    reward = columns["reward"]
    steps = len(reward) - int(np.isnan(reward[-1]))  # the last row may be an observation only
    if columns[EMPTY][:steps].any():
        row = int(np.argmax(columns[EMPTY]))
        raise reject("missing_field", f"{name}, row {row}, action", "nothing", "a number in every step")
    terminated, truncated = (_ends(columns, field, alone=alone) for field in ("terminated", "truncated"))
    fields: dict[str, Any] = {
        "episode_id": name if alone else str(columns["episode_id"][0]),
        "obs": _vector(columns, "obs"),
        "action": _vector(columns, "action")[:steps],
        "reward": reward[:steps],
        "terminated": terminated or (alone and not truncated),
        "truncated": truncated,
    }
    if not fields["terminated"] and steps == len(reward):  # no row holds what was seen at the end
        losses.add("the last step, whose observation is what was seen at the end")
        fields |= {"action": fields["action"][:-1], "reward": reward[:-1]}
        steps -= 1
    if "logp" in columns and not np.isnan(columns["logp"][:steps]).all():
        fields["logp"] = columns["logp"][:steps]
    unmasked = columns[UNMASKED][:steps]
    if any(column.startswith("mask.") for column in columns) and not unmasked.all():
        fields["mask"] = _vector(columns, "mask")[:steps].astype(bool) | unmasked[:, None]
    return Episode(**fields, **_identity(columns, steps))


def _identity(columns: Mapping[str, NDArray[Any]], steps: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: str(columns[name][0])
        for name in ("client_id", "agent_id")
        if columns.get(name, [None])[0] is not None
    }
    if "segment" in columns:
        found["segment"] = int(columns["segment"][0])
    if "policy_version" in columns:
        versions = columns["policy_version"][:steps]
        acted = np.nan_to_num(versions).astype(np.int64)
        if len(set(acted)) > 1:
            found["policy_version_step"] = acted
        elif not np.isnan(versions).any():
            found["policy_version"] = int(acted[0])
    return found


def _ends(columns: Mapping[str, NDArray[Any]], field: str, *, alone: bool) -> bool:
    """Whether any row says so: it stands in the last step's row, or in that of the last observation."""
    if field in columns:
        return any(value is not None and value == 1 for value in columns[field].tolist())
    if alone or field == "truncated":
        return False
    raise reject(
        "missing_field", "column terminated", "none", "1 or true where the task itself ended, else 0"
    )


def _vector(columns: Mapping[str, NDArray[Any]], field: str) -> NDArray[Any]:
    """``field`` as one number a row, or ``field.0`` … as vectors."""
    if field in columns:
        return columns[field][:, None] if field == "obs" else columns[field]
    names = sorted((name for name in columns if name.startswith(f"{field}.")), key=_position)
    return np.stack([columns[name] for name in names], axis=1)


def _position(name: str) -> int:
    text = name.partition(".")[2]
    if not text.isdecimal():
        raise reject("bad_value", "column", name, f"a number after the dot, from 0; {ACCEPTED}")
    return int(text)


def _array(column: pa.ChunkedArray, name: str) -> NDArray[Any]:
    """A column as an array; where the last row of an episode has no action, there is 0."""
    field, numeric = (
        name.partition(".")[0],
        pa.types.is_integer(column.type) or pa.types.is_boolean(column.type),
    )
    if field in (*KEYS, "terminated", "truncated") and field != "segment":
        return np.array(column.to_pylist(), dtype=object)
    if not numeric and not pa.types.is_floating(column.type):
        raise reject("bad_value", f"column {name}", str(column.type), "numbers")
    if field == "obs" and column.type == pa.uint8() and not column.null_count:
        kind: Any = np.uint8
    elif field in ("action", "mask"):
        column = column.cast(pa.int64()) if numeric else column
        column, kind = column.fill_null(0), np.int64 if numeric else np.float32
    else:  # null becomes NaN, which no episode accepts where it counts
        column, kind = column.cast(pa.float64()), np.float32 if field == "obs" else np.float64
    return np.asarray(column.to_numpy(), dtype=kind)


def _rows(episode: Episode) -> pa.Table:
    steps, seen = episode.n_steps, len(episode.obs)
    flat = episode.obs.reshape(seen, -1)
    versions = episode.policy_version_step
    columns: dict[str, Any] = {name: pa.repeat(getattr(episode, name), seen) for name in KEYS}
    columns["step"] = np.arange(seen)
    columns |= {f"obs.{index}": flat[:, index] for index in range(flat.shape[1])}
    columns |= _numbered("action", episode.action) | {"reward": episode.reward}
    columns |= {} if episode.logp is None else {"logp": episode.logp}
    columns |= {} if episode.mask is None else _numbered("mask", episode.mask)
    if versions is not None or episode.policy_version is not None:
        columns["policy_version"] = (
            versions if versions is not None else np.full(steps, episode.policy_version)
        )
    columns |= {name: pa.repeat(getattr(episode, name), seen) for name in ("terminated", "truncated")}
    return pa.table({name: _padded(values, seen) for name, values in columns.items()})


def _numbered(field: str, values: NDArray[Any]) -> dict[str, NDArray[Any]]:
    if values.ndim == 1:
        return {field: values}
    return {f"{field}.{index}": values[:, index] for index in range(values.shape[1])}


def _padded(values: Any, rows: int) -> pa.Array:
    array = values if isinstance(values, pa.Array) else pa.array(values)
    return array if len(array) == rows else pa.concat_arrays([array, pa.nulls(rows - len(array), array.type)])
