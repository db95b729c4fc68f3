import json

import numpy as np
import pytest
from gymnasium import spaces as gym_spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from experience.flattening import Mismatch, check_stored, flatten, infer_space
from experience.space_parsing import action_space_from_json, action_space_of, space_from_json, space_of
from experience.spaces import (
    BoxSpace,
    ContinuousSpace,
    DictSpace,
    DiscreteSpace,
    ImageSpace,
    MultiBinarySpace,
    MultiDiscreteSpace,
    TupleSpace,
)

ALL = DictSpace(
    {
        "where": BoxSpace(shape=(2, 2)),
        "camera": ImageSpace(shape=(3, 4, 2)),
        "arm": TupleSpace(spaces=(DiscreteSpace(n=3, start=-1), MultiBinarySpace(n=2))),
        "dials": MultiDiscreteSpace(nvec=(4, 5)),
    }
)
THEIRS = gym_spaces.Dict(
    {
        "where": gym_spaces.Box(-9, 9, (2, 2), np.float32),
        "camera": gym_spaces.Box(0, 255, (3, 4, 2), np.uint8),
        "arm": gym_spaces.Tuple((gym_spaces.Discrete(3, start=-1), gym_spaces.MultiBinary(2))),
        "dials": gym_spaces.MultiDiscrete([4, 5]),
    }
)


def by_hand(obs):
    """The rule, written out for ``ALL``."""
    index, bits = obs["arm"]
    parts = [[index + 1], bits, obs["camera"].ravel(), obs["dials"], obs["where"].ravel()]
    return np.concatenate(parts).astype(np.float32)


def test_one_row_by_one_rule():
    THEIRS.seed(3)
    for _ in range(20):
        obs = THEIRS.sample()
        row = flatten(ALL, obs)
        assert (row.dtype, row.shape) == (np.float32, (1 + 2 + 24 + 2 + 4,))
        np.testing.assert_array_equal(row, by_hand(obs))
    assert [leaf.path for leaf in ALL.leaves] == ["arm.0", "arm.1", "camera", "dials", "where"]
    assert [(leaf.start, leaf.stop) for leaf in ALL.leaves] == [(0, 1), (1, 3), (3, 27), (27, 29), (29, 33)]


def test_a_batch_is_the_rows_of_each():
    THEIRS.seed(4)
    each = [THEIRS.sample() for _ in range(5)]
    batch = {
        "where": np.stack([obs["where"] for obs in each]),
        "camera": np.stack([obs["camera"] for obs in each]),
        "arm": tuple(np.stack([obs["arm"][i] for obs in each]) for i in range(2)),
        "dials": np.stack([obs["dials"] for obs in each]),
    }
    np.testing.assert_array_equal(flatten(ALL, batch, lead=(5,)), [flatten(ALL, obs) for obs in each])


@pytest.mark.parametrize(
    ("space", "shape", "dtype"),
    [
        (BoxSpace(shape=(3, 2)), (3, 2), "float32"),
        (BoxSpace(shape=()), (1,), "float32"),
        (ImageSpace(shape=(5, 4, 3)), (5, 4, 3), "uint8"),
        (DiscreteSpace(n=256), (1,), "uint8"),
        (DiscreteSpace(n=257), (1,), "float32"),
        (MultiBinarySpace(n=3), (3,), "uint8"),
        (DictSpace({"a": ImageSpace(shape=(1, 1, 1)), "b": DiscreteSpace(n=9)}), (2,), "uint8"),
        (ALL, (33,), "float32"),
    ],
)
def test_how_a_space_is_stored(space, shape, dtype):
    assert (space.stored_shape, space.stored_dtype) == (shape, dtype)
    assert space_from_json(json.loads(json.dumps(space.to_json()))) == space


def test_every_pixel_survives():
    image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    row = flatten(
        DictSpace({"i": ImageSpace(shape=(16, 16, 1)), "x": BoxSpace(shape=())}), {"i": image, "x": 0.5}
    )
    np.testing.assert_array_equal(row[:-1].astype(np.uint8), image.ravel())


def test_gymnasium_spaces_are_read_without_importing_it():
    assert space_of(THEIRS) == ALL
    assert space_of(ALL.to_json()) == ALL
    assert action_space_of(gym_spaces.Discrete(4)) == DiscreteSpace(n=4)
    assert action_space_of(gym_spaces.Discrete(4, start=2)) == DiscreteSpace(n=4, start=2)
    assert action_space_of(gym_spaces.Box(-1, 1, (3,))) == ContinuousSpace(size=3)
    assert action_space_of(gym_spaces.MultiDiscrete([2, 3])) == MultiDiscreteSpace(nvec=(2, 3))
    assert action_space_of(gym_spaces.MultiBinary(2)) == MultiBinarySpace(n=2)
    assert action_space_of({"kind": "discrete", "n": np.int64(4)}) == DiscreteSpace(n=4)


@pytest.mark.parametrize("space", [gym_spaces.Text(4), gym_spaces.MultiDiscrete([[1, 2], [3, 4]]), 3])
def test_spaces_that_there_is_no_room_for(space):
    with pytest.raises(ValueError, match="accepted"):
        space_of(space)


