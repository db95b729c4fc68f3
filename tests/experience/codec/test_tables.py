"""Parquet and Arrow IPC files: many episodes, written by us or by others."""

import io
import struct
from datetime import UTC, datetime

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experience.archive import write_shard
from experience.codec.parquet_footer import read_footer
from experience.errors import Problem

ROWS = {
    "episode_id": ["a", "b"],
    "obs": [[[0.5, 1], [2, 3], [4, 5]], [[6, 7], [8, 9]]],
    "action": [[0, 1], [1]],
    "reward": [[1.0, -1.0], [0.5]],
    "terminated": [True, True],
}


def parquet(table, **options):
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def arrow(table, *, compression=None, batch_rows=None):
    sink = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_file(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=batch_rows)
    return sink.getvalue()


FORMATS = {".parquet": parquet, ".arrow": arrow}


@pytest.fixture(params=FORMATS)
def table_of(request, decode):
    """Decode columns in one of the two formats; given values replace those of ROWS, None drops one."""

    def run(columns=None, **limits):
        columns = {**ROWS, **(columns or {})}
        table = pa.table({name: values for name, values in columns.items() if values is not None})
        return decode(FORMATS[request.param](table), f"e{request.param}", **limits)

    return run


def reasons(decoded):
    return [(problem.index, problem.reason, problem.field) for problem in decoded.problems]


def test_rows_are_episodes(table_of):
    first, second = table_of({"policy_version": [7, None], "logp": [[-0.5, -0.25], None]}).episodes
    np.testing.assert_array_equal(first.obs, [[0.5, 1], [2, 3], [4, 5]])
    np.testing.assert_array_equal(first.action, [0, 1])
    np.testing.assert_array_equal(first.reward, [1, -1])
    np.testing.assert_array_equal(first.logp, [-0.5, -0.25])
    assert (first.obs.dtype, first.action.dtype, first.reward.dtype) == (np.float32, np.int64, np.float64)
    assert (first.episode_id, first.policy_version, first.n_steps) == ("a", 7, 2)
    assert (second.episode_id, second.policy_version, second.logp) == ("b", None, None)
    assert (first.source_name.partition(".")[0], first.source_sha256, first.ingested_at) == (
        "e",
        "s" * 64,
        5.0,
    )


def test_other_names_and_no_ids(table_of):
    names = {"obs": "observations", "action": "actions", "reward": "rewards", "terminated": "dones"}
    columns = {new: ROWS[old] for old, new in names.items()}
    decoded = table_of({**columns, "episode_id": None, **dict.fromkeys(names)})
    ids = [episode.episode_id for episode in decoded.episodes]
    assert [name[-2:] for name in ids] == [":0", ":1"]
    assert ids[0][:-2] == ids[1][:-2]


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.list_(pa.float32())),
        pa.large_list(pa.large_list(pa.float64())),
        pa.list_(pa.list_(pa.float32(), 2)),
        pa.list_(pa.list_(pa.float16())),
        pa.list_(pa.list_(pa.decimal128(5, 2))),
    ],
    ids=str,
)
def test_any_list_of_any_number(table_of, kind):
    first, second = table_of(
        {"obs": pa.array(ROWS["obs"], pa.list_(pa.list_(pa.float64()))).cast(kind)}
    ).episodes
    np.testing.assert_array_equal(first.obs, ROWS["obs"][0])
    np.testing.assert_array_equal(second.obs, ROWS["obs"][1])


def test_fixed_size_lists_in_arrow(decode):
    rows = [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]
    obs = pa.array(rows, pa.list_(pa.list_(pa.uint8(), 2), 2))
    table = pa.table({**ROWS, "obs": obs, "action": [[0], [1]], "reward": [[0.5], [1.5]]})
    (episode,) = decode(arrow(table.slice(1)), "e.arrow").episodes
    np.testing.assert_array_equal(episode.obs, [[4, 5], [6, 7]])
    assert episode.obs.dtype == np.uint8


def test_tensors_in_arrow(decode):
    kind = pa.fixed_shape_tensor(pa.float32(), [2])
    steps = pa.ExtensionArray.from_storage(kind, pa.array([[0, 1], [2, 3]], pa.list_(pa.float32(), 2)))
    table = pa.table(
        {
            "obs": pa.ListArray.from_arrays([0, 2], steps),
            "action": [[0]],
            "reward": [[1.0]],
            "terminated": [True],
        }
    )
    (episode,) = decode(arrow(table), "e.arrow").episodes
    np.testing.assert_array_equal(episode.obs, [[0, 1], [2, 3]])


