"""Rewards that are not finite never become an episode, whatever format they come in."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

VALUES = [float("nan"), float("inf"), float("-inf")]
STEPS = 3


def rewards(value, at=1):
    reward = np.zeros(STEPS)
    reward[at] = value
    return reward


def npz(reward):
    meta = json.dumps({"episode_id": "e", "terminated": True, "truncated": False})
    file = io.BytesIO()
    np.savez(
        file, obs=np.zeros((STEPS + 1, 2)), action=np.zeros(STEPS, int), reward=reward, meta=np.array(meta)
    )
    return file.getvalue()


def jsonl(reward):
    steps = [{"obs": [0.0, 0.0], "action": 0, "reward": float(value)} for value in reward]
    end = {"final_obs": [0.0, 0.0], "terminated": True, "truncated": False}
    return b"".join(json.dumps(line).encode() + b"\n" for line in ({"episode_id": "e"}, *steps, end))


def table(reward):
    return pa.table(
        {
            "episode_id": ["e"],
            "obs": [np.zeros((STEPS + 1, 2)).tolist()],
            "action": [[0] * STEPS],
            "reward": pa.array([reward], pa.list_(pa.from_numpy_dtype(reward.dtype))),
            "terminated": [True],
            "truncated": [False],
        }
    )


def parquet(reward):
    file = io.BytesIO()
    pq.write_table(table(reward), file)
    return file.getvalue()


def arrow(reward):
    file = io.BytesIO()
    data = table(reward)
    with pa.ipc.new_file(file, data.schema) as writer:
        writer.write_table(data)
    return file.getvalue()


FORMATS = {"e.npz": npz, "e.jsonl": jsonl, "e.parquet": parquet, "e.arrow": arrow}


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("name", FORMATS)
def test_a_reward_that_is_not_finite(problem_of, decode, name, value):
    write = FORMATS[name]
    (episode,) = decode(write(rewards(1e12)), name).episodes
    np.testing.assert_array_equal(episode.reward, [0.0, 1e12, 0.0])
    problem = problem_of(write(rewards(value)), name)
    assert (problem.reason, problem.field) == ("not_finite", "line 3" if name == "e.jsonl" else "reward[1]")


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("name", ["e.npz", "e.parquet", "e.arrow"])
def test_narrow_numbers_that_overflowed_at_the_client(problem_of, name, dtype):
    with np.errstate(over="ignore"):
        reward = rewards(1e300, at=2).astype(dtype)
    assert problem_of(FORMATS[name](reward), name).reason == "not_finite"


@pytest.mark.parametrize("text", [b"1e999", b"-1e999", b"-Infinity", b"NaN"])
def test_a_json_number_that_is_none(problem_of, text):
    assert problem_of(jsonl(rewards(7.0)).replace(b"7.0", text), "e.jsonl").reason == "not_finite"
