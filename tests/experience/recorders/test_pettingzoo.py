import gymnasium as gym
import numpy as np
import pytest
from pettingzoo import AECEnv, ParallelEnv
from pettingzoo.utils import AgentSelector

from experience.recorders.pettingzoo import RecordAgents, RecordParallelAgents

SEEN = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)


class Duel(AECEnv):
    """Two agents take turns and count; a turn pays 1 to who plays and -1 to the other."""

    metadata = {"name": "duel_v0"}  # noqa: RUF012 - as PettingZoo has it

    def __init__(self, turns=5, *, truncates=False):
        super().__init__()
        self.turns, self.truncates = turns, truncates
        self.possible_agents = ["a", "b"]
        self.seen = np.zeros(2, np.float32)

    def observation_space(self, agent):
        return gym.spaces.Dict({"observation": SEEN, "action_mask": gym.spaces.MultiBinary(2)})

    def action_space(self, agent):
        return gym.spaces.Discrete(2)

    def observe(self, agent):
        self.seen[:] = self.turn, agent == "b"
        return {"observation": self.seen, "action_mask": np.array([1, self.turn % 3 != 1], np.int8)}

    def reset(self, seed=None, options=None):
        self.agents = self.possible_agents[:]
        self.turn = 0
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos = {agent: {} for agent in self.agents}
        self._order = AgentSelector(self.agents)
        self.agent_selection = self._order.next()

    def step(self, action):
        agent = self.agent_selection
        if self.terminations[agent] or self.truncations[agent]:
            self._was_dead_step(action)
            return
        self._cumulative_rewards[agent] = 0.0
        self.turn += 1
        self.rewards = {each: 1.0 if each == agent else -1.0 for each in self.agents}
        if self.turn == self.turns:
            ends = self.truncations if self.truncates else self.terminations
            ends.update(dict.fromkeys(self.agents, True))
        self._accumulate_rewards()
        self.agent_selection = self._order.next()
        self._deads_step_first()


def play(env, turns=99):
    env.reset(seed=3)
    for _, agent in zip(range(turns), env.agent_iter(), strict=False):
        _, _, terminated, truncated, _ = env.last()
        if terminated or truncated:
            env.step(None)
        else:
            env.acted(logp=-0.25 if agent == "a" else -0.75, policy_version=6)
            env.step(0)


@pytest.mark.parametrize("truncates", [False, True])
def test_agents_that_take_turns(tmp_path, deposited, truncates):
    env = RecordAgents(Duel(truncates=truncates), tmp_path / "spool", client_id="bot")
    play(env)
    first, second = sorted(deposited(), key=lambda episode: episode.agent_id)
    assert (first.agent_id, second.agent_id) == ("a", "b")
    assert first.episode_id == second.episode_id
    assert first.obs[:, 0].tolist() == [0, 2, 4, 5]
    assert second.obs[:, 0].tolist() == [1, 3, 5]
    assert first.reward.tolist() == [0.0, 0.0, 1.0]  # 1 for playing, -1 for the other's answer
    assert second.reward.tolist() == [0.0, 0.0]
    assert first.mask.tolist() == [[True, True], [True, True], [True, False]]
    assert second.mask.tolist() == [[True, False], [True, True]]
    assert first.logp.tolist() == [-0.25] * 3
    assert {first.policy_version, second.policy_version} == {6}
    assert {first.terminated, second.terminated} == {not truncates}
    assert (first.env_id, first.seed) == ("duel_v0", 3)


def test_a_game_broken_off_is_deposited_as_truncated_and_the_next_is_another(tmp_path, deposited):
    env = RecordAgents(Duel(), tmp_path / "spool", client_id="bot")
    play(env, turns=3)
    play(env)
    broken = [episode for episode in deposited() if not episode.terminated]
    assert {episode.agent_id: episode.obs[:, 0].tolist() for episode in broken} == {
        "a": [0, 2, 3],
        "b": [1, 3],
    }
    assert {episode.agent_id: episode.reward.tolist() for episode in broken} == {"a": [0.0, 1.0], "b": [0.0]}
    assert len({episode.episode_id for episode in deposited()}) == 2


class Race(ParallelEnv):
    """Two agents act at once; the second one is out after two steps."""

    metadata = {"name": "race_v0"}  # noqa: RUF012 - as PettingZoo has it

    def __init__(self):
        self.possible_agents = ["a", "b"]

    def observation_space(self, agent):
        return SEEN

    def action_space(self, agent):
        return gym.spaces.Discrete(2)

    def reset(self, seed=None, options=None):
        self.agents, self.turn = self.possible_agents[:], 0
        return self.look(), {agent: {} for agent in self.agents}

    def look(self):
        return {agent: np.array([self.turn, agent == "b"], np.float32) for agent in self.agents}

    def step(self, actions):
        self.turn += 1
        obs = self.look()
        ends = {agent: self.turn == (4 if agent == "a" else 2) for agent in self.agents}
        rewards = {agent: float(actions[agent]) for agent in self.agents}
        infos = {agent: {"action_mask": np.array([True, self.turn != 1])} for agent in self.agents}
        result = obs, rewards, ends, dict.fromkeys(self.agents, False), infos
        self.agents = [agent for agent in self.agents if not ends[agent]]
        return result


def test_agents_that_act_at_once(tmp_path, deposited):
    env = RecordParallelAgents(Race(), tmp_path / "spool", client_id="bot")
    for _ in range(2):
        env.reset()
        while env.agents:
            env.acted(logp={"a": -0.5, "b": -1.0}, policy_version=2)
            env.step(dict.fromkeys(env.agents, 0))
    found = deposited()
    assert sorted(episode.agent_id for episode in found) == ["a", "a", "b", "b"]
    for episode in found:
        length = 4 if episode.agent_id == "a" else 2
        assert episode.obs[:, 0].tolist() == list(range(length + 1))
        assert episode.logp.tolist() == [-0.5 if episode.agent_id == "a" else -1.0] * length
        assert episode.mask[0].all()
        assert episode.mask[1].tolist() == [True, False]
        assert episode.terminated
    assert len({episode.episode_id for episode in found}) == 2