def test_list_views_are_refused(decode):
    """Their cast to lists gives arrays of negative length."""
    obs = pa.array([[0.0, 1.0]], pa.list_view(pa.float64()))
    table = pa.table({"obs": obs, "action": [[0]], "reward": [[1.0]], "terminated": [True]})
    with pytest.raises(Exception, match="bad_dtype: obs is list_view"):
        decode(arrow(table), "e.arrow")


def test_images_keep_their_axes(table_of):
    obs = np.arange(3 * 2 * 2 * 3, dtype=np.uint8).reshape(3, 2, 2, 3)
    kind = pa.list_(pa.list_(pa.list_(pa.list_(pa.uint8()))))
    columns = {name: values[:1] for name, values in ROWS.items()}
    (episode,) = table_of({**columns, "obs": pa.array([obs.tolist()], kind)}).episodes
    np.testing.assert_array_equal(episode.obs, obs)


def test_header_columns(table_of):
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    columns = {
        "client_id": pa.array(["bot", "bot"]).dictionary_encode(),
        "started_at": [1767225600.25, None],
        "ended_at": pa.array([moment, None], pa.timestamp("us", tz="Europe/Vienna")),
        "tags": [["x", "y"], None],
        "seed": pa.array([3.0, None]),
        "truncated": [False, None],
        "action_space": [{"kind": "discrete", "n": 2, "shape": None}, None],
        "info": [{"pnl": 1.5}, None],
        "ext.note": ["n", None],
        "observation_shape": [[2], None],
    }
    first, second = table_of(columns).episodes
    assert (first.client_id, first.started_at, first.ended_at) == ("bot", 1767225600.25, 1767225600.0)
    assert (first.tags, first.seed, first.action_space) == (("x", "y"), 3, {"kind": "discrete", "n": 2})
    assert (first.info_json, first.extensions) == ('{"pnl":1.5}', {"ext.note": "n"})
    assert (second.ended_at, second.tags, second.extensions) == (None, (), {})


def test_flags_a_step(table_of):
    columns = {"terminated": [[False, True], [False]], "truncated": [[False, False], [True]]}
    first, second = table_of(columns).episodes
    assert (first.terminated, first.truncated) == (True, False)
    assert (second.terminated, second.truncated) == (False, True)


def test_final_observations_apart(table_of):
    columns = {"obs": [[[0, 1], [2, 3]], [[4, 5]]], "final_obs": [[8, 9], None]}
    first, second = table_of(columns).episodes
    np.testing.assert_array_equal(first.obs, [[0, 1], [2, 3], [8, 9]])
    assert len(second.obs) == 1


@pytest.mark.parametrize(
    ("columns", "reason", "field"),
    [
        ({"obs": [[[0, 1], [2, None], [3, 4]], ROWS["obs"][1]]}, "bad_value", "obs[1]"),
        ({"obs": [[[0, 1], None, [3, 4]], ROWS["obs"][1]]}, "bad_value", "obs[1]"),
        ({"obs": [[[0, 1], [2], [3, 4]], ROWS["obs"][1]]}, "bad_shape", "obs[1]"),
        ({"obs": [None, ROWS["obs"][1]]}, "missing_field", "obs"),
        (
            {
                "obs": [[[0, 1], [2, 3]], ROWS["obs"][1]],
                "terminated": [False, True],
                "truncated": [True, False],
            },
            "bad_shape",
            "obs",
        ),
        ({"reward": [[1.0, float("nan")], [0.5]]}, "not_finite", "reward[1]"),
        ({"reward": [[1.0], [0.5]]}, "bad_shape", "action"),
        ({"reward": [[], [0.5]]}, "bad_shape", "reward"),
        ({"terminated": [None, True]}, "missing_field", "terminated"),
        ({"terminated": [2, 1]}, "bad_value", "terminated"),
        ({"episode_id": ["\x07", "b"]}, "bad_value", "episode_id"),
        ({"policy_version": [-1, 1]}, "bad_value", "policy_version"),
        ({"n_steps": [3, 1]}, "bad_value", "n_steps"),
        ({"row_sha256": ["0" * 64, None]}, "bad_value", "row_sha256"),
        ({"row_sha256": [5, None]}, "bad_value", "row_sha256"),
        ({"obs_dtype": ["uint8", None]}, "bad_value", "obs"),
        ({"obs_dtype": ["O", None]}, "bad_dtype", "obs_dtype"),
        ({"obs_shape": [[3], None]}, "bad_shape", "obs_shape"),
        ({"obs_shape": [[-1, 10**12], None]}, "bad_shape", "obs_shape"),
        ({"extensions_json": ["[1]", None]}, "bad_value", "extensions_json"),
        ({"extensions_json": ['{"obs": 1}', None]}, "bad_value", "extensions_json.obs"),
        ({"extensions_json": ["[" * 99, None]}, "too_large", "extensions_json"),
        ({"action_space": ['{"kind": "other"}', None]}, "bad_value", "action_space"),
        ({"pnl": [float("inf"), None]}, "not_finite", "pnl"),
    ],
)
def test_a_bad_row_is_refused_without_its_neighbor(table_of, columns, reason, field):
    decoded = table_of(columns)
    assert reasons(decoded) == [(0, reason, field)]
    assert [episode.episode_id for episode in decoded.episodes] == ["b"]


