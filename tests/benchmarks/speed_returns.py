"""Returns, GAE and V-trace over episodes of many lengths; against two plain loops.

All sides take arrays and give arrays. "a loop that indexes arrays" asks them for one number after another, as
Stable-Baselines3's rollout buffer and CleanRL do; "a Python loop" turns them into lists first and back at the
end, which takes half as long and is the quickest that plain Python does. Few episodes are done several times
in a turn, because a single one is too short for the clock.
"""

import functools
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


def _over_lists(loop, *arrays):
    return np.array(loop(*(array.tolist() for array in arrays)))


def _over_arrays(loop, *arrays):
    return np.array(loop(*arrays))


def _repeat(work, times):
    for _ in range(times):
        work()


def measure(*, small):
    """Twelve figures: three sums, over few and over many episodes, against both loops."""
    figures = []
    for count in (10, 50) if small else (10, 2000):
        figures += _measure(count, rounds=3 if small else 9, repeats=max(1, 200 // count))
    return figures


def _measure(count, rounds, repeats):
    rng = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(1, LONGEST + 1, count))])
    reward, value, ratio = rng.standard_normal((3, offsets[-1]))
    ratio, bootstrap = np.exp(0.3 * ratio), rng.standard_normal(count)
    cut = {"bootstrap_e": bootstrap, "gamma": GAMMA}
    vtrace_arrays = (reward, value, ratio, offsets, bootstrap)
    cases = {
        "returns": (
            (loop_returns, reward, offsets, bootstrap),
            lambda: discounted_returns(reward, offsets, **cut),
        ),
        "GAE": (
            (loop_gae, reward, value, offsets, bootstrap),
            lambda: gae(reward, value, offsets, gae_lambda=LAMBDA, **cut),
        ),
        "V-trace": ((loop_vtrace, *vtrace_arrays), lambda: vtrace(reward, value, ratio, offsets, **cut)),
    }
    figures = []
    for name, (loop, ours) in cases.items():
        works = {
            "a Python loop": functools.partial(_over_lists, *loop),
            "a loop that indexes arrays": functools.partial(_over_arrays, *loop),
            "ours": ours,
        }
        np.testing.assert_allclose(works["a Python loop"](), np.array(ours()), atol=1e-9)
        repeated = {side: functools.partial(_repeat, work, repeats) for side, work in works.items()}
        found = side_by_side(repeated, rounds=rounds, clock=time.thread_time)
        parts = {f"{side}, µs": 1e6 * seconds / repeats for side, seconds in found.items()}
        figures += [
            Figure(
                work=f"{name}, {count:,} episodes, against {side}",
                value=found[side] / found["ours"],
                unit="x",
                least=15.0,
                parts=parts,
            )
            for side in ("a Python loop", "a loop that indexes arrays")
        ]
    return figures
