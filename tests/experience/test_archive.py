import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from experience import archive
from experience.archive import add_rows, read_note, read_rows, read_shard, write_shard
from experience.episode import Episode
from experience.errors import ExperienceError, InputError, Problem, ShardDamaged

PROBLEM = Problem(reason="too_old", field="ended_at", value="9 s ago", accepted="at most 5 s", index=1)


def small(**changes):
    values = {
        "episode_id": "e-1",
        "action": np.array([0, 1, 1]),
        "reward": np.array([1.0, 0.5, -0.25]),
        "obs": np.arange(16, dtype=np.float32).reshape(4, 4),
        "terminated": False,
        "truncated": True,
    }
    return Episode(**values | changes)


def full():
    return small(
        incomplete=True,
        segment=3,
        client_id="bot",
        agent_id="left",
        env_id="CartPole-v1",
        seed=-7,
        tags=("warm-up", "é"),
        policy_version=12,
        policy_digest="ab" * 32,
        started_at=1_767_225_600.123456,
        ended_at=1_767_225_601.654321,
        ingested_at=1_767_225_700.000001,
        source_sha256="cd" * 32,
        source_name="caf\udce9 \ufffd \\n\n.npz",
        logp=np.array([-0.1, -0.2, -3.0]),
        mask=np.array([[True, False], [True, True], [False, True]]),
        policy_version_step=np.array([11, 12, 12]),
        action_space={"kind": "discrete", "n": 2},
        observation_shape=(2, 2),
        info_json='{"a":"\\\\"}',
        extensions={"pnl": -1.25, "nested": {"list": [1, None, "x"]}},
    )


def assert_same(left, right):
    """Every field, its type, its dtype and its bits."""
    assert left.row_sha256 == right.row_sha256
    for field in dataclasses.fields(Episode):
        a, b = getattr(left, field.name), getattr(right, field.name)
        if isinstance(a, np.ndarray):
            assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()), field.name
            assert not b.flags.writeable
        else:
            assert a == b, field.name
            assert type(a) is type(b), field.name


def round_trip(path, episodes, **arguments):
    write_shard(path, episodes, **arguments)
    found = read_shard(path)
    assert len(found) == len(episodes)
    for one, other in zip(episodes, found, strict=True):
        assert_same(one, other)


def test_round_trip_is_exact_with_every_field_and_with_none(tmp_path):
    round_trip(tmp_path / "s.parquet", [full(), small(), full()])


def test_round_trip_of_images_continuous_actions_and_other_ranks(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 5, 3, 2)).astype(np.uint8)
    round_trip(tmp_path / "images", [small(obs=images)])
    continuous = rng.normal(size=(3, 2)).astype(np.float32)
    round_trip(tmp_path / "continuous", [small(action=continuous)])
    round_trip(tmp_path / "scalar", [small(obs=np.arange(4, dtype=np.float32))])
    round_trip(
        tmp_path / "empty", [small(obs=np.zeros((4, 0), np.float32), action=np.zeros((3, 0), np.float32))]
    )
    round_trip(tmp_path / "vector mask", [small(mask=np.array([True, False, True]))])
    round_trip(
        tmp_path / "mixed",
        [
            small(obs=images),
            small(action=continuous),
            small(action=np.array([0, 2**31 - 1, 1])),
            small(action=np.array([0.1, 0.2, 0.3])),
            small(obs=np.arange(4, dtype=np.float64) / 3),
        ],
    )


def test_verdicts_stand_beside_their_rows(tmp_path):
    path = tmp_path / "s.parquet"
    odd = Problem(reason="bad_value", field="tags[0]", value="\ud800\ufffd", accepted="text")
    round_trip(path, [small(), full(), small()], verdicts=[PROBLEM, None, odd])
    assert [row.verdict for row in read_rows(path)] == [PROBLEM, None, odd]


def test_a_note_stays_with_its_shard(tmp_path):
    path = tmp_path / "s.parquet"
    write_shard(path, [small()])
    assert read_note(path) == ""
    add_rows(path, [small(episode_id="e-2")], note='["é"]')
    assert read_note(path) == '["é"]'
    add_rows(path, [small(episode_id="e-3")])
    assert read_note(path) == '["é"]'
    assert [episode.episode_id for episode in read_shard(path)] == ["e-1", "e-2", "e-3"]
    add_rows(path, [], note="another")
    assert read_note(path) == "another"
    path.write_bytes(path.read_bytes().replace(b"another", b"onother"))
    with pytest.raises(ShardDamaged):
        read_note(path)


def test_long_shards_are_cut_into_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "_ROW_GROUP_BYTES", 200)
    path = tmp_path / "s.parquet"
    episodes = [small(episode_id=f"e{i}", logp=None if i % 2 else -np.ones(3)) for i in range(7)]
    round_trip(path, episodes)
    assert pq.ParquetFile(path).num_row_groups == 7


def test_other_readers_see_plain_tables(tmp_path):
    path = tmp_path / "s.parquet"
    write_shard(path, [full()])
    table = pq.read_table(path, page_checksum_verification=True)
    assert table.schema.field("obs").type == pa.list_(
        pa.field("element", pa.list_(pa.field("element", pa.float32())))
    )
    assert table.schema.field("action").type == pa.list_(pa.field("element", pa.int64()))
    assert table.schema.field("ended_at").type == pa.timestamp("us", tz="UTC")
    row = table.to_pylist()[0]
    assert row["return"] == 1.25
    assert row["n_steps"] == 3
    assert row["obs_shape"] == [4]
    assert row["observation_shape"] == [2, 2]
    assert row["ended_at"].isoformat() == "2026-01-01T00:00:01.654321+00:00"
    assert row["source_name"] == "caf\ufffddce9 \ufffdfffd \\n\n.npz"
    assert row["extensions_json"] == '{"pnl": -1.25, "nested": {"list": [1, null, "x"]}}'


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    path = tmp_path_factory.mktemp("shard") / "s.parquet"
    write_shard(path, [full()])
    return path.read_bytes()