def test_a_row_that_is_another_than_its_hash_says(table_of):
    """Each is compared with its own, whatever stands before it."""
    right = [episode.row_sha256 for episode in table_of().episodes]
    assert len(table_of({"row_sha256": right}).episodes) == 2
    changed = table_of({"row_sha256": right[::-1]})
    assert changed.episodes == ()
    assert [(problem.index, problem.value) for problem in changed.problems] == [(0, right[1]), (1, right[0])]
    accepted = "the sha256 of this row; leave the column out of rows that you change"
    assert [problem.accepted for problem in changed.problems] == [f"{each}, {accepted}" for each in right]
    unread = table_of({"row_sha256": ["0" * 64, "x"], "terminated": [None, True]})
    assert reasons(unread) == [(0, "missing_field", "terminated"), (1, "bad_value", "row_sha256")]


@pytest.mark.parametrize(
    ("columns", "reason", "field"),
    [
        ({"obs": None}, "missing_field", "obs"),
        ({"observations": ROWS["obs"]}, "bad_value", "obs"),
        ({"obs": [1.0, 2.0]}, "bad_dtype", "obs"),
        ({"obs": [["a"], ["b"]]}, "bad_dtype", "obs"),
        ({"ended_at": pa.array([1, 2], pa.timestamp("us"))}, "bad_dtype", "ended_at"),
        ({"blob": pa.array([b"\xff", b""], pa.binary())}, "bad_dtype", "blob"),
        ({f"x{i}": [1, 2] for i in range(300)}, "too_large", "columns"),
    ],
)
def test_a_bad_column_concerns_the_whole_file(table_of, columns, reason, field):
    with pytest.raises(Exception, match=reason) as caught:
        table_of(columns)
    assert isinstance(caught.value.problem, Problem)
    assert caught.value.problem.field == field


@pytest.mark.parametrize("limits", [{"max_decoded_bytes": 50}, {"max_episodes": 1}])
def test_too_much(table_of, limits):
    with pytest.raises(Exception, match="too_large"):
        table_of(**limits)


def test_no_rows(decode):
    empty = pa.table(ROWS).slice(0, 0)
    for extension, write in FORMATS.items():
        with pytest.raises(Exception, match="bad_shape: rows is 0"):
            decode(write(empty), f"e{extension}")


def test_many_groups_and_batches(decode):
    table = pa.concat_tables([pa.table({**ROWS, "episode_id": [f"{i}a", f"{i}b"]}) for i in range(300)])
    for data, name in (
        (parquet(table, row_group_size=7), "e.parquet"),
        (arrow(table, batch_rows=7, compression="zstd"), "e.arrow"),
    ):
        ids = [episode.episode_id for episode in decode(data, name).episodes]
        assert ids == table["episode_id"].to_pylist()


