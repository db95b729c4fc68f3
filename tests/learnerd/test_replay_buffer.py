"""The replay buffer against a plain list, and its draws."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from learnerd.replay_buffer import ReplayBuffer, size_bytes

PLENTY = {"most_episodes": 1000, "most_bytes": 10**9}
DRAW = {"usable": lambda _: True, "without": (), "most_steps": 10**9}


def contents(buffer):
    return [(archived.version, archived.episode.episode_id) for archived in buffer]


def names(drawn):
    return [archived.episode.episode_id for archived in drawn]


def filled(make_episode, count, **options):
    buffer = ReplayBuffer(**{**PLENTY, **options})
    buffer.add(1, [make_episode(f"e{i}") for i in range(count)])
    return buffer


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), max_size=6),
    most_episodes=st.integers(1, 8),
    most_kib=st.integers(1, 4),
)
def test_the_newest_are_kept_also_when_they_are_read_backwards(
    make_episode, lengths, most_episodes, most_kib
):
    ids = iter(range(1000))
    versions = [[make_episode(f"e{next(ids)}", steps=20 * n) for n in steps] for steps in lengths]
    limits = {"most_episodes": most_episodes, "most_bytes": 1024 * most_kib}
    forwards, backwards = ReplayBuffer(**limits), ReplayBuffer(**limits)
    expected = []
    for version, episodes in enumerate(versions):
        forwards.add(version, episodes)
        for episode in episodes:
            if size_bytes(episode) <= limits["most_bytes"]:
                expected.append((version, episode))
            while len(expected) > most_episodes or sum(size_bytes(e) for _, e in expected) > 1024 * most_kib:
                del expected[0]
    assert contents(forwards) == [(version, episode.episode_id) for version, episode in expected]
    for version, episodes in reversed(list(enumerate(versions))):
        if not backwards.add_older(version, episodes):
            break
    kept = contents(backwards)
    assert kept == contents(forwards)[len(forwards) - len(kept) :]
    if all(size_bytes(episode) <= limits["most_bytes"] for episodes in versions for episode in episodes):
        assert kept == contents(forwards)


def test_what_is_learned_again_takes_the_place_of_the_old_row(make_episode):
    buffer = filled(make_episode, 3)
    buffer.add(7, [make_episode("e1")])
    assert contents(buffer) == [(1, "e0"), (1, "e2"), (7, "e1")]
    assert buffer.find(7, make_episode("e1").key).version == 7
    assert buffer.find(1, make_episode("e1").key) is None
    assert buffer.find(1, make_episode("e9").key) is None


def test_an_array_of_its_own_does_not_hold_a_whole_file_in_memory(make_episode):
    file = np.zeros(10_000, np.float32)
    episode = make_episode("e", obs=file[:16].reshape(4, 4), info_json="x" * 1000, extensions={"a": "b"})
    buffer = ReplayBuffer(**PLENTY)
    buffer.add(1, [episode])
    (kept,) = buffer
    assert kept.episode.obs.base is None
    assert not np.shares_memory(kept.episode.obs, file)
    assert np.array_equal(kept.episode.obs, episode.obs)
    assert (kept.episode.info_json, kept.episode.extensions) == (None, {})
    assert kept.episode.row_sha256 == episode.row_sha256


def test_draws_are_distinct_and_follow_from_the_seed(make_episode):
    buffer = filled(make_episode, 20)
    first = names(buffer.sample(8, np.random.default_rng(3), **DRAW))
    assert len(set(first)) == 8
    assert names(buffer.sample(8, np.random.default_rng(3), **DRAW)) == first
    assert names(buffer.sample(8, np.random.default_rng(4), **DRAW)) != first
    assert len(buffer.sample(99, np.random.default_rng(3), **DRAW)) == 20
    assert buffer.sample(0, np.random.default_rng(3), **DRAW) == ()


def test_every_episode_is_as_likely_as_any_other(make_episode):
    buffer = filled(make_episode, 10)
    random = np.random.default_rng(0)
    counts = Counter(name for _ in range(2000) for name in names(buffer.sample(3, random, **DRAW)))
    assert len(counts) == 10
    assert all(abs(count - 600) < 5 * np.sqrt(2000 * 0.3 * 0.7) for count in counts.values())


def test_what_may_not_be_used_any_more_goes_and_what_is_new_stays(make_episode):
    buffer = filled(make_episode, 10)
    new = {make_episode(f"e{i}").key for i in (0, 1)}
    stale = {"e2", "e3"}
    drawn = buffer.sample(
        10,
        np.random.default_rng(0),
        usable=lambda archived: archived.episode.episode_id not in stale,
        without=new,
        most_steps=10**9,
    )
    assert sorted(names(drawn)) == [f"e{i}" for i in range(4, 10)]
    assert [name for _, name in contents(buffer)] == ["e0", "e1", *(f"e{i}" for i in range(4, 10))]


@pytest.mark.parametrize(("most_steps", "expected"), [(2, 0), (3, 1), (11, 3), (100, 10)])
def test_the_steps_of_a_draw_are_bounded(make_episode, most_steps, expected):
    buffer = filled(make_episode, 10)
    drawn = buffer.sample(10, np.random.default_rng(0), **{**DRAW, "most_steps": most_steps})
    assert len(drawn) == expected
    assert len(buffer) == 10
