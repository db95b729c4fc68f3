"""Rows read together, against the same rows read one by one: the same episodes, or the same words."""

import itertools
import random

import numpy as np
import pyarrow as pa
import pytest

from experience.codec import Limits, Source, tables
from experience.codec.tables import TableReader, read_batches
from experience.episode import ARRAYS
from experience.errors import InputError
from experience.rows import Row, StepTypes, to_table

ROWS = {
    "episode_id": ["a", "b", "c"],
    "client_id": ["bot", "bot", "bot"],
    "segment": [0, 0, 1],
    "policy_version": [3, None, 0],
    "started_at": [1.5, 2.5, -0.0],
    "tags": [["x"], [], ["x", "y"]],
    "pnl": [0.5, -0.0, 0.0],
    "extensions_json": ['{"a": 1}', '{"a": true}', "{}"],
    "observation_shape": [[2], [2], [2]],
    "obs": [[[0.5, 1], [2, 3], [4, 5]], [[6, 7], [8, 9]], [[1, 1], [2, 2], [3, 3]]],
    "obs_shape": [[2], [2], [2]],
    "obs_dtype": ["float32", "float32", "float32"],
    "action": [[0, 1], [1], [1, 0]],
    "reward": [[1.0, -1.0], [0.5], [0.0, 2.0]],
    "logp": [[-0.5, -1.0], [-0.25], [0.0, -2.0]],
    "mask": [[[True, True], [False, True]], [[True, True]], [[False, True], [True, True]]],
    "policy_version_step": [[1, 2], [0], [3, 3]],
    "n_steps": [2, 1, 2],
    "terminated": [False, True, True],
    "truncated": [True, False, False],
    "incomplete": [False, False, False],
}
"""Three episodes as a client may write them; the second has no observation after its last step."""

ODD = (None, -1, 0, 1, 2, 2**40, 2**63, -0.0, 0.5, 1e39, float("nan"), float("inf"), True, "", "x", "\x07")
ODD_LISTS = (None, [], [1], [0.5, 0.25], [1, None], [[]], [[1.0]], [[1, 2], [3]], [[1, 2]] * 2, [[0, 1]] * 3)
ODD_TEXTS = (
    '{"a": 1}',
    "{",
    '{"obs": 1}',
    '{"pnl": 1}',
    "é" * 300,
    "uint8",
    "O",
    '{"kind": "discrete", "n": 2}',
)


def outcome(batches):
    """What becomes of a file: episodes, problems and recorded hashes, or why it cannot be read."""
    source = Source(name="e.arrow", sha256="s" * 64, ingested_at=5.0, limits=Limits())
    try:
        with np.errstate(all="ignore"):  # as ``decode`` does
            decoded = read_batches(batches, TableReader(batches[0].schema, source, b"bytes"))
    except Exception as error:  # noqa: BLE001 - whatever it is, it must be the same
        return type(error).__name__, getattr(error, "problem", str(error))
    return [fields(episode) for episode in decoded.episodes], decoded.problems, decoded.recorded


def fields(episode):
    arrays = {name: array for name in ARRAYS if (array := getattr(episode, name)) is not None}
    return {
        **{name: repr(value) for name, value in vars(episode).items() if name not in (*ARRAYS, "_norms")},
        **{name: (array.dtype.str, array.shape, array.tobytes()) for name, array in arrays.items()},
        "flags": [(array.flags.writeable, array.flags.c_contiguous) for array in arrays.values()],
        "row_sha256": episode.row_sha256,
    }


@pytest.fixture
def both(monkeypatch):
    """Outcome read together, where that can be, and one by one; and whether it could be."""
    together = tables.read_together

    def run(batches):
        found = []

        def noted(*arguments):
            found.append(together(*arguments))
            return found[-1]

        monkeypatch.setattr(tables, "read_together", noted)
        first = outcome(batches)
        monkeypatch.setattr(tables, "read_together", lambda *_: None)
        return first, outcome(batches), bool(found) and None not in found

    return run


def batches_of(columns):
    return pa.table(columns).to_batches()


def test_plain_rows_are_read_together(both):
    first, second, together = both(batches_of(ROWS))
    assert together
    assert first == second
    assert [episode["segment"] for episode in first[0]] == ["0", "0", "1"]
    assert [episode["extensions"] for episode in first[0]] == [
        "{'pnl': 0.5, 'a': 1}",
        "{'pnl': -0.0, 'a': True}",
        "{'pnl': 0.0}",
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"obs": np.arange(4 * 6, dtype=np.uint8).reshape(4, 2, 3), "observation_shape": (2, 3)},
        {"action": np.full((3, 2), 0.5, np.float32), "logp": np.array([0.5, 1.5, -1.0])},
        {"mask": np.ones((3, 2), bool), "policy_version_step": np.arange(3)},
        {"logp": None, "terminated": False, "incomplete": True, "info_json": '{"a":1}'},
        {"action_space": {"kind": "discrete", "n": 2}, "env_id": "odd \ufffd", "ended_at": 1767225600.123456},
    ],
)
def test_shards_are_read_together(both, make_episode, changes):
    rows = [Row(episode=make_episode(f"e{i}", seed=i, **changes)) for i in range(3)]
    types = StepTypes.of([row.episode for row in rows])
    table = to_table(rows, types, with_verdict=False)
    first, second, together = both(table.to_batches())
    assert together
    assert first == second
    assert [episode["row_sha256"] for episode in first[0]] == [row.episode.row_sha256 for row in rows]
    assert first[2] == tuple(row.episode.row_sha256 for row in rows)


