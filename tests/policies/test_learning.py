"""Tiny tasks that are learned within seconds, and are not when the rewards are shuffled."""

import dataclasses

import numpy as np
import pytest

from experience.batch import Batch
from policies.distributions import categorical_log_probs, categorical_sample
from policies.forward import policy_outputs
from policies.learner import Learner
from policies.settings import LearnerSettings

CONTEXTS = 4
CORRIDOR = 4
CORRIDOR_STEPS = 12

RULES = {
    "ppo": LearnerSettings(learning_rate=2e-3),
    "ema": LearnerSettings(algorithm="reinforce", baseline="ema", learning_rate=2e-3),
    "batch_mean": LearnerSettings(algorithm="reinforce", baseline="batch_mean", learning_rate=2e-3),
    "leave_one_out": LearnerSettings(algorithm="reinforce", baseline="leave_one_out", learning_rate=2e-3),
    "value": LearnerSettings(algorithm="reinforce", baseline="value", learning_rate=2e-3),
}


def act(checkpoint, obs, rng):
    logits = policy_outputs(checkpoint.weights, checkpoint.spec, checkpoint.normalizer, obs)
    action = categorical_sample(logits, rng)
    return action, categorical_log_probs(logits)[np.arange(len(obs)), action]


def batch_of(episodes):
    """Lay (obs, final_obs, action, reward, logp, terminated) end to end."""
    obs, final_obs, action, reward, logp, terminated = zip(*episodes, strict=True)
    lengths = [len(rewards) for rewards in reward]
    return Batch(
        obs=np.concatenate(obs),
        final_obs=np.stack(final_obs),
        action=np.concatenate(action),
        reward=np.concatenate(reward),
        logp=np.concatenate(logp),
        mask=None,
        policy_version=np.ones(sum(lengths), np.int64),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        terminated=np.array(terminated),
        total_reward=np.array([rewards.sum() for rewards in reward]),
    )


def bandit(checkpoint, rng):
    """One step: reward 1 for the action that the observation names."""
    context = rng.integers(0, CONTEXTS, 64)
    obs = np.eye(CONTEXTS, dtype=np.float32)[context]
    action, logp = act(checkpoint, obs, rng)
    reward = (action == context).astype(np.float64)
    nothing = np.zeros(CONTEXTS, np.float32)
    return batch_of(
        [
            (obs[i : i + 1], nothing, action[i : i + 1], reward[i : i + 1], logp[i : i + 1], True)
            for i in range(len(obs))
        ]
    )


def corridor(checkpoint, rng):
    """Action 1 goes on, action 0 back to the start; reward 1 at the end, cut after a few steps."""
    places = np.eye(CORRIDOR, dtype=np.float32)
    episodes = []
    for _ in range(16):
        place, steps = 0, []
        while place < CORRIDOR and len(steps) < CORRIDOR_STEPS:
            action, logp = act(checkpoint, places[place : place + 1], rng)
            following = place + 1 if action[0] else 0
            steps.append((places[place], action[0], float(following == CORRIDOR), logp[0]))
            place = following
        obs, action, reward, logp = (np.array(column) for column in zip(*steps, strict=True))
        arrived = place == CORRIDOR
        final_obs = np.zeros(CORRIDOR, np.float32) if arrived else places[place]
        episodes.append((obs, final_obs, action, reward, logp, arrived))
    return batch_of(episodes)


def learn(task, checkpoint, settings, published, *, updates, shuffle=False):
    """Publish after every update; return the mean rewards a step, batch by batch."""
    rng = np.random.default_rng(0)
    curve = []
    for i in range(updates):
        batch = task(checkpoint, rng)
        curve.append(batch.reward.mean())
        if shuffle:
            batch = dataclasses.replace(batch, reward=rng.permutation(batch.reward))
        learner = Learner(checkpoint, settings)
        learner.update(batch, seed=i)
        checkpoint = published(checkpoint, learner.delta())
    return curve


@pytest.mark.parametrize("rule", RULES)
def test_a_contextual_bandit_is_learned(make_checkpoint, published, rule):
    checkpoint = make_checkpoint(observation=CONTEXTS, actions=CONTEXTS, hidden=(16, 16))
    curve = learn(bandit, checkpoint, RULES[rule], published, updates=20)
    print(f"{rule}: {np.mean(curve[:2]):.2f} -> {np.mean(curve[-5:]):.2f} of 1")
    assert np.mean(curve[:2]) < 0.4
    assert np.mean(curve[-5:]) > 0.9


@pytest.mark.parametrize("rule", ["ppo", "leave_one_out"])
def test_nothing_is_learned_from_shuffled_rewards(make_checkpoint, published, rule):
    checkpoint = make_checkpoint(observation=CONTEXTS, actions=CONTEXTS, hidden=(16, 16))
    curve = learn(bandit, checkpoint, RULES[rule], published, updates=20, shuffle=True)
    print(f"{rule}, shuffled: {np.mean(curve[:2]):.2f} -> {np.mean(curve[-5:]):.2f} of 1")
    assert np.mean(curve[-5:]) < 0.5  # chance is 0.25


@pytest.mark.parametrize("rule", ["ppo", "value"])
def test_a_corridor_is_learned(make_checkpoint, published, rule):
    checkpoint = make_checkpoint(observation=CORRIDOR, actions=2, hidden=(16, 16))
    curve = learn(corridor, checkpoint, RULES[rule], published, updates=20)
    print(f"{rule}: {np.mean(curve[:2]):.3f} -> {np.mean(curve[-5:]):.3f} of {1 / CORRIDOR}")
    assert np.mean(curve[:2]) < 0.5 / CORRIDOR
    assert np.mean(curve[-5:]) > 0.9 / CORRIDOR
