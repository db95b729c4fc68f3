"""Parquet tables, one row a step; ``tables`` has the columns."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from experience.durable import write_atomic
from experience.episode import Episode
from learnerd.datasets import Losses
from learnerd.datasets.tables import lost, to_episodes, to_table

__all__ = ["lost", "read", "write"]


def read(source: str, losses: Losses, names: Mapping[str, str]) -> Iterator[Episode]:
    """Yield the episodes of a table; see ``Format.read``."""
    with pq.ParquetFile(source, pre_buffer=False) as file:
        return to_episodes(file.read(use_threads=False), Path(source).name, losses, names)


def write(episodes: Iterable[Episode], target: str) -> int:
    """Write a table; see ``Format.write``."""
    table, count = to_table(episodes)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    write_atomic(Path(target).absolute(), sink.getvalue())
    return count
