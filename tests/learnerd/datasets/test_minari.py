import gymnasium as gym
import numpy as np
import pytest

from experience.archive import read_shard, write_shard
from learnerd.datasets import Losses, format_of
from learnerd.datasets.nesting import same

minari = pytest.importorskip("minari")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

SEEN = gym.spaces.Dict(
    {
        "image": gym.spaces.Box(0, 255, (6, 5, 3), np.uint8),
        "angles": gym.spaces.Box(-1, 1, (2,), np.float32),
        "key": gym.spaces.Discrete(3, start=1),
        "pair": gym.spaces.Tuple([gym.spaces.MultiBinary(2), gym.spaces.Box(-1, 1, (), np.float32)]),
    }
)


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def made(name, space, actions, *, infos=None, dtype=None):
    space.seed(1)
    actions.seed(2)
    buffers = []
    for number, steps in enumerate((3, 5)):
        rows = [space.sample() for _ in range(steps + 1)]
        stacked = gym.vector.utils.concatenate(
            space, rows, gym.vector.utils.create_empty_array(space, steps + 1)
        )
        ends = np.arange(steps) == steps - 1
        buffers.append(
            minari.data_collector.EpisodeBuffer(
                seed=number,
                observations=stacked,
                actions=np.stack([np.asarray(actions.sample()) for _ in range(steps)]),
                rewards=np.random.default_rng(number).normal(size=steps),
                terminations=ends if number else np.zeros(steps, bool),
                truncations=np.zeros(steps, bool) if number else ends,
                infos={"speed": np.arange(steps + 1.0)} if infos else {},
            )
        )
    return minari.create_dataset_from_buffers(
        name, buffers, observation_space=space, action_space=actions, jpeg_encoding=False
    )


def equal(one, other):
    assert one.observation_space == other.observation_space
    assert one.action_space == other.action_space
    for left, right in zip(one.iterate_episodes(), other.iterate_episodes(), strict=True):
        assert same(left.observations, right.observations)
        assert same(left.infos, right.infos)
        for name in ("actions", "rewards", "terminations", "truncations"):
            np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
            assert getattr(left, name).dtype == getattr(right, name).dtype
        assert left.id == right.id


@pytest.mark.parametrize(
    ("space", "actions"),
    [
        (SEEN, gym.spaces.Discrete(4, start=2)),
        (gym.spaces.Box(0, 255, (8, 8, 3), np.uint8), gym.spaces.MultiDiscrete([3, 2])),
        (gym.spaces.Box(-1, 1, (3,), np.float32), gym.spaces.Box(-1, 1, (2,), np.float32)),
    ],
)
def test_a_dataset_comes_back_as_it_was(tmp_path, space, actions):
    """By way of the archive's own files."""
    given = made("test/given-v0", space, actions, infos=True)
    losses, minari_format = Losses(), format_of("minari")
    episodes = list(minari_format.read("test/given-v0", losses, {}))
    write_shard(tmp_path / "shard.parquet", episodes)
    minari_format.write(read_shard(tmp_path / "shard.parquet"), "test/back-v0")
    for one in episodes:
        minari_format.lost(one, losses)
    assert str(losses) == ""
    equal(given, minari.load_dataset("test/back-v0"))


def test_what_float32_does_not_hold_is_said():
    made("test/wide-v0", gym.spaces.Box(-1, 1, (3,), np.float64), gym.spaces.Discrete(2))
    losses = Losses()
    list(format_of("minari").read("test/wide-v0", losses, {}))
    assert str(losses) == "observations beyond what float32 holds (2 episodes)"


def test_what_minari_has_no_place_for_is_said(make_episode):
    losses = Losses()
    given = [
        make_episode(policy_version=3, action_space={"kind": "discrete", "n": 2}),
        make_episode(
            "e2", action_space={"kind": "discrete", "n": 2}, segment=1, obs=np.zeros((3, 4), np.float32)
        ),
    ]
    assert format_of("minari").write(given, "test/ours-v0") == 2
    for one in given:
        format_of("minari").lost(one, losses)
    for text in (
        "log-probabilities (2",
        "the versions that acted (1",
        "no last observation",
        "pieces of sessions",
    ):
        assert text in str(losses)
    assert len(minari.load_dataset("test/ours-v0")) == 2


def test_a_dataset_that_is_not_here_is_named_with_how_to_get_it():
    with pytest.raises(
        FileNotFoundError, match=r"accepted: .*`minari download nobody/nothing-v0`.* \.csv or"
    ):
        list(format_of("minari").read("nobody/nothing-v0", Losses(), {}))