def test_every_flipped_byte_is_noticed(tmp_path, shard):
    path = tmp_path / "s.parquet"
    path.write_bytes(shard)
    noticed = []
    with path.open("r+b", buffering=0) as file:
        for i, byte in enumerate(shard):
            os.pwrite(file.fileno(), bytes([byte ^ 1 << (i % 8)]), i)
            try:
                read_shard(path)
            except ShardDamaged as error:
                noticed.append(error.path)
            os.pwrite(file.fileno(), bytes([byte]), i)
    assert noticed == [path] * len(shard)
    assert_same(read_shard(path)[0], full())


def test_every_truncation_is_noticed(tmp_path, shard):
    path = tmp_path / "s.parquet"
    for length in [*range(64), *range(64, len(shard), 7), len(shard) - 1]:
        path.write_bytes(shard[:length])
        with pytest.raises(ShardDamaged):
            read_shard(path)


def test_a_flipped_bit_in_a_page_is_noticed_by_other_readers_too(tmp_path):
    path = tmp_path / "s.parquet"
    write_shard(path, [small(obs=np.random.default_rng(0).normal(size=(4, 400)).astype(np.float32))])
    data = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(0)
    where = {column.column(i).path_in_schema: column.column(i) for i in range(column.num_columns)}
    obs = where["obs.list.element.list.element"]
    data[obs.data_page_offset + obs.total_compressed_size - 8] ^= 1
    path.write_bytes(data)
    with pytest.raises(OSError, match="CRC checksum verification failed"):
        pq.read_table(path, page_checksum_verification=True)


def test_a_row_that_is_not_what_was_hashed_is_noticed_behind_an_intact_seal(tmp_path):
    path = tmp_path / "s.parquet"
    write_shard(path, [small()])
    table = pq.read_table(path)
    forged = table.set_column(table.column_names.index("segment"), "segment", pa.array([9]))
    sink = pa.BufferOutputStream()
    pq.write_table(forged, sink)
    path.write_bytes(archive._seal(sink.getvalue()))
    with pytest.raises(ShardDamaged, match="row 0"):
        read_shard(path)


@pytest.mark.parametrize("change", ["schema", "missing", "foreign"])
def test_a_shard_of_another_make_is_refused(tmp_path, change):
    path = tmp_path / "s.parquet"
    write_shard(path, [small()])
    table = pq.read_table(path)
    if change == "schema":
        table = table.set_column(0, "schema_version", pa.array([99], pa.int32()))
    if change == "missing":
        table = table.drop_columns(["logp"])
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    path.write_bytes(sink.getvalue() if change == "foreign" else archive._seal(sink.getvalue()))
    with pytest.raises(ShardDamaged):
        read_shard(path)


def test_a_missing_shard_is_no_damage(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_shard(tmp_path / "none.parquet")
    assert issubclass(ShardDamaged, ExperienceError)


def test_the_spool_and_the_package_load_no_pyarrow():
    code = "import experience.spool, experience.outcomes, sys; sys.exit('pyarrow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


TEXT = st.text(st.characters(blacklist_categories=("Cs",)), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(TEXT, children, max_size=3),
    max_leaves=5,
)
TIME = st.floats(0, 1e11)


@st.composite
def episodes(draw):
    steps = draw(st.integers(1, 4))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
    floats = st.floats(-1e6, 1e6, width=32)
    obs = draw(
        hnp.arrays(np.uint8, (steps + 1, *shape))
        | hnp.arrays(np.float32, (steps + 1, *shape), elements=floats),
    )
    action = draw(
        hnp.arrays(np.int64, steps, elements=st.integers(0, 2**31 - 1))
        | hnp.arrays(np.float32, (steps, draw(st.integers(0, 3))), elements=floats),
    )
    return Episode(
        episode_id=draw(st.text("abé", min_size=1, max_size=5)),
        obs=obs,
        action=action,
        reward=draw(hnp.arrays(np.float64, steps, elements=st.floats(-1e300, 1e300))),
        logp=draw(st.none() | hnp.arrays(np.float64, steps, elements=st.floats(-1e3, 0))),
        mask=draw(st.none() | hnp.arrays(np.bool_, (steps, draw(st.integers(0, 3))))),
        policy_version_step=draw(st.none() | hnp.arrays(np.int64, steps)),
        terminated=draw(st.booleans()),
        truncated=draw(st.booleans()),
        incomplete=draw(st.booleans()),
        segment=draw(st.integers(0, 2**63 - 1)),
        seed=draw(st.none() | st.integers(-(2**63), 2**63 - 1)),
        env_id=draw(st.none() | TEXT),
        tags=tuple(draw(st.lists(TEXT, max_size=2))),
        started_at=draw(st.none() | TIME),
        ended_at=draw(st.none() | TIME),
        ingested_at=draw(TIME),
        source_name=draw(TEXT),
        info_json=draw(st.none() | TEXT),
        extensions=draw(st.dictionaries(TEXT, JSON, max_size=3)),
        observation_shape=draw(st.none() | st.tuples(st.integers(1, 2**63 - 1))),
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(episodes(), min_size=1, max_size=3))
def test_round_trip_of_anything_is_exact(tmp_path, drawn):
    round_trip(tmp_path / "s.parquet", drawn)


def test_episodes_round_times_and_refuse_actions_that_no_space_has():
    assert small(ended_at=0.1234567891).ended_at == 0.123457
    with pytest.raises(InputError, match="2147483647"):
        small(action=np.array([0, 1, 2**31]))
