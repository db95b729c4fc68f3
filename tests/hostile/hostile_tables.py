"""Hostile Parquet and Arrow IPC files."""

import io
import pickle
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hostile_case import WIDTH, Case, quarantined, refused, write
from hostile_npz import BOMB_BYTES, Canary

T = 2


def columns(now, names, **replaced):
    """Columns of good episodes; None leaves one out."""
    count = len(names)
    values = {
        "episode_id": list(names),
        "client_id": ["hostile"] * count,
        "policy_version": [0] * count,
        "ended_at": [now] * count,
        "terminated": [True] * count,
        "truncated": [False] * count,
        "obs": [[[0.5 * step] * WIDTH for step in range(T + 1)]] * count,
        "action": [[0, 1]] * count,
        "reward": [[1.0, -0.5]] * count,
        "logp": [[-0.7, -0.7]] * count,
        **replaced,
    }
    return {name: value for name, value in values.items() if value is not None}


def parquet(table, **options):
    sink = io.BytesIO()
    pq.write_table(table, sink, write_page_checksum=True, **options)
    return sink.getvalue()


def arrow(table, *, compression=None):
    sink = io.BytesIO()
    with pa.ipc.new_file(
        sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)
    ) as writer:
        writer.write_table(table)
    return sink.getvalue()


def cases(now, canary):
    """Yield every case, in both formats where it makes sense."""
    for extension, encode in ((".parquet", parquet), (".arrow", arrow)):
        yield from _rows(now, extension, encode)
        yield from _whole_files(now, extension, encode)
    yield from _parquet_only(now)
    yield from _arrow_only(now, canary)


def _rows(now, extension, encode):
    def case(name, records, **replaced):
        """Three rows; the one in the middle is bad."""
        names = [f"{name}{extension}-{i}" for i in range(3)]
        good = columns(now, names)
        mixed = {
            key: [good.get(key, [None] * 3)[0], value, good.get(key, [None] * 3)[2]]
            for key, value in replaced.items()
        }
        content = encode(pa.table({**good, **mixed}))
        return Case(name=f"row-{name}{extension}", make=write(content), learned=2, records=records)

    row = [[0.5] * WIDTH] * (T + 1)
    yield case("nan", quarantined("not_finite"), reward=[1.0, float("nan")])
    yield case("1e38", refused("out_of_range"), reward=[1.0, 1e38])
    yield case("null-step", quarantined("bad_value"), obs=[row[0], None, row[0]])
    yield case("null", quarantined("missing_field"), obs=None)
    yield case("ragged", quarantined("bad_shape"), obs=[row[0], [1.0], row[0]])
    yield case("short", quarantined("bad_shape"), action=[0])
    yield case("empty", quarantined("bad_shape"), reward=[])
    yield case("wide", refused("observation_width"), obs=[[1.0] * 9] * (T + 1))
    yield case("control", quarantined("bad_value"), episode_id="\x1b[2J")
    yield case("future", refused("future"), ended_at=now + 1e6)
    yield case("version", refused("unknown_version"), policy_version=2**40)
    yield case("no-outcome", quarantined("missing_field"), terminated=None, truncated=None)
    yield case("deep-json", quarantined("too_large"), info_json="[" * 99)
    yield case("lying-hash", quarantined("bad_value"), row_sha256="0" * 64)
    yield case("lying-count", quarantined("bad_value"), n_steps=7)


