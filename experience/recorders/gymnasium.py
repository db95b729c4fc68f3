"""Gymnasium: an environment, or a vector of them, whose episodes are deposited as they are played.

from experience.recorders.gymnasium import RecordEpisodes

env = RecordEpisodes(gym.make("CartPole-v1"), "spool", client_id="bot")
...
env.acted(logp=logp, policy_version=actor.version)  # before env.step(action), when you know them
"""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experience.recorders.stream import Stream
from experience.writer import EpisodeWriter

try:
    import gymnasium as gym
    from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
except ImportError as error:  # pragma: no cover - the message is what matters
    raise ImportError(
        "experience.recorders.gymnasium needs gymnasium: pip install 'learnerd[demo]'"
    ) from error

MASK = "action_mask"
"""The key of ``info`` under which environments such as Taxi say which actions are allowed."""


class RecordEpisodes(gym.Wrapper[Any, Any, Any, Any]):
    """Deposits each episode of ``env``.

    Masks are taken from ``info["action_mask"]`` where the environment gives them. A step on an environment
    that resets itself (``gymnasium.wrappers.Autoreset``) begins the next episode and is not recorded. A
    ``reset`` or ``close`` in the middle deposits what there is, as truncated.

    Args:
        env: to play.
        spool, client_id, options: as for ``EpisodeWriter``.
        segment_steps: deposit a piece each so many steps, for sessions that never end; 0: whole episodes.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        spool: str | os.PathLike[str],
        *,
        client_id: str,
        segment_steps: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(env)
        writer = EpisodeWriter(spool, client_id=client_id, **_described(env) | options)
        self._stream = Stream(writer, segment_steps=segment_steps)
        self._behavior: dict[str, Any] = {}

    def acted(self, *, logp: float | None = None, policy_version: int | None = None) -> None:
        """Say how the next step's action was chosen.

        Args:
            logp: its log-probability; on every step of an episode, or on none.
            policy_version: the version that chose it; None or 0: none of ours.
        """
        self._behavior = {"logp": logp, "policy_version": policy_version}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """As Gymnasium's; an episode begins."""
        obs, info = super().reset(seed=seed, options=options)
        self._stream.begin(obs, mask=info.get(MASK), seed=seed)
        return obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As Gymnasium's; a step is recorded."""
        behavior, self._behavior = self._behavior, {}
        obs, reward, terminated, truncated, info = super().step(action)
        if self._stream.live:
            self._stream.step(
                action,
                float(reward),
                obs,
                terminated=terminated,
                truncated=truncated,
                mask=info.get(MASK),
                behavior=behavior,
            )
        else:  # the environment has reset itself
            self._stream.begin(obs, mask=info.get(MASK))
        return obs, reward, terminated, truncated, info

    def close(self) -> None:
        """Deposit what is open, and close the environment."""
        self._stream.cut()
        super().close()


class RecordVectorEpisodes(VectorWrapper):
    """Deposits each episode of each environment in ``env``, in any of Gymnasium's autoreset modes.

    Args:
        env: to play.
        spool, client_id, options: as for ``EpisodeWriter``.
        segment_steps: as for ``RecordEpisodes``.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        spool: str | os.PathLike[str],
        *,
        client_id: str,
        segment_steps: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(env)
        self._mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        described = _described(env, single=True)
        self._streams = [
            Stream(
                EpisodeWriter(spool, client_id=client_id, **described | options), segment_steps=segment_steps
            )
            for _ in range(env.num_envs)
        ]
        self._behavior: dict[str, Any] = {}

    def acted(self, *, logp: ArrayLike | None = None, policy_version: int | None = None) -> None:
        """Say how the next step's actions were chosen.

        Args:
            logp: [num_envs] log-probabilities.
            policy_version: the version that chose them.
        """
        self._behavior = {
            "logp": None if logp is None else np.asarray(logp),
            "policy_version": policy_version,
        }

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As Gymnasium's; with ``options={"reset_mask": …}`` only those environments begin anew."""
        chosen = (options or {}).get("reset_mask")  # Gymnasium takes it out
        found: tuple[Any, dict[str, Any]] = super().reset(seed=seed, options=options)
        obs, info = found
        for index, stream in enumerate(self._streams):
            if chosen is None or chosen[index]:
                stream.begin(_row(obs, index), mask=_mask(info, index))
        return found

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """As Gymnasium's; a step of each environment is recorded."""
        behavior, self._behavior = self._behavior, {}
        result: tuple[Any, Any, Any, Any, dict[str, Any]] = super().step(actions)
        obs, rewards, terminated, truncated, info = result
        for index, stream in enumerate(self._streams):
            mask, seen = _mask(info, index), _row(obs, index)
            if not stream.live:
                if self._mode == AutoresetMode.NEXT_STEP:
                    stream.begin(seen, mask=mask)
                continue
            ended = bool(terminated[index] or truncated[index])
            same_step = ended and self._mode == AutoresetMode.SAME_STEP
            stream.step(
                _row(actions, index),
                float(rewards[index]),
                _final(info, index) if same_step else seen,
                terminated=bool(terminated[index]),
                truncated=bool(truncated[index]),
                mask=mask,
                behavior=_behavior_of(behavior, index),
            )
            if same_step:
                stream.begin(seen, mask=mask)
        return result

    def close(self, **kwargs: Any) -> None:
        """Deposit what is open, and close the environments."""
        for stream in self._streams:
            stream.cut()
        super().close(**kwargs)


def _described(env: Any, *, single: bool = False) -> dict[str, Any]:
    """What the files say about where they come from."""
    prefix = "single_" if single else ""
    return {
        "env_id": None if env.spec is None else env.spec.id,
        "observation_space": getattr(env, f"{prefix}observation_space"),
        "action_space": getattr(env, f"{prefix}action_space"),
    }


def _row(batch: Any, index: int) -> Any:
    """One environment's part of what Gymnasium batches: arrays, also within dicts and tuples."""
    if isinstance(batch, Mapping):
        return {key: _row(each, index) for key, each in batch.items()}
    if isinstance(batch, tuple) and not np.isscalar(batch[0]):
        return tuple(_row(each, index) for each in batch)
    return batch[index]


def _mask(info: Mapping[str, Any], index: int) -> NDArray[Any] | None:
    return info[MASK][index] if MASK in info and info[f"_{MASK}"][index] else None


def _final(info: Mapping[str, Any], index: int) -> Any:
    return info["final_obs"][index]


def _behavior_of(behavior: Mapping[str, Any], index: int) -> dict[str, Any]:
    if not behavior:
        return {}
    logp = behavior["logp"]
    return {
        "logp": None if logp is None else float(logp[index]),
        "policy_version": behavior["policy_version"],
    }
