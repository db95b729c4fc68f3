"""Columnar: all rows of a batch at once, a column at a time, where nothing is odd about any of them.

A batch of 64 episodes is a dozen columns. Read so, each of them is converted and checked once, and an episode
is a few slices. Nothing is accepted here that the rows one by one would refuse, and nothing is said of what
is wrong: where something may be, ``read_together`` gives up, and they are read one by one.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experience.alike import Alike, Laid
from experience.codec.arrays import Array, to_obs
from experience.codec.assemble import REQUIRED, canonical_steps
from experience.codec.table_rows import DTYPES, FLAGS, Batch, RowReader, check_length, ended, restore
from experience.episode import DEFAULTS, Episode
from experience.errors import InputError
from experience.fields import HEADER_FIELDS, STEP_FIELDS, header_values

_SAME = frozenset({"schema_version", "action_space", "observation_space", "observation_shape", "info"})
"""Header fields that say how the others are read: the same in all rows, or the rows are read one by one."""

_Cells = Mapping[str, Sequence[Any]]
"""Field -> one value a row; None where it is null, which it is not in all rows."""


class Together(NamedTuple):
    """The episodes of a batch, and the bytes of their arrays."""

    episodes: tuple[Episode, ...]
    n_bytes: int


class _Odd(Exception):  # noqa: N818 - no fault of the rows
    """They have to be read one by one."""


def read_together(batch: Batch, rows: RowReader, first: int) -> Together | None:
    """Return the episodes of all rows, as ``rows`` would; None when they have to be read one by one.

    Args:
        batch: of at least one row.
        rows: of the same file.
        first: the place of the first row in the file.
    """
    try:
        return _together(batch, rows, range(first, first + batch.n_rows))
    except (_Odd, InputError, ValueError, TypeError, KeyError, OverflowError, MemoryError):
        return None


def _together(batch: Batch, rows: RowReader, places: Sequence[int]) -> Together:
    cells = dict(batch.cells)
    lengths = cells.pop("n_steps", [None] * len(places))
    laid = _laid(batch)
    arrays = _restored(laid, cells)
    outcomes = _outcomes(cells, len(places))
    common, varying = _header(cells, len(places), rows)
    if "episode_id" not in common:
        varying["episode_id"] = _names(varying.get("episode_id"), rows, places)
    steps = {name: Laid(array, laid[name].offsets) for name, array in _steps(arrays, common).items()}
    episodes = Alike(common=common | rows.provenance, varying=varying | outcomes, steps=steps).episodes()
    for episode, n_steps in zip(episodes, lengths, strict=True):
        check_length(episode, n_steps)
    return Together(episodes, sum([each.values.nbytes for each in steps.values()]))


def _restored(laid: Mapping[str, Laid], cells: dict[str, list[Any]]) -> dict[str, Array]:
    """The arrays of ``laid`` as they were, where our shards changed them; takes out what says so."""
    arrays = {name: each.values for name, each in laid.items()}
    for name in DTYPES:
        shape, dtype = (_same(cells.pop(f"{name}_{what}", [None])) for what in ("shape", "dtype"))
        restore(arrays, name, shape, dtype)
    return arrays


def _laid(batch: Batch) -> dict[str, Laid]:
    """The columns of steps that are not null throughout."""
    given = {name: column for name, column in batch.steps.items() if not column.is_empty}
    if not (STEP_FIELDS.keys() >= given.keys() >= set(REQUIRED)):
        raise _Odd
    laid = {name: column.whole() for name, column in given.items()}
    if None in laid.values():
        raise _Odd
    return {name: each for name, each in laid.items() if each is not None}


def _outcomes(cells: dict[str, list[Any]], n_rows: int) -> dict[str, Sequence[Any]]:
    """Take the flags out of ``cells``; whether each row terminated and was truncated."""
    flags = {name: cells.pop(name) for name in FLAGS if name in cells}
    incomplete = {name: cells[name] for name in ("incomplete",) if name in cells}
    said = list(map(repr, zip(*flags.values(), *incomplete.values(), strict=True))) or [""] * n_rows
    places = {words: i for i, words in enumerate(said)}
    found = {words: ended(_row(incomplete, i), _row(flags, i)) for words, i in places.items()}
    each = [found[words] for words in said]
    return {"terminated": [one for one, _ in each], "truncated": [one for _, one in each]}


def _header(cells: _Cells, n_rows: int, rows: RowReader) -> tuple[dict[str, Any], dict[str, Sequence[Any]]]:
    """Header values of all columns: those that all rows have, and one a row of the others."""
    if cells.keys() >= {"info", "info_json"}:
        raise _Odd
    same = {name for name, values in cells.items() if _are_same(values)}
    varying: dict[str, Sequence[Any]] = {}
    passed_on = {name: values for name, values in cells.items() if name not in HEADER_FIELDS}
    if not passed_on.keys() <= same:
        varying["extensions"] = [_values(_row(passed_on, i), rows)["extensions"] for i in range(n_rows)]
        same -= passed_on.keys()
    for name in cells.keys() - same - passed_on.keys():
        if name in _SAME:
            raise _Odd
        default = DEFAULTS.get(name)
        varying[name] = [_values({name: value}, rows).get(name, default) for value in cells[name]]
    common = _values({name: values[0] for name, values in cells.items() if name in same}, rows)
    if "extensions" in varying:
        del common["extensions"]
    return common, varying


def _row(cells: _Cells, place: int) -> dict[str, Any]:
    """What one row says."""
    return {name: value for name, values in cells.items() if (value := values[place]) is not None}


def _values(cells: dict[str, Any], rows: RowReader) -> dict[str, Any]:
    return header_values(rows.header(cells))


def _names(ids: Sequence[Any] | None, rows: RowReader, places: Sequence[int]) -> list[str]:
    """An id for each row, where the client gave none too."""
    given = [None] * len(places) if ids is None else ids
    source, data = rows.source, rows.data
    return [source.episode_id(data, i) if id_ is None else id_ for id_, i in zip(given, places, strict=True)]


def _steps(arrays: Mapping[str, Array], common: dict[str, Any]) -> dict[str, Array]:
    """The canonical arrays, end to end; ``common`` gets the space that actions are stored in."""
    if "observation_space" in common:
        raise _Odd
    obs = to_obs(arrays["obs"], common.get("observation_shape"))
    return {"obs": obs, **canonical_steps(arrays, common)}


def _same(values: Sequence[Any]) -> Any:
    if not _are_same(values):
        raise _Odd
    return values[0]


def _are_same(values: Sequence[Any]) -> bool:
    """Whether they are one value of one type; 1 is not True here, nor 0.0 the same as -0.0."""
    first = values[0]
    if isinstance(first, str):
        return values.count(first) == len(values)
    return len(set(map(type, values))) == 1 and len(set(map(repr, values))) == 1
