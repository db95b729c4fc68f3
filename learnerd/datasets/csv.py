"""CSV tables, one row a step; ``tables`` has the columns. Here ``action.0`` … are real numbers."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pc

from experience.durable import write_atomic
from experience.episode import Episode
from learnerd.datasets import Losses, tables
from learnerd.datasets.tables import KEYS, to_episodes, to_table

_TEXT = {name: pa.string() for name in KEYS if name != "segment"}


def read(source: str, losses: Losses, names: Mapping[str, str]) -> Iterator[Episode]:
    """Yield the episodes of a table; see ``Format.read``."""
    texts = _TEXT | {names[name]: kind for name, kind in _TEXT.items() if name in names}
    options = pc.ConvertOptions(column_types=texts, strings_can_be_null=False)
    try:
        table = pc.read_csv(source, convert_options=options)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{source}: {error}") from error
    for index, name in enumerate(table.column_names):
        if name.startswith("action."):
            table = table.set_column(index, name, table[name].cast(pa.float64()))
    return to_episodes(table, Path(source).name, losses, names)


def lost(episode: Episode, losses: Losses) -> None:
    """Tell what CSV has no place for; see ``Format.lost``."""
    tables.lost(episode, losses)
    several = episode.action.ndim > 1 and episode.action.dtype.kind == "i"
    losses.add("several choices at once: they read back as real numbers", when=several)


def write(episodes: Iterable[Episode], target: str) -> int:
    """Write a table; see ``Format.write``."""
    table, count = to_table(episodes)
    sink = pa.BufferOutputStream()
    pc.write_csv(table, sink)
    write_atomic(Path(target).absolute(), sink.getvalue())
    return count
