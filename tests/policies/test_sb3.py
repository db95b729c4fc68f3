"""A whole PPO update, configured alike, ends at Stable-Baselines3's parameters."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger

from policies.epochs import permutations
from policies.learner import Learner
from policies.settings import LearnerSettings

STEPS, EPOCHS, MINIBATCHES, SEED = 96, 3, 4, 11
LENGTHS = (20, 31, 45)  # the last one is cut, the others end

OURS = LearnerSettings(
    learning_rate=3e-4,
    lr_scaling="none",
    epochs=EPOCHS,
    minibatches=MINIBATCHES,
    advantage_normalization="minibatch",
    joint_clip=True,
    max_grad_norm=0.5,
    value_coefficient=0.5,
    entropy_bonus=0.01,
    popart_rate=0.0,
    decoupled=False,
    ess_scaling=False,
)

NAMES = {
    "policy.0": "mlp_extractor.policy_net.0",
    "policy.1": "mlp_extractor.policy_net.2",
    "policy.2": "action_net",
    "value.0": "mlp_extractor.value_net.0",
    "value.1": "mlp_extractor.value_net.2",
    "value.2": "value_net",
}


class Nothing(gym.Env):
    """Has spaces only: the buffer is filled by hand."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)

    def __init__(self, action_space):
        self.action_space = action_space


def their_name(name):
    layer, _, kind = name.rpartition(".")
    return f"{NAMES[layer]}.{kind}" if layer else name


def their_ppo(action_space, weights):
    model = PPO(
        "MlpPolicy",
        Nothing(action_space),
        learning_rate=3e-4,
        n_steps=STEPS,
        batch_size=STEPS // MINIBATCHES,
        n_epochs=EPOCHS,
        ent_coef=0.01,
        policy_kwargs={"net_arch": [8, 8]},
        device="cpu",
    )
    model.set_logger(Logger(folder=None, output_formats=[]))
    state = {their_name(name): torch.from_numpy(array) for name, array in weights.items()}
    model.policy.load_state_dict(state)
    return model


def fill(model, batch):
    buffer = model.rollout_buffer
    with torch.no_grad():
        obs = torch.from_numpy(batch.obs)
        value, logp, _ = model.policy.evaluate_actions(obs, torch.from_numpy(batch.action))
        last = model.policy.predict_values(torch.from_numpy(batch.final_obs[-1:]))
    starts = np.isin(np.arange(STEPS), batch.offsets[:-1]).astype(np.float32)
    for t in range(STEPS):
        buffer.add(
            batch.obs[t],
            np.atleast_1d(batch.action[t]),
            batch.reward[t : t + 1],
            starts[t : t + 1],
            value[t],
            logp[t : t + 1],
        )
    buffer.compute_returns_and_advantage(last_values=last, dones=np.array([False]))


@pytest.mark.parametrize("path", ["numpy", "torch"])
@pytest.mark.parametrize("size", [None, 2])
def test_one_update_equals_stable_baselines3(make_checkpoint, make_batch, monkeypatch, size, path):
    checkpoint = make_checkpoint(size=size)
    batch = make_batch(LENGTHS, size=size, terminated=np.array([True, True, False]), seed=4)
    learner = Learner(checkpoint, OURS, path=path)
    learner.update(
        make_batch(
            LENGTHS,
            size=size,
            terminated=np.array([True, True, False]),
            seed=4,
            logp=learner.log_probs(batch),
        ),
        seed=SEED,
    )
    space = gym.spaces.Discrete(2) if size is None else gym.spaces.Box(-1, 1, (size,), np.float32)
    model = their_ppo(space, checkpoint.weights)
    fill(model, batch)
    orders = iter(permutations(SEED, epochs=EPOCHS, n=STEPS))
    monkeypatch.setattr(np.random, "permutation", lambda _n: next(orders))
    model.train()
    theirs = model.policy.state_dict()
    for name, array in learner.weights().items():
        assert np.abs(array - checkpoint.weights[name]).max() > 1e-4, name
        np.testing.assert_allclose(array, theirs[their_name(name)].numpy(), rtol=0, atol=1e-6, err_msg=name)
