"""What the clients of Gymnasium's worlds share: play and deposit until stopped, or evaluate."""

import argparse
import json
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from experience.recorders.gymnasium import RecordEpisodes
from policies import Actor

MakeEnv = Callable[[], gymnasium.Env]
Policy = Callable[[Any], tuple[Any, float]]
LONGEST_LAG_S = 0.05  # as far as a slow moment may be made up for
SHORTEST_SLEEP_S = 0.005  # many short sleeps would cost more than the game itself


def main(make_env: MakeEnv, *, client_id: str) -> None:
    """Run one of the two commands."""
    options = _options()
    if options.command == "play":
        play(make_env(), options, client_id=f"{client_id}-{options.seed}")
    else:
        evaluate(make_env(), options)


def play(env: gymnasium.Env, options: argparse.Namespace, *, client_id: str) -> None:
    """Play and deposit until SIGTERM; the episode in progress is ended."""
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    actor = _actor(env, options)
    at_random = random_policy(env, options.seed)
    recorded = RecordEpisodes(env, options.spool, client_id=client_id)
    pace = Pace(options.rate)
    recorded.reset(seed=options.seed)
    deposited = 0
    while not stopped:
        actor.refresh()
        policy, version = (actor.act, actor.version) if actor.version else (at_random, 0)
        obs, _ = recorded.reset()
        ended = False
        while not ended:
            pace.wait()
            action, logp = policy(obs)
            recorded.acted(logp=logp, policy_version=version)
            obs, _, terminated, truncated, _ = recorded.step(action)
            ended = terminated or truncated
        deposited += 1
    print(json.dumps({"deposited": deposited}))


def evaluate(env: gymnasium.Env, options: argparse.Namespace) -> None:
    """Print the returns of the newest policy's episodes and of random ones, as JSON."""
    actor = _actor(env, options)
    policies = {"learned": actor.act, "random": random_policy(env, options.seed)}
    returns = {}
    for name, policy in policies.items():
        env.reset(seed=options.seed)
        returns[name] = [episode_return(env, policy) for _ in range(options.episodes)]
    print(json.dumps({"version": actor.version, **returns}))


def episode_return(env: gymnasium.Env, policy: Policy) -> float:
    """Play one episode."""
    obs, _ = env.reset()
    total, ended = 0.0, False
    while not ended:
        obs, reward, terminated, truncated, _ = env.step(policy(obs)[0])
        total += float(reward)
        ended = terminated or truncated
    return total


def random_policy(env: gymnasium.Env, seed: int) -> Policy:
    """Every action as likely, with its log-probability or log-density."""
    rng = np.random.default_rng(seed)
    space = env.unwrapped.action_space
    if isinstance(space, gymnasium.spaces.Discrete):
        return lambda _: (int(rng.integers(space.n)), -math.log(space.n))
    logp = -float(np.log(space.high - space.low).sum())
    return lambda _: (rng.uniform(space.low, space.high).astype(np.float32), logp)


class Pace:
    """Keeps the steps to a schedule of ``rate`` a second, as a game's own clock would."""

    def __init__(self, rate: float) -> None:
        self._interval_s = 1.0 / rate
        self._due_s = time.monotonic()

    def wait(self) -> None:
        """Sleep until the next step is due; a client that fell behind does not catch up in a burst."""
        now_s = time.monotonic()
        self._due_s = max(self._due_s, now_s - LONGEST_LAG_S) + self._interval_s
        if self._due_s - now_s > SHORTEST_SLEEP_S:
            time.sleep(self._due_s - now_s)


def _actor(env: gymnasium.Env, options: argparse.Namespace) -> Actor:
    return Actor(
        options.state,
        seed=options.seed,
        observation_space=env.observation_space,
        action_space=env.action_space,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=("play", "evaluate"))
    parser.add_argument("--spool", type=Path)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=2000.0, help="steps a second, at most")
    parser.add_argument("--episodes", type=int, default=100, help="how many to evaluate on")
    return parser.parse_args()
