import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import Autoreset

from experience.recorders.gymnasium import RecordEpisodes, RecordVectorEpisodes


class Counting(gym.Env):
    """Counts its steps in one array that it reuses; ends after ``length``; the reward is the count."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Discrete(3)

    def __init__(self, length=3, *, truncates=False, masks=False, reuses=True):
        self.length, self.truncates, self.masks = length, truncates, masks
        self.seen = np.asarray if reuses else np.array
        self.obs, self.episode = np.zeros(2, np.float32), -1

    def info(self):
        allowed = np.array([True, self.obs[1] % 2 == 0, True])
        return {"action_mask": allowed} if self.masks else {}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode += 1
        self.obs[:] = self.episode, 0
        return self.seen(self.obs), self.info()

    def step(self, action):
        self.obs[1] += 1
        done = self.obs[1] == self.length
        terminated, truncated = done and not self.truncates, done and self.truncates
        return self.seen(self.obs), float(self.obs[1]), bool(terminated), bool(truncated), self.info()


def whole(episode, number, length=3):
    """Whether it is episode ``number`` with nothing left out, doubled or overwritten."""
    assert episode.obs.tolist() == [[number, count] for count in range(length + 1)]
    assert episode.reward.tolist() == [float(count) for count in range(1, length + 1)]
    return True


@pytest.mark.parametrize("truncates", [False, True])
def test_an_existing_loop_is_recorded(tmp_path, deposited, truncates):
    env = RecordEpisodes(Counting(truncates=truncates), tmp_path / "spool", client_id="bot")
    for number in range(2):
        env.reset(seed=7 + number)
        for step in range(3):
            env.acted(logp=-0.5 - step, policy_version=number + 1)
            env.step(np.int64(step))
    env.close()
    for number, episode in enumerate(deposited()):
        assert whole(episode, number)
        assert episode.action.tolist() == [0, 1, 2]
        assert episode.logp.tolist() == [-0.5, -1.5, -2.5]
        assert (episode.terminated, episode.truncated) == (not truncates, truncates)
        assert (episode.policy_version, episode.seed, episode.client_id) == (number + 1, 7 + number, "bot")
    assert len(deposited()) == 2


def test_masks_come_from_info(tmp_path, deposited):
    env = RecordEpisodes(Counting(masks=True), tmp_path / "spool", client_id="bot")
    env.reset()
    for _ in range(3):
        env.step(2)
    (episode,) = deposited()
    assert episode.mask.tolist() == [[True, True, True], [True, False, True], [True, True, True]]


def test_a_reset_or_a_close_in_the_middle_deposits_what_there_is(tmp_path, deposited):
    env = RecordEpisodes(Counting(), tmp_path / "spool", client_id="bot")
    env.reset()
    env.step(0)
    env.reset()
    env.reset()
    env.step(0)
    env.step(1)
    env.close()
    first, second = deposited()
    assert first.obs.tolist() == [[0, 0], [0, 1]]
    assert second.obs.tolist() == [[2, 0], [2, 1], [2, 2]]
    assert not first.terminated
    assert first.truncated
    assert second.truncated


def test_a_session_that_never_ends_comes_in_pieces(tmp_path, deposited):
    env = RecordEpisodes(Counting(7), tmp_path / "spool", client_id="bot", segment_steps=3)
    env.reset()
    for _ in range(7):
        env.step(0)
    pieces = deposited()
    assert [piece.segment for piece in pieces] == [0, 1, 2]
    assert len({piece.episode_id for piece in pieces}) == 1
    assert [piece.obs[:, 1].tolist() for piece in pieces] == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7]]
    assert [piece.terminated for piece in pieces] == [False, False, True]


@pytest.mark.parametrize("outside", [True, False])
def test_an_environment_that_resets_itself(tmp_path, deposited, outside):
    def record(env):
        return RecordEpisodes(env, tmp_path / "spool", client_id="bot")

    env = record(Autoreset(Counting())) if outside else Autoreset(record(Counting()))
    env.reset()
    for _ in range(8):
        env.step(0)
    assert len(deposited()) == 2
    assert all(whole(episode, number) for number, episode in enumerate(deposited()))


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_vectors_in_every_autoreset_mode(tmp_path, deposited, mode):
    """Observations that are copies: what a reset overwrites, this library hands on as final."""
    lengths = [3, 5]
    vector = SyncVectorEnv(
        [lambda length=length: Counting(length, masks=True, reuses=False) for length in lengths],
        autoreset_mode=mode,
        copy=False,
    )
    env = RecordVectorEpisodes(vector, tmp_path / "spool", client_id="bot")
    env.reset()
    for step in range(20):
        env.acted(logp=np.array([-1.0, -2.0]), policy_version=step + 1)
        _, _, terminated, truncated, _ = env.step(np.array([0, 2]))
        ended = terminated | truncated
        if mode == AutoresetMode.DISABLED and ended.any():
            env.reset(options={"reset_mask": ended})
    for length, action in zip(lengths, (0, 2), strict=True):
        found = [episode for episode in deposited() if len(episode.reward) == length]
        assert len(found) >= 3
        assert all(whole(episode, number, length) for number, episode in enumerate(found))
        assert {tuple(episode.action) for episode in found} == {(action,) * length}
        assert {tuple(episode.logp) for episode in found} == {(-1.0 if length == 3 else -2.0,) * length}
        assert all(not episode.mask[1, 1] for episode in found)
    assert all(episode.terminated for episode in deposited())
    written = len(deposited())
    env.close()
    open_ones = deposited()[written:]
    assert all(episode.truncated for episode in open_ones)


def test_a_vector_of_dicts_is_taken_apart(tmp_path, deposited):
    class Parts(Counting):
        observation_space = gym.spaces.Dict({"b": Counting.observation_space, "a": gym.spaces.Discrete(4)})

        def reset(self, **kwargs):
            obs, info = super().reset(**kwargs)
            return {"b": obs, "a": 0}, info

        def step(self, action):
            obs, *rest = super().step(action)
            return {"b": obs, "a": int(obs[1])}, *rest

    env = RecordVectorEpisodes(SyncVectorEnv([Parts] * 2), tmp_path / "spool", client_id="bot")
    env.reset()
    for _ in range(3):
        env.step(np.zeros(2, np.int64))
    first, second = deposited()
    assert first.obs.tolist() == second.obs.tolist() == [[count, 0, count] for count in range(4)]


def test_an_episode_after_a_full_piece_is_another_one(tmp_path, deposited):
    env = RecordEpisodes(Counting(9), tmp_path / "spool", client_id="bot", segment_steps=3)
    for _ in range(2):
        env.reset()
        for _ in range(3):
            env.step(0)
    first, second = deposited()
    assert (first.segment, second.segment) == (0, 0)
    assert first.episode_id != second.episode_id
