"""What an Episode works out of what it is given, against the plain way of doing so."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from experience.episode import ARRAYS, to_microseconds
from experience.errors import InputError

WORDS = ["", "a", 'quote" and \\', "é", "line\u2028", "\U0001f600"]


def plain_row_sha256(episode):
    header = {
        "key": list(episode.key),
        "env_id": episode.env_id,
        "seed": episode.seed,
        "policy_version": episode.policy_version,
        "outcome": [episode.terminated, episode.truncated, episode.incomplete],
    }
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in ARRAYS:
        if (array := getattr(episode, name)) is not None:
            digest.update(f"{name}{array.dtype.str}{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("env_id", [None, *WORDS])
@pytest.mark.parametrize("number", [None, 0, 1, -5, 2**62])
def test_the_rows_hash_is_that_of_its_json(make_episode, env_id, number):
    made = make_episode('id" \\é', env_id=env_id, client_id="é", segment=abs(number or 0))
    episode = dataclasses.replace(made, seed=number)
    assert episode.row_sha256 == plain_row_sha256(episode)


@pytest.mark.parametrize("obs", [np.ones((4, 3, 2), np.uint8), np.ones((4, 2**15), np.float32)])
def test_the_rows_hash_whatever_its_size(make_episode, obs):
    odd = {"mask": np.ones((3, 4), bool)[:, ::2], "reward": np.arange(3.0)[::-1], "terminated": True}
    episode = make_episode("e", obs=obs, policy_version_step=np.arange(3, dtype=">i8"), **odd)
    assert episode.row_sha256 == plain_row_sha256(episode)


@example(2.0**32 + 0.2734375)
@given(st.floats(0, 1e11) | st.integers(0, 10**17).map(lambda us: us / 1e6))
def test_times_are_rounded_to_microseconds(seconds):
    assert to_microseconds(seconds) == round(seconds, 6)


def test_a_time_of_minus_zero_is_zero(make_episode):
    rows = [make_episode("e", started_at=zero).row_sha256 for zero in (0.0, -0.0, -1e-9)]
    assert len(set(rows)) == 1


@pytest.mark.parametrize("dtype", [np.int64, np.int32])
def test_actions_are_counts(make_episode, dtype):
    assert make_episode("e", action=np.array([2**31 - 1, 0, 0], dtype)).n_steps == 3
    with pytest.raises(InputError, match="action is -1;"):
        make_episode("e", action=np.array([0, -1, 3], dtype))


@pytest.mark.parametrize("highest", [0.0, 1e-7, 0.5])
def test_the_highest_log_probability_is_looked_at(make_episode, highest):
    logp = np.array([-1.0, highest, -2.0])
    if highest < 1e-6:
        make_episode("e", logp=logp)
    else:
        with pytest.raises(InputError, match=str(highest)):
            make_episode("e", logp=logp)
