"""Returns, GAE and V-trace over episodes of many lengths; against plain loops over Python numbers.

Both sides take arrays and give arrays; the loops turn them into lists and back, which is quicker than asking
an array for one number after another.
"""

import time

import numpy as np
from speed_figures import Figure, side_by_side

from policies.returns import discounted_returns, gae, vtrace

GAMMA, LAMBDA = 0.99, 0.95
LONGEST = 400


def loop_returns(reward, offsets, bootstrap):
    result = [0.0] * len(reward)
    for episode, last in enumerate(bootstrap):
        following = last
        for t in range(offsets[episode + 1] - 1, offsets[episode] - 1, -1):
            following = reward[t] + GAMMA * following
            result[t] = following
    return result


def loop_gae(reward, value, offsets, bootstrap):
    result = [0.0] * len(reward)
    for episode, last in enumerate(bootstrap):
        following, advantage = last, 0.0
        for t in range(offsets[episode + 1] - 1, offsets[episode] - 1, -1):
            advantage = reward[t] + GAMMA * following - value[t] + GAMMA * LAMBDA * advantage
            result[t], following = advantage, value[t]
    return result


def loop_vtrace(reward, value, ratio, offsets, bootstrap):
    targets, advantages = [0.0] * len(reward), [0.0] * len(reward)
    for episode, last in enumerate(bootstrap):
        following = target = last
        for t in range(offsets[episode + 1] - 1, offsets[episode] - 1, -1):
            rho = min(1.0, ratio[t])
            advantages[t] = rho * (reward[t] + GAMMA * target - value[t])
            delta = rho * (reward[t] + GAMMA * following - value[t])
            target = value[t] + delta + GAMMA * rho * (target - following)
            targets[t], following = target, value[t]
    return targets, advantages


def _as_loop(loop, *arrays):
    return np.array(loop(*(array.tolist() for array in arrays)))


def measure(*, small):
    """Six figures: three sums, over few and over many episodes."""
    figures = []
    for count in (10, 50) if small else (10, 2000):
        figures += _measure(count, rounds=3 if small else 9 if count > 10 else 101)
    return figures


def _measure(count, rounds):
    rng = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(1, LONGEST + 1, count))])
    reward, value, ratio = rng.standard_normal((3, offsets[-1]))
    ratio, bootstrap = np.exp(0.3 * ratio), rng.standard_normal(count)
    cut = {"bootstrap_e": bootstrap, "gamma": GAMMA}
    pairs = {
        "returns": (
            lambda: _as_loop(loop_returns, reward, offsets, bootstrap),
            lambda: discounted_returns(reward, offsets, **cut),
        ),
        "GAE": (
            lambda: _as_loop(loop_gae, reward, value, offsets, bootstrap),
            lambda: gae(reward, value, offsets, gae_lambda=LAMBDA, **cut),
        ),
        "V-trace": (
            lambda: _as_loop(loop_vtrace, reward, value, ratio, offsets, bootstrap),
            lambda: vtrace(reward, value, ratio, offsets, **cut),
        ),
    }
    figures = []
    for name, (loop, ours) in pairs.items():
        np.testing.assert_allclose(loop(), np.array(ours()), atol=1e-9)
        found = side_by_side({"loop": loop, "ours": ours}, rounds=rounds, clock=time.thread_time)
        parts = {f"{side}, µs": 1e6 * seconds for side, seconds in found.items()}
        work = f"{name}, {count:,} episodes, against a Python loop"
        ratio_ = found["loop"] / found["ours"]
        figures.append(Figure(work=work, value=ratio_, unit="x", least=15.0, parts=parts))
    return figures