@pytest.mark.parametrize(
    "data",
    [
        {"kind": "box"},
        {"kind": "box", "shape": [0]},
        {"kind": "box", "shape": [2], "low": 0},
        {"kind": "image", "shape": [3, 3]},
        {"kind": "discrete", "n": True},
        {"kind": "discrete", "n": 2**24 + 1},
        {"kind": "multi_discrete", "nvec": []},
        {"kind": "continuous", "shape": [2]},
        {"kind": "dict", "spaces": {}},
        {"kind": "dict", "spaces": {"a.b": {"kind": "box", "shape": [1]}}},
        {"kind": "dict", "spaces": {"a": 3}},
        {"kind": "tuple", "spaces": [{"kind": "multi_binary", "n": 1}] * 257},
        [],
        None,
    ],
)
def test_json_that_is_no_space(data):
    with pytest.raises(ValueError, match="accepted"):
        space_from_json(data)


def test_json_nested_too_deeply():
    data = {"kind": "box", "shape": [1]}
    for _ in range(8):
        data = {"kind": "tuple", "spaces": [data]}
    with pytest.raises(ValueError, match="deeper"):
        space_from_json(data)


@pytest.mark.parametrize("data", [{"kind": "box", "shape": [2]}, {"kind": "multi_binary", "n": 0}, None])
def test_json_that_is_no_action_space(data):
    with pytest.raises(ValueError, match="accepted"):
        action_space_from_json(data)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"where": np.zeros(4)}, "where"),
        ({"camera": np.full((3, 4, 2), 256)}, "camera"),
        ({"camera": np.full((3, 4, 2), 0.5)}, "camera"),
        ({"arm": (2, [0, 1])}, "arm.0"),
        ({"arm": (-2, [0, 1])}, "arm.0"),
        ({"arm": (0, [0, 2])}, "arm.1"),
        ({"arm": (0,)}, "arm"),
        ({"dials": [4, 0]}, "dials"),
        ({"dials": ["x", "y"]}, "dials"),
        ({"more": 1}, ""),
    ],
)
def test_an_observation_of_another_space_is_refused_by_its_part(change, path):
    THEIRS.seed(0)
    with pytest.raises(Mismatch) as caught:
        flatten(ALL, {**THEIRS.sample(), **change})
    assert caught.value.path == path


def test_stored_rows_are_checked_part_by_part():
    THEIRS.seed(1)
    rows = np.stack([flatten(ALL, THEIRS.sample()) for _ in range(3)])
    check_stored(ALL.canonical(), rows)
    rows[1, 0] = 3
    with pytest.raises(Mismatch, match=r"obs\.arm\.0 is 3"):
        check_stored(ALL.canonical(), rows)


def test_what_an_observation_says_of_itself():
    obs = {"b": np.zeros((2, 3)), "a": ([1, 2], {"c": 4}), "i": np.zeros((4, 4, 1), np.uint8)}
    assert infer_space(obs) == DictSpace(
        {
            "a": TupleSpace(spaces=(BoxSpace(shape=(2,)), DictSpace({"c": BoxSpace(shape=())}))),
            "b": BoxSpace(shape=(2, 3)),
            "i": ImageSpace(shape=(4, 4, 1)),
        }
    )


LEAVES = st.one_of(
    st.builds(
        gym_spaces.Box, st.just(-5.0), st.just(5.0), st.lists(st.integers(1, 3), max_size=3).map(tuple)
    ),
    st.builds(
        gym_spaces.Box,
        st.just(0),
        st.just(255),
        st.tuples(*[st.integers(1, 4)] * 3),
        st.just(np.uint8),
    ),
    st.builds(gym_spaces.Discrete, st.integers(1, 400), start=st.integers(-3, 3)),
    st.builds(gym_spaces.MultiBinary, st.integers(1, 4)),
    st.builds(gym_spaces.MultiDiscrete, st.lists(st.integers(1, 300), min_size=1, max_size=3)),
)
NAMES = st.text("abcß_ -", min_size=1, max_size=4)
NESTED = st.recursive(
    LEAVES,
    lambda inner: (
        st.dictionaries(NAMES, inner, min_size=1, max_size=4).map(gym_spaces.Dict)
        | st.lists(inner, min_size=1, max_size=12).map(gym_spaces.Tuple)
    ),
    max_leaves=12,
)


def numbers_of(space, obs):
    """The rule, leaf by leaf, in plain Python."""
    if isinstance(space, gym_spaces.Dict):
        return [n for name in sorted(space.spaces) for n in numbers_of(space[name], obs[name])]
    if isinstance(space, gym_spaces.Tuple):
        return [n for part, value in zip(space.spaces, obs, strict=True) for n in numbers_of(part, value)]
    if isinstance(space, gym_spaces.Discrete):
        return [int(obs) - int(space.start)]
    return np.asarray(obs).ravel().tolist()


@given(space=NESTED, seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_any_space_of_gymnasiums(space, seed):
    ours = space_of(space)
    space.seed(seed)
    obs = space.sample()
    row = flatten(ours, obs)
    assert space_from_json(json.loads(json.dumps(ours.to_json()))) == ours
    assert row.shape == ours.stored_shape
    np.testing.assert_array_equal(row.ravel(), np.array(numbers_of(space, obs), row.dtype))
    check_stored(ours.canonical(), row[None])
    stops = [leaf.stop for leaf in ours.leaves]
    assert [leaf.start for leaf in ours.leaves] == [0, *stops[:-1]]