def _whole_files(now, extension, encode):
    def case(name, table, records, **options):
        return Case(
            name=f"{name}{extension}",
            make=write(lambda: encode(table() if callable(table) else table, **options)),
            records=records,
        )

    names = [f"t{extension}-{i}" for i in range(3)]
    good = pa.table(columns(now, names))
    data = encode(good)
    yield Case(name=f"empty{extension}", make=write(b""), records=quarantined("truncated"))
    yield Case(name=f"half{extension}", make=write(data[: len(data) // 2]), records=quarantined("truncated"))
    yield Case(name=f"text{extension}", make=write(b"hello"), records=quarantined("malformed"))
    noise = data[:8] + bytes(range(256)) * 9 + data[-8:]
    yield Case(name=f"noise{extension}", make=write(noise), records=(("quarantined", "malformed|too_large"),))
    yield case("no-rows", good.slice(0, 0), quarantined("bad_shape"))
    yield case("row-a-step", pa.table(columns(now, names, obs=[1.0] * 3)), quarantined("bad_dtype"))
    yield case("text-steps", pa.table(columns(now, names, reward=[["x"]] * 3)), quarantined("bad_dtype"))
    yield case("no-obs", pa.table(columns(now, names, obs=None)), quarantined("missing_field"))
    many = {f"x{i}": [0] * 3 for i in range(1000)}
    yield case("many-columns", pa.table(columns(now, names, **many)), quarantined("too_large"))
    yield case("many-rows", lambda: _many_rows(now, 50_000), quarantined("too_large"))
    zstd = {"compression": "zstd"}
    yield case("bomb", lambda: _wide(now, BOMB_BYTES), quarantined("too_large"), **zstd)
    yield case("bomb-text", lambda: _text_bomb(now), quarantined("too_large"), **zstd)


def _many_rows(now, count):
    one = pa.table(columns(now, ["m"]))
    return pa.concat_tables([one] * count).combine_chunks()


def _wide(now, n_bytes):
    """One episode whose observations decode to ``n_bytes``."""
    width = n_bytes // 4 // (T + 1)
    values = pa.array(np.zeros(width * (T + 1), np.float32))
    steps = pa.ListArray.from_arrays(np.arange(T + 2, dtype=np.int32) * width, values)
    obs = pa.ListArray.from_arrays(np.array([0, T + 1], np.int32), steps)
    return pa.table(columns(now, ["wide"], obs=obs))


def _text_bomb(now):
    """20,000 rows that share one text of a megabyte, kept once in a dictionary: 20 GB."""
    table = _many_rows(now, 20_000)
    note = pa.DictionaryArray.from_arrays(pa.array(np.zeros(20_000, np.int32)), pa.array(["x" * 2**20]))
    return table.append_column("note", note)


def _parquet_only(now):
    good = columns(now, [f"p-{i}" for i in range(3)])
    yield Case(
        name="bomb-runs.parquet",
        make=write(lambda: parquet(_wide(now, BOMB_BYTES), use_dictionary=True, compression="none")),
        records=quarantined("too_large"),
        why="50 million equal numbers in a few bytes",
    )
    yield Case(
        name="header-60-mb.parquet",
        make=write(lambda: b"PAR1" + bytes(60_000_000) + struct.pack("<I", 60_000_000) + b"PAR1"),
        records=quarantined("too_large"),
    )
    data = bytearray(
        parquet(pa.table(good), compression="none", use_dictionary=False, write_statistics=False)
    )
    data[data.index(struct.pack("<d", -0.5))] ^= 1
    yield Case(name="page-damaged.parquet", make=write(bytes(data)), records=quarantined("malformed"))
    yield Case(
        name="many-groups.parquet",
        make=write(lambda: parquet(_many_rows(now, 5000), row_group_size=1)),
        records=quarantined("too_large"),
    )
    yield Case(
        name="good-table.parquet",
        make=write(parquet(pa.table(good))),
        learned=3,
        why="a neighbor of its kind",
    )


def _arrow_only(now, canary):
    good = pa.table(columns(now, [f"a-{i}" for i in range(3)]))
    yield Case(name="good-table.arrow", make=write(arrow(good)), learned=3, why="a neighbor of its kind")
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, good.schema) as writer:
        writer.write_table(good)
    yield Case(name="stream.arrow", make=write(sink.getvalue()), records=quarantined("malformed"))
    offsets = pa.py_buffer(np.array([0, 2, 2**30, 6], np.int32))
    wild = pa.ListArray.from_buffers(
        pa.list_(pa.float64()), 3, [None, offsets], children=[pa.array([1.0] * 6)]
    )
    yield Case(
        name="offsets.arrow",
        make=write(arrow(good.set_column(good.column_names.index("reward"), "reward", wild))),
        records=quarantined("malformed"),
    )
    text = pa.StringArray.from_buffers(
        3, pa.py_buffer(np.array([0, 1, 2, 3], np.int32)), pa.py_buffer(b"a\xffb")
    )
    yield Case(
        name="not-utf8.arrow",
        make=write(arrow(good.set_column(0, "episode_id", text))),
        records=quarantined("malformed"),
    )
    live = {
        "ARROW:extension:name": "arrow.py_extension_type",
        "ARROW:extension:metadata": pickle.dumps(Canary(canary)),
    }
    field = pa.field("note", pa.int64(), metadata=live)
    yield Case(
        name="pickled-type.arrow",
        make=write(
            arrow(good.append_column(field, [[1, 2, 3]]).set_column(0, "episode_id", [["x1", "x2", "x3"]]))
        ),
        learned=3,
        why="older readers unpickled the type; the numbers are plain",
    )


def small_parquet(now) -> bytes:
    """A small valid file, whose every bit can be flipped."""
    table = pa.table(columns(now, ["small"]))
    return parquet(table, store_schema=False, write_statistics=False, use_dictionary=False)


def small_arrow(now) -> bytes:
    """A small valid file, whose every bit can be flipped."""
    return arrow(pa.table(columns(now, ["small"])))