@pytest.fixture
def varied(make_episode):
    """Episodes that differ in dtypes, shapes and missing parts, as one shard may hold them."""
    images = np.arange(4 * 4, dtype=np.uint8).reshape(4, 2, 2)
    return [
        make_episode("floats", ended_at=1767225600.123456, extensions={"pnl": 1.5, "odd �": "�"}),
        make_episode("bytes", obs=images, observation_shape=(2, 2), tags=("x", "y"), info_json='{"a":1}'),
        make_episode("continuous", action=np.ones((3, 2), np.float32), logp=None, env_id="e"),
        make_episode("masked", mask=np.ones((3, 2), bool), policy_version_step=np.arange(3)),
        make_episode("incomplete �", terminated=False, incomplete=True, policy_version=None),
    ]


def same(found, episode):
    own = ("source_name", "source_sha256", "ingested_at")
    names = [name for name in vars(episode) if name not in (*own, "row_sha256")]
    for name in names:
        np.testing.assert_array_equal(getattr(found, name), getattr(episode, name), err_msg=name)
    assert found.row_sha256 == episode.row_sha256


@pytest.mark.parametrize("verdicts", [False, True])
def test_a_shard_of_the_archive_as_it_is(decode, varied, tmp_path, verdicts):
    path = tmp_path / "1.parquet"
    problem = Problem(reason="too_old", field="ended_at", value="1", accepted="2")
    write_shard(path, varied, verdicts=[problem] * len(varied) if verdicts else None)
    decoded = decode(path.read_bytes(), "1.parquet")
    assert decoded.problems == ()
    for found, episode in zip(decoded.episodes, varied, strict=True):
        same(found, episode)


@pytest.mark.parametrize("writer", ["duckdb", "polars", "polars ipc"])
def test_a_shard_that_another_tool_has_rewritten(decode, varied, tmp_path, writer):
    path, copy = tmp_path / "1.parquet", tmp_path / f"2.{'arrow' if 'ipc' in writer else 'parquet'}"
    write_shard(path, varied)
    if writer == "duckdb":
        duckdb.sql(f"COPY (SELECT * FROM '{path}') TO '{copy}' (FORMAT parquet)")
    elif writer == "polars":
        pl.read_parquet(path).write_parquet(copy)
    else:
        pl.read_parquet(path).write_ipc(copy, compression="zstd")
    decoded = decode(copy.read_bytes(), copy.name)
    assert decoded.problems == ()
    for found, episode in zip(decoded.episodes, varied, strict=True):
        same(found, episode)


SQL = """
    SELECT 'a' AS episode_id, [[0.5, 1.5], [2.5, 3.5]] AS obs, [0] AS action, [0.5] AS reward,
        true AS terminated, '2026-01-01 00:00:00+00'::TIMESTAMPTZ AS ended_at
"""


def test_what_others_write(decode, tmp_path):
    path = tmp_path / "e.parquet"
    rows = {"obs": [[[0.5, 1.5], [2.5, 3.5]]], "action": [[0]], "reward": [[0.5]], "terminated": [True]}
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    writers = (
        lambda: duckdb.sql(f"SET timezone = 'UTC'; COPY ({SQL}) TO '{path}' (FORMAT parquet)"),
        lambda: pl.DataFrame({"episode_id": ["a"], **rows, "ended_at": [moment]}).write_parquet(path),
        lambda: pd.DataFrame({"episode_id": ["a"], **rows, "ended_at": [moment]}, index=["i"]).to_parquet(
            path
        ),
    )
    for write in writers:
        write()
        (episode,) = decode(path.read_bytes(), path.name).episodes
        np.testing.assert_array_equal(episode.obs, [[0.5, 1.5], [2.5, 3.5]])
        assert (episode.episode_id, episode.ended_at, episode.extensions) == ("a", 1767225600.0, {})


def test_duckdb_and_polars_read_the_archive(varied, tmp_path):
    path = tmp_path / "1.parquet"
    write_shard(path, varied)
    query = "SELECT episode_id, n_steps, \"return\", len(obs), extensions_json->>'$.pnl' FROM read_parquet(?)"
    found = duckdb.execute(query, [str(path)]).fetchall()
    assert [row[1:4] for row in found] == [(e.n_steps, e.total_reward, len(e.obs)) for e in varied]
    assert (found[0][0], found[0][4]) == ("floats", "1.5")
    frame = pl.read_parquet(path)
    assert frame["row_sha256"].to_list() == [episode.row_sha256 for episode in varied]
    np.testing.assert_array_equal(np.array(frame["obs"][0].to_list(), np.float32), varied[0].obs)
    np.testing.assert_array_equal(
        frame["reward"].explode().to_numpy(), np.concatenate([e.reward for e in varied])
    )
    moments = frame["ended_at"].dt.epoch("us").to_list()
    assert moments[0] == 1767225600123456


