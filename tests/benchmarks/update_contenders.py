"""Contenders of the update benchmark: the same batch to learn from, and what learns from it.

Each is made ready by a function and comes back as one to call: only the call is timed.
"""

import functools
import itertools
import timeit

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger

from experience.batch import Batch
from policies.epochs import permutations
from policies.initial import initial_checkpoint
from policies.learner import Learner
from policies.returns import discounted_returns
from policies.settings import LearnerSettings
from policies.spec import DiscreteSpace, PolicySpec

OBSERVATION, HIDDEN, ACTIONS = 15, (64, 64), 2
EPOCHS = 10
SEED = 11
GAMMA, LEARNING_RATE, ENTROPY_BONUS, MAX_NORM = 0.99, 5e-4, 0.01, 0.5


def checkpoint():
    """Return the untrained networks, 15 -> 64 -> 64."""
    spec = PolicySpec(observation_shape=(OBSERVATION,), action=DiscreteSpace(n=ACTIONS), hidden=HIDDEN)
    return initial_checkpoint(spec, seed=0)


@functools.cache
def batch_of(episodes, length):
    """Return made-up episodes of ``length`` steps with their true log-probabilities; the last one is cut."""
    rng, n = np.random.default_rng(0), episodes * length
    offsets = np.arange(episodes + 1) * length
    reward = rng.normal(size=n)
    batch = Batch(
        obs=rng.normal(size=(n, OBSERVATION)).astype(np.float32),
        final_obs=rng.normal(size=(episodes, OBSERVATION)).astype(np.float32),
        action=rng.integers(0, ACTIONS, n),
        reward=reward,
        logp=np.zeros(n),
        mask=None,
        policy_version=np.ones(n, np.int64),
        offsets=offsets,
        terminated=np.arange(episodes) < episodes - 1,
        total_reward=np.add.reduceat(reward, offsets[:-1]),
    )
    batch.logp[:] = Learner(checkpoint(), LearnerSettings()).log_probs(batch)
    return batch


def settings_alike(minibatches):
    """Return the settings under which an update is Stable-Baselines3's."""
    return LearnerSettings(
        learning_rate=3e-4,
        lr_scaling="none",
        epochs=EPOCHS,
        minibatches=minibatches,
        advantage_normalization="minibatch",
        joint_clip=True,
        entropy_bonus=0.0,
        popart_rate=0.0,
        decoupled=False,
        ess_scaling=False,
        target_kl=0.0,
    )


def ours(batch, settings, *, path="auto"):
    """Return (a learner, its whole update)."""
    learner = Learner(checkpoint(), settings, path=path)
    return learner, lambda: learner.update(batch, seed=SEED)


