"""On-policy CartPole: how many environment steps until 100 training episodes have a mean of 475?"""

import warnings

import numpy as np
import torch
from staleness_cells import Cell, run

WANTED = 475.0
TUNED_STEPS = 100_000


def ours(seed):
    """Environment steps of the default learner, fed 8 episodes of its newest version; NaN for never."""
    return run(Cell(task="CartPole-v1", learner="learnerd", lag=0), seed, until_475=True).steps_to_475


def ours_when_fresh(seed):
    """The same with what suits files that come at once: ``min_episodes`` = 2 and ``epochs`` = 10."""
    cell = Cell(task="CartPole-v1", learner="learnerd", lag=0, batches="2")
    return run(cell, seed, settings={"epochs": 10}, until_475=True).steps_to_475


def stable_baselines(seed):
    """Environment steps of Stable-Baselines3's PPO with the settings tuned for this task; NaN for never."""
    from stable_baselines3 import PPO  # noqa: PLC0415 - a peer
    from stable_baselines3.common.env_util import make_vec_env  # noqa: PLC0415

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=UserWarning)
    model = PPO(
        "MlpPolicy",
        make_vec_env("CartPole-v1", n_envs=8, seed=seed),
        n_steps=32,
        batch_size=256,
        n_epochs=20,
        gamma=0.98,
        gae_lambda=0.8,
        ent_coef=0.0,
        learning_rate=lambda left: 1e-3 * left,
        clip_range=lambda left: 0.2 * left,
        seed=seed,
        device="cpu",
    )
    returns, reached = [], []

    def watch(variables, _):
        returns.extend(info["episode"]["r"] for info in variables["infos"] if "episode" in info)
        if len(returns) >= 100 and np.mean(returns[-100:]) >= WANTED:
            reached.append(model.num_timesteps)
        return not reached

    model.learn(TUNED_STEPS, callback=watch)
    return float(reached[0]) if reached else float("nan")
