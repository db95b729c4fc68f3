"""MiniGrid-Empty-5x5-v0: walk to the goal.

What the agent sees are the 7 x 7 cells before it, each with three numbers: object, color, state. They are
names, not brightness: as a flat box each is normalized, as an image they would only be divided by 255.
"""

import gymnasium
import minigrid  # noqa: F401 - registers its environments
from gym_client import main
from gymnasium.wrappers import FlattenObservation
from minigrid.wrappers import ImgObsWrapper

if __name__ == "__main__":
    main(
        lambda: FlattenObservation(ImgObsWrapper(gymnasium.make("MiniGrid-Empty-5x5-v0"))), client_id="empty"
    )
