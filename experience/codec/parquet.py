"""Parquet: one row an episode, many a file; a shard of the archive, or what any other writer makes.

Sizes are checked from the footer before a page is read, checksums of pages wherever the writer wrote them.
"""

import pyarrow as pa
import pyarrow.parquet as pq

from experience.codec.contract import Decoded, Limits, Source
from experience.codec.parquet_footer import Footer, read_footer
from experience.codec.tables import TableReader, read_batches
from experience.errors import InputError, reject

_MAGIC = b"PAR1"
_TAIL_BYTES = 8
_MAX_FOOTER_BYTES = 2**20
"""A shard's has 12 kB a row group of 64 MiB; a megabyte takes a second to read."""
_MAX_ROW_GROUPS = 4096
_MAX_FOOTER_ITEMS = 1_000_000
_BATCH_ROWS = 256
_ACCEPTED = "a Parquet file, not encrypted"


def read(data: bytes, source: Source) -> Decoded:
    """Read every row.

    Raises:
        InputError: the whole file cannot be read; ``truncated`` when its end is missing.
    """
    _check_sizes(_footer(data), source.limits)
    try:
        with _opened(data) as file:
            reader = TableReader(file.schema_arrow, source, data)
            return read_batches(file.iter_batches(batch_size=_BATCH_ROWS, use_threads=False), reader)
    except MemoryError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise _malformed("file", f"{type(error).__name__}: {error}") from error


def _malformed(field: str, value: str) -> InputError:
    return reject("malformed", field, value, _ACCEPTED)


def _footer(data: bytes) -> Footer:
    if not data.startswith(_MAGIC[: len(data)]):
        raise _malformed("first bytes", f"{data[:4]!r}")
    if len(data) < len(_MAGIC) + _TAIL_BYTES or not data.endswith(_MAGIC):
        raise reject("truncated", "footer", f"not at the end of {len(data)} bytes", "a complete Parquet file")
    footer_bytes = int.from_bytes(data[-_TAIL_BYTES:-4], "little")
    if footer_bytes > _MAX_FOOTER_BYTES:
        raise reject("too_large", "footer", f"{footer_bytes} bytes", f"at most {_MAX_FOOTER_BYTES} bytes")
    if footer_bytes + _TAIL_BYTES + len(_MAGIC) > len(data):
        raise _malformed("footer", f"{footer_bytes} bytes in a file of {len(data)}")
    try:
        return read_footer(data[-_TAIL_BYTES - footer_bytes : -_TAIL_BYTES])
    except ValueError as error:
        raise _malformed("footer", str(error)) from error


def _check_sizes(footer: Footer, limits: Limits) -> None:
    """What the footer announces; should it lie, the process's memory limit holds."""
    for field, found, most in (
        ("episodes", footer.n_rows, limits.max_episodes),
        ("row groups", footer.n_groups, _MAX_ROW_GROUPS),
        ("decoded size", footer.decoded_bytes, limits.max_decoded_bytes),
    ):
        if found > most:
            raise reject("too_large", field, f"{found}", f"at most {most} in one file")


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
