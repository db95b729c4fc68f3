"""Pendulum-v1, as Gymnasium has it.

The policy's sample is what is recorded; the environment is given it clipped to the torques that it takes.
"""

import gymnasium
from gym_client import main
from gymnasium.wrappers import ClipAction

if __name__ == "__main__":
    main(lambda: ClipAction(gymnasium.make("Pendulum-v1")), client_id="pendulum")
