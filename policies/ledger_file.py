"""``ledger.parquet``: the episodes that one version added, with provenance. Loads pyarrow."""

import io
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from experience.episode import EpisodeKey
from policies.checkpoint import LedgerEntry

SCHEMA = pa.schema(
    [
        ("key_hash", pa.binary(16)),
        ("client_id", pa.string()),
        ("episode_id", pa.string()),
        ("segment", pa.int64()),
        ("agent_id", pa.string()),
        ("row_sha256", pa.string()),
        ("source_name", pa.string()),
        ("source_sha256", pa.string()),
        ("claim_id", pa.string()),
        ("policy_version", pa.int64()),
        ("n_steps", pa.int64()),
        ("total_reward", pa.float64()),
        ("ingested_at", pa.float64()),
        ("update", pa.int64()),
    ]
)
FEW_ROWS = 64
"""Up to here compression saves a third of some kilobytes, and takes as long as all the rest of a publish."""
PROVENANCE = [field.name for field in SCHEMA if field.name not in ("key_hash", *EpisodeKey._fields)]


def encode_entries(entries: Sequence[LedgerEntry]) -> bytes:
    """One row an episode, in the order given, with page checksums."""
    rows = [_to_row(entry) for entry in entries]
    columns = [pa.array([row[field.name] for row in rows], field.type) for field in SCHEMA]
    table = pa.Table.from_arrays(columns, schema=SCHEMA)
    few = len(entries) <= FEW_ROWS
    sink = io.BytesIO()
    pq.write_table(
        table,
        sink,
        compression="none" if few else "zstd",
        use_dictionary=not few,
        write_statistics=not few,
        write_page_checksum=True,
    )
    return sink.getvalue()


def decode_entries(data: bytes) -> list[LedgerEntry]:
    """Read back what ``encode_entries`` wrote, from bytes whose hash was checked."""
    return [
        LedgerEntry(
            key=EpisodeKey(*(row[name] for name in EpisodeKey._fields)),
            **{name: row[name] for name in PROVENANCE},
        )
        for row in _read(data, None).to_pylist()
    ]


def decode_ids(data: bytes) -> Iterator[tuple[bytes, str]]:
    """(key digest, row sha256) of each row, from bytes whose hash was checked."""
    table = _read(data, ["key_hash", "row_sha256"])
    return zip(table["key_hash"].to_pylist(), table["row_sha256"].to_pylist(), strict=True)


def _read(data: bytes, columns: list[str] | None) -> Any:
    """Without ``read_table``: its thread holds ``data``, and may abort the process at exit."""
    with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True, pre_buffer=False) as file:
        return file.read(columns=columns, use_threads=False)


def _to_row(entry: LedgerEntry) -> dict[str, Any]:
    row = {name: getattr(entry, name) for name in PROVENANCE}
    row |= entry.key._asdict() | {"key_hash": entry.key.digest()}
    return {name: _to_utf8(value) if isinstance(value, str) else value for name, value in row.items()}


def _to_utf8(text: str) -> str:
    """Bytes of a file name that are no UTF-8 become escapes: Parquet strings are UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
