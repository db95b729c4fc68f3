"""A CartPole client in Python: ``Actor`` acts with the newest policy, ``EpisodeWriter`` deposits episodes.

Both need numpy and safetensors, no torch. ``by_contract.py`` beside this file does the same without them.

    python -m learnerd.demo.clients.with_library --spool spool --state state

After each episode a line of JSON goes to standard output: ``{"at", "return", "steps", "version"}``.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from experience import EpisodeWriter
from policies import Actor

Env = gymnasium.Env[NDArray[Any], int]
ENV_ID = "CartPole-v1"
LONGEST_LAG_S = 0.05  # as far as a slow moment may be made up for
SHORTEST_SLEEP_S = 0.005  # many short sleeps would cost more than the game itself


def main() -> None:
    """Play until stopped."""
    options = _options()
    env: Env = gymnasium.make(ENV_ID)
    env.reset(seed=options.seed)  # Gymnasium seeds the environment once; later resets go on from there
    actor = Actor(options.state, seed=options.seed)
    writer = EpisodeWriter(
        options.spool,
        client_id=options.client_id,
        env_id=ENV_ID,
        action_space={"kind": "discrete", "n": 2},
    )
    rng = np.random.default_rng(options.seed)
    pace = Pace(options.rate)
    while True:
        actor.refresh()  # between episodes, so that one version plays a whole episode
        report = play(env, actor, writer, rng, pace)
        print(json.dumps(report), flush=True)


def play(
    env: Env,
    actor: Actor,
    writer: EpisodeWriter,
    rng: np.random.Generator,
    pace: "Pace",
) -> dict[str, Any]:
    """Play one episode and deposit it."""
    total, steps, version = 0.0, 0, actor.version or 0
    obs, _ = env.reset()
    terminated = truncated = False
    while not (terminated or truncated):
        pace.wait()
        if version == 0:  # nothing published yet: act at random, and say with what probability
            action, logp = int(rng.integers(2)), -math.log(2)
        else:
            action, logp = actor.act(obs)
        next_obs, reward, terminated, truncated, _ = env.step(action)
        writer.step(obs, action, float(reward), logp=logp, policy_version=version)
        obs = next_obs
        total += float(reward)
        steps += 1
    writer.end(obs, terminated=terminated, truncated=truncated)
    return {"at": time.time(), "return": total, "steps": steps, "version": version}


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


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Play CartPole and deposit every episode.")
    parser.add_argument("--spool", type=Path, required=True, help="the folder of [paths] spool")
    parser.add_argument("--state", type=Path, required=True, help="the folder of [paths] state")
    parser.add_argument("--client-id", default="cartpole-library")
    parser.add_argument("--rate", type=float, default=2000.0, help="steps a second, at most")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
