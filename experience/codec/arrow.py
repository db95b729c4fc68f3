"""Arrow IPC files (Feather 2): the same columns as Parquet, one row an episode, many a file.

The format has no checksums; everything that can be checked is, before a value is looked at.
"""

from collections.abc import Iterator

import pyarrow as pa

from experience.codec.contract import Decoded, Limits, Source
from experience.codec.tables import TableReader, read_batches
from experience.errors import InputError, reject

_MAGIC = b"ARROW1"
_STREAM = b"\xff\xff\xff\xff"
_MAX_BATCHES = 4096
_ACCEPTED = "an Arrow IPC file (pyarrow.ipc.new_file, Feather 2), not a stream"


def read(data: bytes, source: Source) -> Decoded:
    """Read every row.

    Raises:
        InputError: the whole file cannot be read; ``truncated`` when its end is missing.
    """
    _check_ends(data)
    pa.set_cpu_count(1)
    try:
        options = pa.ipc.IpcReadOptions(use_threads=False)
        with pa.ipc.open_file(pa.py_buffer(data), options=options) as file:
            reader = TableReader(file.schema, source, data)
            return read_batches(_batches(file, source.limits), reader)
    except MemoryError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise _malformed("file", f"{type(error).__name__}: {error}") from error


def _malformed(field: str, value: str) -> InputError:
    return reject("malformed", field, value, _ACCEPTED)


def _check_ends(data: bytes) -> None:
    if data.startswith(_STREAM):
        raise _malformed("file", "an Arrow stream")
    if not data.startswith(_MAGIC[: len(data)]):
        raise _malformed("first bytes", f"{data[:6]!r}")
    if len(data) < 2 * len(_MAGIC) or not data.endswith(_MAGIC):
        raise reject("truncated", "footer", f"not at the end of {len(data)} bytes", "a complete Arrow file")


def _batches(file: pa.RecordBatchFileReader, limits: Limits) -> Iterator[pa.RecordBatch]:
    if file.num_record_batches > _MAX_BATCHES:
        raise reject("too_large", "batches", file.num_record_batches, f"at most {_MAX_BATCHES} in one file")
    total = 0
    for i in range(file.num_record_batches):
        batch = file.get_batch(i)
        total += batch.nbytes
        if total > limits.max_decoded_bytes:
            accepted = f"at most {limits.max_decoded_bytes} bytes"
            raise reject("too_large", "decoded size", f"{total} bytes or more", accepted)
        yield batch
