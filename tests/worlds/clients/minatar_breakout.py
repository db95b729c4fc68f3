"""MinAtar/Breakout-v1: 10 x 10 cells of four bits (paddle, ball, trail, brick), given as an image of bytes.

A network sees bytes divided by 255, so the bits become 0 and 255.
"""

import gymnasium
import numpy as np
from gym_client import main
from gymnasium.spaces import Box
from gymnasium.wrappers import TransformObservation
from minatar.gym import register_envs


def make_env() -> gymnasium.Env:
    """Breakout with the actions that do something: stay, left, right."""
    env = gymnasium.make("MinAtar/Breakout-v1")
    image = Box(0, 255, env.observation_space.shape, np.uint8)
    return TransformObservation(env, lambda bits: bits * np.uint8(255), image)


if __name__ == "__main__":
    register_envs()
    main(make_env, client_id="breakout")