def test_cut_short(decode):
    for extension, write in FORMATS.items():
        data = write(pa.table(ROWS))
        for size in range(1, len(data), 7):
            with pytest.raises(Exception, match="truncated"):
                decode(data[:size], f"e{extension}")


def test_what_is_no_such_file(decode):
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, pa.table(ROWS).schema) as writer:
        writer.write_table(pa.table(ROWS))
    for data, name in (
        (b"PK\x03\x04", "e.parquet"),
        (b"PK\x03\x04", "e.arrow"),
        (sink.getvalue(), "e.arrow"),
        (b"PAR1" + bytes(20) + struct.pack("<I", 20) + b"PAR1", "e.parquet"),
        (b"ARROW1" + bytes(20) + b"ARROW1", "e.arrow"),
    ):
        with pytest.raises(Exception, match="malformed"):
            decode(data, name)


def test_a_flipped_bit_in_a_page_with_a_checksum(decode):
    data = bytearray(
        parquet(
            pa.table(ROWS),
            write_page_checksum=True,
            compression="none",
            use_dictionary=False,
            write_statistics=False,
        )
    )
    at = data.index(struct.pack("<d", -1.0))
    data[at] ^= 1
    with pytest.raises(Exception, match="CRC"):
        decode(bytes(data), "e.parquet")


def test_large_footers_are_not_parsed(decode):
    with pytest.raises(Exception, match="too_large: footer"):
        decode(b"PAR1" + bytes(100) + struct.pack("<I", 60 * 2**20) + b"PAR1", "e.parquet")


def test_ids_cost_one_hash_a_file(decode, monkeypatch):
    """Hashing 64 MiB for each of 20,000 episodes would take an hour."""
    from experience.codec import contract  # noqa: PLC0415 - patched here only

    real, calls = contract.hashlib.sha256, []
    monkeypatch.setattr(contract.hashlib, "sha256", lambda *a: calls.append(a) or real(*a))
    data = arrow(pa.table({**ROWS, "row": [1, 2]}).drop_columns("episode_id"))
    assert len(decode(data, "e.arrow").episodes) == 2
    assert sum(call[0] == b"e.arrow" for call in calls if call) == 1


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_the_footer_announces_what_pyarrow_says(varied, tmp_path, compression):
    """Read without native code, which ends the process on some damaged footers."""
    path = tmp_path / "1.parquet"
    write_shard(path, varied)
    wide = pa.table({"x": np.zeros(10_000), "y": np.arange(10_000, dtype=np.int32), "t": ["text"] * 10_000})
    for data in (path.read_bytes(), parquet(wide, row_group_size=999, compression=compression)):
        footer = read_footer(data[-8 - int.from_bytes(data[-8:-4], "little") : -8])
        metadata = pq.read_metadata(pa.BufferReader(data))
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        chunks = [group.column(i) for group in groups for i in range(group.num_columns)]
        widths = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8}
        sizes = [
            max(c.total_uncompressed_size, c.num_values * widths.get(c.physical_type, 0)) for c in chunks
        ]
        assert (footer.n_rows, footer.n_groups) == (metadata.num_rows, len(groups))
        assert footer.decoded_bytes == sum(sizes)


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"\x1c" * 99, b"\x19\xfc\xff\xff\xff\x7f", b"\x16" + b"\xff" * 20]
)
def test_what_is_no_footer(data):
    with pytest.raises(ValueError, match=r"footer|deep|list|integer|end"):
        read_footer(data)


@pytest.mark.parametrize("name", [b"logp", b"policy_version", b"client_id"])
def test_a_damaged_column_name_is_noticed(decode, varied, tmp_path, name):
    """It would be an extension, and the episode another."""
    path = tmp_path / "1.parquet"
    write_shard(path, varied)
    data = bytearray(path.read_bytes())
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    data[data.index(name, start)] ^= 1
    with pytest.raises(Exception, match="columns other than in its schema"):
        decode(bytes(data), "1.parquet")
