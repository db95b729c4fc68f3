"""Connect Four, as PettingZoo has it: the newest policy plays itself, and is judged against a random player.

    python connect_four.py play --spool SPOOL --state STATE     play and deposit until SIGTERM
    python connect_four.py evaluate --state STATE               results of games against a random player

Both seats act with the same version, and both rows of a game are learned from (parameter sharing). A seat
sees its own stones and the other's, 6x7x2, so the network need not know whose turn it is; a full column is
masked.
"""

import argparse
import json
import math
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gym_client import Pace
from pettingzoo.classic import connect_four_v3

from experience.recorders.pettingzoo import MASK, RecordAgents
from policies import Actor

Policy = Callable[[Mapping[str, Any]], tuple[int, float]]


def play(options: argparse.Namespace) -> None:
    """Play against itself and deposit both seats' rows until SIGTERM; the game in progress is ended."""
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    actor = Actor(options.state, seed=options.seed)
    at_random = random_policy(options.seed)
    env = RecordAgents(connect_four_v3.env(), options.spool, client_id=f"connect-four-{options.seed}")
    pace, games = Pace(options.rate), 0
    while not stopped:
        actor.refresh()
        policy, version = (learned_policy(actor), actor.version) if actor.version else (at_random, 0)
        play_itself(env, policy, version, pace)
        games += 1
    print(json.dumps({"deposited": games * len(env.possible_agents)}))


def play_itself(env: RecordAgents, policy: Policy, version: int | None, pace: Pace) -> None:
    """Play one game and record it."""
    env.reset()
    for _ in env.agent_iter():
        seen, _, terminated, truncated, _ = env.last()
        if terminated or truncated:
            env.step(None)
            continue
        pace.wait()
        action, logp = policy(seen)
        env.acted(logp=logp, policy_version=version)
        env.step(action)


def evaluate(options: argparse.Namespace) -> None:
    """Print the results against a random player: of the newest policy, and of another random player."""
    actor = Actor(options.state, seed=options.seed)
    policies = {"learned": learned_policy(actor), "random": random_policy(options.seed + 1)}
    opponent, env = random_policy(options.seed), connect_four_v3.env()
    results = {
        name: [result(env, policy, opponent, seat=game % 2) for game in range(options.games)]
        for name, policy in policies.items()
    }
    print(json.dumps({"version": actor.version, **results}))


def result(env: Any, policy: Policy, opponent: Policy, *, seat: int) -> float:
    """Play one game in a seat: 1 for a win, 0.5 for a draw, 0 for a loss."""
    env.reset()
    ours, reward = env.possible_agents[seat], 0.0
    for agent in env.agent_iter():
        seen, earned, terminated, truncated, _ = env.last()
        if agent == ours:
            reward += earned
        acts = policy if agent == ours else opponent
        env.step(None if terminated or truncated else acts(seen)[0])
    return (1.0 + reward) / 2.0


def learned_policy(actor: Actor) -> Policy:
    """The version that acts."""
    return lambda seen: actor.act(seen["observation"], mask=seen[MASK])


def random_policy(seed: int) -> Policy:
    """Every column that is not full, as likely."""
    rng = np.random.default_rng(seed)

    def act(seen: Mapping[str, Any]) -> tuple[int, float]:
        allowed = np.flatnonzero(seen[MASK])
        return int(rng.choice(allowed)), -math.log(len(allowed))

    return act


def main() -> None:
    """Run one of the two commands."""
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=("play", "evaluate"))
    parser.add_argument("--spool", type=Path)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=1000.0, help="moves a second, at most")
    parser.add_argument("--games", type=int, default=400, help="how many to evaluate on, half in each seat")
    options = parser.parse_args()
    (play if options.command == "play" else evaluate)(options)


if __name__ == "__main__":
    main()
