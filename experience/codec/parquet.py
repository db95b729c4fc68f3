"""Parquet: one row an episode, many a file; a shard of the archive, or what any other writer makes.

Sizes are checked from the footer before a page is read, checksums of pages wherever the writer wrote them.
"""

import pyarrow as pa
import pyarrow.parquet as pq

from experience.codec.contract import Decoded, Limits, Source
from experience.codec.tables import TableReader, read_batches
from experience.errors import InputError, reject

_MAGIC = b"PAR1"
_TAIL_BYTES = 8
_MAX_FOOTER_BYTES = 4 * 2**20
"""Parsed, it takes some ten times as much. A shard's has 12 kB a row group."""
_MAX_ROW_GROUPS = 4096
_MAX_FOOTER_ITEMS = 1_000_000
_BATCH_ROWS = 256
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 12}
"""Physical type -> bytes a value once decoded; others count by their pages."""
_ACCEPTED = "a Parquet file, not encrypted"


def read(data: bytes, source: Source) -> Decoded:
    """Read every row.

    Raises:
        InputError: the whole file cannot be read; ``truncated`` when its end is missing.
    """
    _check_ends(data)
    try:
        with _opened(data) as file:
            _check_sizes(file.metadata, source.limits)
            reader = TableReader(file.schema_arrow, source, data)
            return read_batches(file.iter_batches(batch_size=_BATCH_ROWS, use_threads=False), reader)
    except MemoryError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise _malformed("file", f"{type(error).__name__}: {error}") from error


def _malformed(field: str, value: str) -> InputError:
    return reject("malformed", field, value, _ACCEPTED)


def _check_ends(data: bytes) -> None:
    if not data.startswith(_MAGIC[: len(data)]):
        raise _malformed("first bytes", f"{data[:4]!r}")
    if len(data) < len(_MAGIC) + _TAIL_BYTES or not data.endswith(_MAGIC):
        raise reject("truncated", "footer", f"not at the end of {len(data)} bytes", "a complete Parquet file")
    footer_bytes = int.from_bytes(data[-_TAIL_BYTES:-4], "little")
    if footer_bytes > _MAX_FOOTER_BYTES:
        raise reject("too_large", "footer", f"{footer_bytes} bytes", f"at most {_MAX_FOOTER_BYTES} bytes")


def _opened(data: bytes) -> pq.ParquetFile:
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    return pq.ParquetFile(
        pa.BufferReader(data),
        page_checksum_verification=True,
        pre_buffer=False,
        thrift_string_size_limit=_MAX_FOOTER_BYTES,
        thrift_container_size_limit=_MAX_FOOTER_ITEMS,
    )


def _check_sizes(metadata: pq.FileMetaData, limits: Limits) -> None:
    """What the footer announces; should it lie, the process's memory limit holds."""
    for field, found, most in (
        ("episodes", metadata.num_rows, limits.max_episodes),
        ("row groups", metadata.num_row_groups, _MAX_ROW_GROUPS),
    ):
        if found > most:
            raise reject("too_large", field, f"{found}", f"at most {most} in one file")
    total = sum(_group_bytes(metadata.row_group(i)) for i in range(metadata.num_row_groups))
    if total > limits.max_decoded_bytes:
        accepted = f"at most {limits.max_decoded_bytes} bytes"
        raise reject("too_large", "decoded size", f"{total} bytes", accepted)


def _group_bytes(group: pq.RowGroupMetaData) -> int:
    columns = (group.column(i) for i in range(group.num_columns))
    return sum(
        max(column.total_uncompressed_size, column.num_values * _WIDTHS.get(column.physical_type, 0))
        for column in columns
    )
