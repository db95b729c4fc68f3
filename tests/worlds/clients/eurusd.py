"""A trading client on EURUSD hourly bars (gym-anytrading), as its own process.

    python eurusd.py play --spool SPOOL --state STATE     trade and deposit until stopped
    python eurusd.py evaluate --state STATE               compare the newest policy with random trading

A market never ends, so the session is cut into segments: each is deposited as a truncated piece with the
observation that comes next, and continues the one before. A new session begins only where the recording ends.
"""

import argparse
import json
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path

import gym_anytrading  # noqa: F401 - registers forex-v0
import gymnasium
import numpy as np

from experience import EpisodeWriter
from policies import Actor

WINDOW_BARS = 8
FRAME = (500, 901)  # 400 steps: eight whole segments
SEGMENT_STEPS = 50
PIPS = 10_000  # 1 pip is 0.0001 USD
SELL, BUY = 0, 1


class Market:
    """The session: observations, and what the position gained in pips.

    The observation is what the environment shows (closing prices and their changes), and the position.
    """

    def __init__(self) -> None:
        self._env = gymnasium.make(
            "forex-v0", window_size=WINDOW_BARS, frame_bound=FRAME, disable_env_checker=True
        )
        self.gained_pips = 0.0

    def begin(self) -> np.ndarray:
        """Start the recording anew; the position is short."""
        bars, _ = self._env.reset()
        self._side, self._price = -1.0, float(bars[-1, 0])
        self._opened_at = float(bars[-2, 0])  # where the environment books the first, short position
        self._offset_pips = -(self._price - self._opened_at) * PIPS
        self.gained_pips = 0.0
        return self._observation(bars)

    def step(self, action: int) -> tuple[np.ndarray, float, bool]:
        """Decide; the order is filled at the next bar. Returns (observation, pips gained until then, end)."""
        bars, _, _, truncated, info = self._env.step(action)
        price = float(bars[-1, 0])
        pips = self._side * (price - self._price) * PIPS
        side = 1.0 if info["position"].value else -1.0
        if side != self._side:
            self._opened_at = price
        self._side, self._price = side, price
        self.gained_pips += pips
        open_pips = side * (price - self._opened_at) * PIPS
        booked_pips = info["total_reward"] + open_pips - self._offset_pips
        assert abs(booked_pips - self.gained_pips) < 0.1, "our books and the environment's do not agree"
        return self._observation(bars), pips, truncated

    def _observation(self, bars: np.ndarray) -> np.ndarray:
        return np.append(bars.ravel(), self._side).astype(np.float32)


Policy = Callable[[np.ndarray], tuple[int, float]]


def random_policy(rng: np.random.Generator) -> Policy:
    """Buy or sell, as likely."""
    return lambda _: (int(rng.integers(2)), -math.log(2))


def play(options: argparse.Namespace) -> None:
    """Trade and deposit until SIGTERM; at most ``--rate`` bars a second."""
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    actor = Actor(options.state, seed=options.seed)
    writer = EpisodeWriter(
        options.spool,
        client_id="trader",
        env_id="forex-v0",
        action_space={"kind": "discrete", "n": 2},
    )
    at_random = random_policy(np.random.default_rng(options.seed))
    market = Market()
    obs, ended, deposited = market.begin(), False, 0
    due_s = time.monotonic()
    while not stopped:
        actor.refresh()
        policy, version = (actor.act, actor.version) if actor.version else (at_random, 0)
        for _ in range(SEGMENT_STEPS):
            action, logp = policy(obs)
            next_obs, pips, ended = market.step(action)
            writer.step(obs, action, pips, logp=logp, policy_version=version)
            obs = next_obs
            if ended:
                break
        writer.end(obs, terminated=False, truncated=True, continues=not ended)
        deposited += 1
        if ended:
            obs = market.begin()
        now_s = time.monotonic()
        due_s = max(due_s, now_s - 0.1) + SEGMENT_STEPS / options.rate
        time.sleep(max(0.0, due_s - now_s))
    print(json.dumps({"deposited": deposited}))


def evaluate(options: argparse.Namespace) -> None:
    """Print the profit of each segment in pips, of the newest policy and of random trading, as JSON."""
    actor = Actor(options.state, seed=options.seed)
    policies = {"learned": actor.act, "random": random_policy(np.random.default_rng(options.seed))}
    profits = {name: segment_profits(policy, options.sessions) for name, policy in policies.items()}
    print(json.dumps({"version": actor.version, **profits}))


def segment_profits(policy: Policy, sessions: int) -> list[float]:
    """Profit of every segment of so many sessions, in pips."""
    market, profits = Market(), []
    for _ in range(sessions):
        obs, ended = market.begin(), False
        while not ended:
            before = market.gained_pips
            for _ in range(SEGMENT_STEPS):
                obs, _, ended = market.step(policy(obs)[0])
                if ended:
                    break
            profits.append(market.gained_pips - before)
    return profits


def main() -> None:
    """Run one of the two commands."""
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=("play", "evaluate"))
    parser.add_argument("--spool", type=Path)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=2000.0, help="bars a second, at most")
    parser.add_argument("--sessions", type=int, default=100, help="how many to evaluate on")
    options = parser.parse_args()
    (play if options.command == "play" else evaluate)(options)


if __name__ == "__main__":
    main()