class _Nothing(gym.Env):
    """Has spaces only: the buffer is filled by hand."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (OBSERVATION,), np.float32)
    action_space = gym.spaces.Discrete(ACTIONS)


def sb3(batch, minibatches):
    """Return (Stable-Baselines3's PPO with the same weights and batch, its ``train``)."""
    model = PPO(
        "MlpPolicy",
        _Nothing(),
        learning_rate=3e-4,
        n_steps=batch.n_steps,
        batch_size=batch.n_steps // minibatches,
        n_epochs=EPOCHS,
        device="cpu",
    )
    model.set_logger(Logger(folder=None, output_formats=[]))
    model.policy.load_state_dict(
        {their_name(name): torch.from_numpy(array) for name, array in checkpoint().weights.items()}
    )
    _fill(model, batch)
    return model, model.train


def their_name(name):
    """Return Stable-Baselines3's name of one of our weights."""
    network, layer, kind = name.split(".")
    if int(layer) == len(HIDDEN):
        return f"{'action' if network == 'policy' else 'value'}_net.{kind}"
    return f"mlp_extractor.{network}_net.{2 * int(layer)}.{kind}"


def _fill(model, batch):
    buffer = model.rollout_buffer
    with torch.no_grad():
        value, logp, _ = model.policy.evaluate_actions(
            torch.from_numpy(batch.obs), torch.from_numpy(batch.action)
        )
        last = model.policy.predict_values(torch.from_numpy(batch.final_obs[-1:]))
    starts = np.isin(np.arange(batch.n_steps), batch.offsets[:-1]).astype(np.float32)
    for t in range(batch.n_steps):
        buffer.add(batch.obs[t], batch.action[t : t + 1], batch.reward[t], starts[t], value[t], logp[t])
    buffer.compute_returns_and_advantage(last_values=last, dones=np.array([False]))


def furthest(batch, minibatches, *, path="auto"):
    """Train both alike, with the same shuffles; the largest difference between two of their parameters."""
    learner, update = ours(batch, settings_alike(minibatches), path=path)
    model, train = sb3(batch, minibatches)
    orders = iter(permutations(SEED, epochs=EPOCHS, n=batch.n_steps))
    drawn, np.random.permutation = np.random.permutation, lambda _n: next(orders)
    try:
        train()
    finally:
        np.random.permutation = drawn
    update()
    theirs = model.policy.state_dict()
    return max(
        float(np.abs(array - theirs[their_name(name)].numpy()).max())
        for name, array in learner.weights().items()
    )


def products(n, *, heads):
    """Return a function that does the bare matrix products of so many minibatches of n steps.

    Forward and backward, in the faster order of two: a row for each step, as libraries have it, or a column.

    Args:
        n: steps of a minibatch; at most 512 go at once.
        heads: output widths, one a network.
    """
    chunks = -(-n // 512)
    rng = np.random.default_rng(0)
    layers = [pair for head in heads for pair in itertools.pairwise((OBSERVATION, *HIDDEN, head))]
    made = [_layer_products(rng, n // chunks, *pair, first=pair[0] == OBSERVATION) for pair in layers]
    orders = [[call for layer in made for call in layer[order]] for order in ("rows", "columns")]

    def multiply(calls, times):
        for a, b, out in calls * times:
            np.matmul(a, b, out=out)

    def seconds(calls):
        return min(timeit.repeat(lambda: multiply(calls, 1), repeat=20, number=5))

    fastest = min(orders, key=seconds)
    return lambda minibatches: multiply(fastest, chunks * minibatches)


def _layer_products(rng, n, fan_in, fan_out, *, first):
    def matrix(*shape):
        return rng.normal(size=shape).astype(np.float32)

    x, d, w = matrix(n, fan_in), matrix(n, fan_out), matrix(fan_out, fan_in)
    xc, dc = np.ascontiguousarray(x.T), np.ascontiguousarray(d.T)
    rows = [(x, w.T, matrix(n, fan_out)), (d.T, x, matrix(fan_out, fan_in)), (d, w, matrix(n, fan_in))]
    columns = [(w, xc, matrix(fan_out, n)), (dc, xc.T, matrix(fan_out, fan_in)), (w.T, dc, matrix(fan_in, n))]
    kept = 2 if first else 3  # nobody asks for the gradient in the observations
    return {"rows": rows[:kept], "columns": columns[:kept]}


class Reinforce:
    """REINFORCE as it is written with autograd: a moving baseline, normalized advantages, Adam."""

    def __init__(self, batch):
        weights = {name: torch.from_numpy(array.copy()) for name, array in checkpoint().weights.items()}
        self.net = torch.nn.Sequential(
            torch.nn.Linear(OBSERVATION, HIDDEN[0]),
            torch.nn.Tanh(),
            torch.nn.Linear(HIDDEN[0], HIDDEN[1]),
            torch.nn.Tanh(),
            torch.nn.Linear(HIDDEN[1], ACTIONS),
        )
        names = [name for name in weights if name.startswith("policy.")]
        for parameter, name in zip(self.net.parameters(), names, strict=True):
            parameter.data.copy_(weights[name])
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=LEARNING_RATE, eps=1e-5)
        self.batch = batch

    def batched(self):
        """One forward and one backward pass over all steps."""
        batch = self.batch
        log_probs = torch.log_softmax(self.net(torch.from_numpy(batch.obs)), dim=1)
        self._step(log_probs, torch.from_numpy(batch.action))

    def step_by_step(self):
        """One forward pass a step, as while playing; one backward pass."""
        batch = self.batch
        rows = [torch.log_softmax(self.net(torch.from_numpy(obs)), dim=0) for obs in batch.obs]
        self._step(torch.stack(rows), torch.from_numpy(batch.action))

    def _step(self, log_probs, action):
        returns = discounted_returns(self.batch.reward, self.batch.offsets, gamma=GAMMA)
        advantage = torch.from_numpy((returns - returns.mean()) / (returns.std() + 1e-8)).float()
        logp = log_probs.gather(1, action[:, None])[:, 0]
        entropy = -(log_probs.exp() * log_probs).sum(dim=1)
        loss = (-advantage * logp - ENTROPY_BONUS * entropy).mean()
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), MAX_NORM)
        self.optimizer.step()
