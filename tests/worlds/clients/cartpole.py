"""CartPole-v1, as Gymnasium has it."""

import gymnasium
from gym_client import main

if __name__ == "__main__":
    main(lambda: gymnasium.make("CartPole-v1"), client_id="cartpole")
