"""PettingZoo: several agents in one environment, whose episodes are deposited one row an agent.

    from experience.recorders.pettingzoo import RecordAgents

    env = RecordAgents(connect_four_v3.env(), "spool", client_id="bot")
    ...
    env.acted(logp=logp, policy_version=actor.version)  # before env.step(action), when you know them

All agents share the episode's id, each has its ``agent_id``; the learner trains one policy on the rows of all
of them (parameter sharing), so their spaces must be alike.
"""

import os
from collections.abc import Mapping
from typing import Any

from experience.ids import uuid7
from experience.recorders.stream import Stream
from experience.writer import EpisodeWriter

try:
    from pettingzoo.utils.env import AECEnv, ParallelEnv
    from pettingzoo.utils.wrappers import BaseParallelWrapper, BaseWrapper
except ImportError as error:  # pragma: no cover - the message is what matters
    raise ImportError(
        "experience.recorders.pettingzoo needs pettingzoo: pip install 'learnerd[pettingzoo]'"
    ) from error

MASK = "action_mask"
"""The key under which an observation, or its ``info``, says which actions are allowed."""


class _Agents:
    """One stream an agent; all begin together and share the episode's id."""

    def __init__(self, env: Any, spool: str | os.PathLike[str], options: Mapping[str, Any]) -> None:
        self._streams = {
            agent: Stream(
                EpisodeWriter(
                    spool,
                    agent_id=str(agent),
                    observation_space=_seen_space(env.observation_space(agent)),
                    action_space=env.action_space(agent),
                    **{"env_id": env.metadata.get("name"), **options},
                )
            )
            for agent in env.possible_agents
        }
        self._seed: int | None = None
        self._episode_id = ""

    def __getitem__(self, agent: Any) -> Stream:
        return self._streams[agent]

    def begin(self, seed: int | None) -> None:
        self.cut()
        self._seed, self._episode_id = seed, uuid7()

    def see(self, agent: Any, obs: Any, info: Mapping[str, Any]) -> None:
        seen, mask = split(obs, info)
        self[agent].begin(seen, mask=mask, episode_id=self._episode_id, seed=self._seed)

    def cut(self) -> None:
        for stream in self._streams.values():
            stream.cut()


class RecordAgents(BaseWrapper[Any, Any, Any]):
    """Deposits each agent's episode of an environment in which agents take turns (AEC).

    An agent's reward for an action is what it earned until its next turn, as ``last`` returns it. An
    observation that is a dict of ``observation`` and ``action_mask`` is recorded as these two. A ``reset`` or
    ``close`` in the middle deposits what there is, as truncated.

    Args:
        env: to play.
        spool, client_id, options: as for ``EpisodeWriter``.
    """

    def __init__(
        self, env: AECEnv[Any, Any, Any], spool: str | os.PathLike[str], *, client_id: str, **options: Any
    ) -> None:
        super().__init__(env)
        self.recorded = _Agents(env, spool, {"client_id": client_id, **options})
        self.chosen: dict[Any, dict[str, Any]] = {}
        self.behavior: dict[str, Any] = {}

    def acted(self, *, logp: float | None = None, policy_version: int | None = None) -> None:
        """Say how the action of the next ``step`` was chosen; as ``RecordEpisodes.acted``."""
        self.behavior = {"logp": logp, "policy_version": policy_version}

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        """As PettingZoo's; every agent's episode begins."""
        self._settle_all()
        super().reset(seed=seed, options=options)
        self.recorded.begin(seed)

    def step(self, action: Any) -> None:
        """As PettingZoo's; what the agent's action before this one earned is recorded."""
        agent = self.agent_selection
        self._settle(agent)
        behavior, self.behavior = self.behavior, {}
        if action is not None and not (self.terminations[agent] or self.truncations[agent]):
            if not self.recorded[agent].live:
                self.recorded.see(agent, self.observe(agent), self.infos[agent])
            self.chosen[agent] = {"action": action, "behavior": behavior}
        super().step(action)

    def close(self) -> None:
        """Deposit what is open, and close the environment."""
        self._settle_all()
        super().close()

    def _settle_all(self) -> None:
        for agent in list(self.chosen):
            self._settle(agent)
        self.recorded.cut()

    def _settle(self, agent: Any) -> None:
        """Record the agent's last action with what came of it."""
        chosen = self.chosen.pop(agent, None)
        if chosen is None:
            return
        seen, mask = split(self.observe(agent), self.infos.get(agent, {}))
        self.recorded[agent].step(
            chosen["action"],
            float(self._cumulative_rewards[agent]),
            seen,
            terminated=self.terminations[agent],
            truncated=self.truncations[agent],
            mask=mask,
            behavior=chosen["behavior"],
        )


class RecordParallelAgents(BaseParallelWrapper[Any, Any, Any]):
    """Deposits each agent's episode of an environment in which agents act at once.

    Args:
        env: to play.
        spool, client_id, options: as for ``EpisodeWriter``.
    """

    def __init__(
        self,
        env: ParallelEnv[Any, Any, Any],
        spool: str | os.PathLike[str],
        *,
        client_id: str,
        **options: Any,
    ) -> None:
        super().__init__(env)
        self.recorded = _Agents(env, spool, {"client_id": client_id, **options})
        self.behavior: dict[str, Any] = {}

    def acted(self, *, logp: Mapping[Any, float] | None = None, policy_version: int | None = None) -> None:
        """Say how the actions of the next ``step`` were chosen.

        Args:
            logp: agent -> log-probability of its action.
            policy_version: the version that chose them.
        """
        self.behavior = {"logp": logp, "policy_version": policy_version}

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """As PettingZoo's; every agent's episode begins."""
        observations, infos = super().reset(seed=seed, options=options)
        self.recorded.begin(seed)
        for agent, obs in observations.items():
            self.recorded.see(agent, obs, infos.get(agent, {}))
        return observations, infos

    def step(self, actions: dict[Any, Any]) -> Any:
        """As PettingZoo's; a step of each agent is recorded."""
        behavior, self.behavior = self.behavior, {}
        result = super().step(actions)
        observations, rewards, terminations, truncations, infos = result
        for agent, obs in observations.items():
            if agent not in actions or not self.recorded[agent].live:
                self.recorded.see(agent, obs, infos.get(agent, {}))
                continue
            seen, mask = split(obs, infos.get(agent, {}))
            logp = behavior.get("logp")
            self.recorded[agent].step(
                actions[agent],
                float(rewards[agent]),
                seen,
                terminated=terminations[agent],
                truncated=truncations[agent],
                mask=mask,
                behavior=behavior | {"logp": None if logp is None else logp[agent]},
            )
        return result

    def close(self) -> None:
        """Deposit what is open, and close the environment."""
        self.recorded.cut()
        super().close()


def split(obs: Any, info: Mapping[str, Any]) -> tuple[Any, Any]:
    """(observation, mask) of what an agent is given; the mask is None where it is given none."""
    if isinstance(obs, Mapping) and obs.keys() == {"observation", MASK}:
        return obs["observation"], obs[MASK]
    return obs, info.get(MASK)


def _seen_space(space: Any) -> Any:
    parts = getattr(space, "spaces", {})
    return (
        parts["observation"] if isinstance(parts, Mapping) and set(parts) == {"observation", MASK} else space
    )
