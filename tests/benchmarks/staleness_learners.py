"""The contenders: each gives versions to act with, and learns from episodes that older ones played."""

import shutil
import tempfile
from pathlib import Path

import gymnasium
import numpy as np
import torch

from experience.collate import collate
from learnerd.learn import chunked, learn, ledger_entries
from policies.initial import initial_checkpoint
from policies.settings import LearnerSettings
from policies.spec import DiscreteSpace, PolicySpec
from policies.store import CheckpointStore

CHUNK_EPISODES = 8

PLAIN = {"decoupled": False, "ess_scaling": False, "prox_decay": 0.0}

SETTINGS = {
    "learnerd": {},
    "reinforce": {"algorithm": "reinforce", "baseline": "batch_mean", "epochs": 1, "minibatches": 1},
    "ppo": PLAIN,
}
"""Contender -> what differs from the defaults; all run in the same learner."""


def space_of(task):
    environment = gymnasium.make(task)
    (inputs,) = environment.observation_space.shape
    return inputs, int(environment.action_space.n)


class Ours:
    """This repository's learner over a real store; optionally an online learner saves to it too.

    Args:
        task: a Gymnasium id.
        seed: of weights and shuffling.
        settings: differences from the defaults of ``LearnerSettings``.
        policy: differences from the defaults of ``PolicySpec``.
    """

    def __init__(self, task, *, seed, settings, policy=None):
        inputs, actions = space_of(task)
        spec = PolicySpec(
            observation_shape=(inputs,),
            action=DiscreteSpace(n=actions),
            **{"hidden": (64, 64), "normalize": True, **(policy or {})},
        )
        self._folder = Path(tempfile.mkdtemp(prefix="staleness-", dir=_memory()))
        self._store = CheckpointStore(self._folder)
        self._base = initial_checkpoint(spec, seed=seed)
        self._settings = LearnerSettings(**settings)
        self._seed = seed
        self._seen = {0: self._base}
        self.reports = []

    @property
    def version(self):
        return self._base.version

    @property
    def acting(self):
        return self._base

    def learn(self, episodes, *, online=()):
        """Train on ``episodes``; before that is published, another writer publishes what ``online`` gave."""
        learned = self._train(episodes)
        if online:
            self._publish(self._train(online), "online")
        self._base = self._publish(learned, "daemon")
        self._seen[self._base.version] = self._base
        self.reports += learned.reports

    def close(self):
        shutil.rmtree(self._folder)

    def _train(self, episodes):
        return learn(
            self._base,
            chunked(episodes, CHUNK_EPISODES),
            settings=self._settings,
            seed=self._seed,
            device="cpu",
            behavior=self._seen.get,
        )

    def _publish(self, learned, writer):
        entries = ledger_entries(learned, lambda _: "claim")
        return self._store.publish(learned.delta, base=self._base, writer=writer, episodes=entries)


class StableBaselines:
    """Stable-Baselines3's PPO, whose buffer is filled from files: it recomputes log-probabilities at load.

    Network, learning rate, epochs and minibatches are those of the default learner.
    """

    GAMMA = 0.99

    def __init__(self, task, *, seed, settings=None, policy=None):
        from stable_baselines3 import PPO  # noqa: PLC0415 - a peer, needed for this contender only
        from stable_baselines3.common.logger import Logger  # noqa: PLC0415

        del settings, policy
        defaults = LearnerSettings()
        inputs, actions = space_of(task)
        self._spec = PolicySpec(
            observation_shape=(inputs,), action=DiscreteSpace(n=actions), hidden=(64, 64), normalize=False
        )
        self._model = PPO(
            "MlpPolicy",
            gymnasium.make(task),
            learning_rate=defaults.learning_rate,
            n_epochs=defaults.epochs,
            policy_kwargs={"net_arch": [64, 64]},
            seed=seed,
            device="cpu",
        )
        self._model.set_logger(Logger(folder=None, output_formats=[]))
        self._minibatches = defaults.minibatches
        self.version = 0
        self.reports = []

    @property
    def acting(self):
        weights = {
            ours: tensor.numpy().copy()
            for ours, tensor in _our_names(self._model.policy.state_dict()).items()
        }
        return Acting(self._spec, weights)

    def learn(self, episodes, *, online=()):
        """One ``train()`` on the episodes, as a rollout buffer of one environment."""
        if online:
            raise ValueError("two writers cannot share this learner")
        batch = collate(episodes, observation_shape=self._spec.observation_shape)
        self._model.rollout_buffer = self._buffer(batch)
        self._model.batch_size = -(-batch.n_steps // self._minibatches)
        self._model.train()
        self.version += 1

    def close(self):
        return

    def _buffer(self, batch):
        from stable_baselines3.common.buffers import RolloutBuffer  # noqa: PLC0415

        model, steps = self._model, batch.n_steps
        buffer = RolloutBuffer(
            steps,
            model.observation_space,
            model.action_space,
            device="cpu",
            gamma=self.GAMMA,
            gae_lambda=0.95,
        )
        with torch.no_grad():
            obs, action = torch.from_numpy(batch.obs), torch.from_numpy(batch.action)
            value, logp, _ = model.policy.evaluate_actions(obs, action)
            final = model.policy.predict_values(torch.from_numpy(batch.final_obs)).numpy()[:, 0]
        ends = batch.offsets[1:] - 1
        rewards = batch.reward.copy()
        rewards[ends] += self.GAMMA * np.where(batch.terminated, 0.0, final)
        buffer.observations[:, 0] = batch.obs
        buffer.actions[:, 0, 0] = batch.action
        buffer.rewards[:, 0] = rewards
        buffer.values[:, 0] = value.numpy()[:, 0]
        buffer.log_probs[:, 0] = logp.numpy()
        buffer.episode_starts[batch.offsets[:-1], 0] = 1.0
        buffer.pos, buffer.full = steps, True
        buffer.compute_returns_and_advantage(last_values=torch.zeros(1, 1), dones=np.array([True]))
        return buffer


class Acting:
    """Weights of a peer, to be acted with like a checkpoint."""

    def __init__(self, spec, weights):
        self.spec, self.weights, self.normalizer = spec, weights, None


def _our_names(state):
    theirs = {"policy.0": "mlp_extractor.policy_net.0", "policy.1": "mlp_extractor.policy_net.2"}
    theirs |= {"policy.2": "action_net"}
    return {
        f"{ours}.{kind}": state[f"{name}.{kind}"]
        for ours, name in theirs.items()
        for kind in ("weight", "bias")
    }


def _memory():
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def contender(name, task, *, seed, settings=None, policy=None):
    """Make a contender by its name."""
    if name == "sb3":
        return StableBaselines(task, seed=seed)
    return Ours(task, seed=seed, settings=SETTINGS[name] | (settings or {}), policy=policy)