def mutated():
    """Tables with one odd value in one row, or in all."""
    for name, values in ROWS.items():
        for odd, place in itertools.product((*ODD, *ODD_LISTS, *ODD_TEXTS), (0, 2, None)):
            rows = [odd] * 3 if place is None else [odd if i == place else v for i, v in enumerate(values)]
            try:
                yield f"{name} {place} {odd!r}", batches_of({**ROWS, name: rows})
            except (pa.ArrowException, OverflowError):
                continue  # no column of one type holds both


def test_one_odd_value(both):
    cases = list(mutated())
    n_together = 0
    for name, batches in cases:
        first, second, together = both(batches)
        assert first == second, name
        n_together += together
    assert len(cases) > 500
    assert 100 < n_together < len(cases) - 300


@pytest.mark.parametrize("name", [name for name in ROWS if name not in ("obs", "action", "reward")])
def test_a_column_left_out(both, name):
    first, second, _ = both(batches_of({key: values for key, values in ROWS.items() if key != name}))
    assert first == second


@pytest.mark.parametrize(
    "columns",
    [
        {
            "final_obs": [[0.0, 1.0]] * 3,
            "obs": [rows[:n] for rows, n in zip(ROWS["obs"], (2, 1, 2), strict=True)],
        },
        {"final_obs": [None, [1.0, 2.0], None]},
        {"obs.x": ROWS["obs"]},
        {"done": [[False, True], [True], [False, True]]},
        {"info": [{"a": 1}, {"a": 2}, {"a": 3}], "info_json": None},
        {"info": [{"a": 1}] * 3, "info_json": ["1", "2", "3"]},
        {"observation_space": ['{"kind": "box", "shape": [2]}'] * 3},
        {"action_space": [{"kind": "discrete", "n": 2, "start": 0}] * 3, "mask": None},
        {"action_space": ['{"kind": "discrete", "n": 2}', None, None]},
        {"seed": pa.DictionaryArray.from_arrays([0, 1, 0], pa.array([1, 2]))},
        {
            "seed": pa.UnionArray.from_sparse(
                pa.array([0, 1, 0], pa.int8()), [pa.array([1] * 3), pa.array([True] * 3)]
            )
        },
        {"obs": pa.array([[[1, 2]] * 3, [[3, 4]] * 2, [[5, 6]] * 3], pa.list_(pa.list_(pa.uint8(), 2)))},
        {"reward": pa.array([[[1.0], [2.0]], [[1.0]], [[0.5], [0.25]]])},
    ],
)
def test_other_columns(both, columns):
    first, second, _ = both(batches_of({key: v for key, v in {**ROWS, **columns}.items() if v is not None}))
    assert first == second


def flipped(bits):
    """The table with one bit of its values, offsets or bitmaps flipped."""
    (batch,) = batches_of(ROWS)
    message = batch.serialize().to_pybytes()
    n_body = pa.ipc.read_message(message).body.size
    for bit in bits:
        changed = bytearray(message)
        changed[len(message) - n_body + bit // 8 % n_body] ^= 1 << bit % 8
        yield bit, pa.ipc.read_record_batch(pa.py_buffer(bytes(changed)), batch.schema)


def compare_flipped(both, bits):
    n_together = 0
    for bit, batch in flipped(bits):
        first, second, together = both([batch])
        assert first == second, f"bit {bit}"
        n_together += together
    return n_together


def test_one_flipped_bit(both):
    bits = random.Random(5).sample(range(8 * 4000), 400)
    assert 50 < compare_flipped(both, bits) < 350


@pytest.mark.slow
def test_every_flipped_bit(both):
    assert compare_flipped(both, range(8 * 4000)) > 4000


@pytest.mark.parametrize("room", [0, 1, 100, 243, 244, 300, 10_000])
def test_too_much_for_one_file(monkeypatch, room):
    source = Source(
        name="e.arrow", sha256="", ingested_at=5.0, limits=Limits(max_decoded_bytes=room, max_episodes=6)
    )

    def run():
        reader = TableReader(pa.table(ROWS).schema, source, b"")
        try:
            return len(read_batches(batches_of(ROWS) * 2, reader).episodes)
        except InputError as error:
            return error.problem

    first = run()
    monkeypatch.setattr(tables, "read_together", lambda *_: None)
    assert first == run()


def test_ids_are_counted_through_the_whole_file(both):
    """Where the client gave none, also beyond the rows that are turned into Python values at a time."""
    names = ("obs", "action", "reward", "terminated")
    table = pa.table({name: [ROWS[name][1]] * 600 for name in names} | {"seed": list(range(600))})
    first, one_by_one, were_together = both(table.to_batches(max_chunksize=300))
    assert first == one_by_one
    assert were_together
    ids = [episode["episode_id"] for episode in first[0]]
    assert [id_.rpartition(":")[2] for id_ in ids] == [f"{i}'" for i in range(600)]
