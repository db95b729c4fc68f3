"""MiniGrid-DoorKey-5x5-v0: fetch the key, open the door, walk to the goal; nothing is earned before.

What the agent sees is given as in ``minigrid_empty.py``.
"""

import gymnasium
import minigrid  # noqa: F401 - registers its environments
from gym_client import main
from gymnasium.wrappers import FlattenObservation
from minigrid.wrappers import ImgObsWrapper

if __name__ == "__main__":
    main(
        lambda: FlattenObservation(ImgObsWrapper(gymnasium.make("MiniGrid-DoorKey-5x5-v0"))),
        client_id="doorkey",
    )
