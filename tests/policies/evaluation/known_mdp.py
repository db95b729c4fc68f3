"""A small MDP whose values are known exactly, and logs drawn from it."""

import numpy as np

from experience.batch import Batch

STATES, ACTIONS, GAMMA = 4, 2, 0.95
END = 0.2
"""Chance that an episode terminates after a step: about five steps an episode."""

_rng = np.random.default_rng(7)
MOVES = _rng.dirichlet(np.ones(STATES), size=(STATES, ACTIONS))
REWARDS = _rng.normal(size=(STATES, ACTIONS)).round(2)
NOISE = 0.5
STARTS = np.array([0.4, 0.3, 0.2, 0.1])
BEHAVIOR = np.array([[0.5, 0.5], [0.4, 0.6], [0.7, 0.3], [0.5, 0.5]])
TARGET = np.array([[0.7, 0.3], [0.3, 0.7], [0.5, 0.5], [0.65, 0.35]])
EYE = np.eye(STATES, dtype=np.float32)


class TableTarget:
    """A policy as a table [S, A]; observations are one-hot states."""

    def __init__(self, table):
        self.table = np.asarray(table, np.float64)

    def log_probs(self, obs, action, mask):
        with np.errstate(divide="ignore"):
            return np.log(self.table[obs.argmax(axis=1), action])

    def choices(self, obs, mask):
        probabilities = self.table[obs.argmax(axis=1)]
        return np.broadcast_to(np.arange(ACTIONS), probabilities.shape), probabilities


def exact_value(policy):
    """V = (I - γ (1 - end) P_π)⁻¹ r_π, averaged over the starts."""
    moves = np.einsum("sa,sax->sx", policy, MOVES) * (1 - END)
    values = np.linalg.solve(np.eye(STATES) - GAMMA * moves, (policy * REWARDS).sum(axis=1))
    return float(STARTS @ values)


def draw(n_episodes, rng, *, policy=BEHAVIOR, most_steps=None):
    """Episodes until they terminate, or are truncated after ``most_steps``."""
    steps = []
    state, alive = rng.choice(STATES, n_episodes, p=STARTS), np.arange(n_episodes)
    while len(alive) and (most_steps is None or len(steps) < most_steps):
        action = (rng.random(len(alive)) >= policy[state, 0]).astype(np.int64)
        reward = REWARDS[state, action] + NOISE * rng.standard_normal(len(alive))
        following = (rng.random((len(alive), 1)) > MOVES[state, action].cumsum(axis=1)).sum(axis=1)
        following = np.minimum(following, STATES - 1)
        ended = rng.random(len(alive)) < END
        steps.append((alive, state, action, reward, following, ended))
        alive, state = alive[~ended], following[~ended]
    return laid_out(n_episodes, steps, policy)


def laid_out(n_episodes, steps, policy):
    episode, state, action, reward, following, ended = map(np.concatenate, zip(*steps, strict=True))
    order = np.argsort(episode, kind="stable")
    episode, state, action, reward, following, ended = (
        column[order] for column in (episode, state, action, reward, following, ended)
    )
    offsets = np.concatenate([[0], np.bincount(episode, minlength=n_episodes).cumsum()])
    last = offsets[1:] - 1
    return Batch(
        obs=EYE[state],
        final_obs=EYE[following[last]],
        action=action,
        reward=reward,
        logp=np.log(policy[state, action]),
        mask=None,
        policy_version=np.ones(len(state), np.int64),
        offsets=offsets.astype(np.int64),
        terminated=ended[last],
        total_reward=np.add.reduceat(reward, offsets[:-1]),
    )
