"""Worlds that nobody here wrote, learned from files: what is learned beats random play.

Those that take more than half a minute, and further seeds, run with ``-m slow``. Each prints its figure; what
came out is in learnerd/docs/worlds.md.
"""

import pytest
from harness import World, check_better_than_random, learn, show

SHORT_EPISODES = """
[batch]
min_episodes = 32       # an episode has few steps once the task is solved
chunk_episodes = 32
[learner]
reference_batch_episodes = 32
"""
PENDULUM = """
[learner]
gamma = 0.9             # a swing is over within some ten steps
learning_rate = 1e-3
entropy_bonus = 0.0     # the spread of a Gaussian explores by itself
epochs = 10
minibatches = 25        # of 64 steps: an episode has 200
prox_decay = "auto"     # 250 Adam steps an update: a memory of 9 would let the policy run away from the clip
"""
BREAKOUT = f"{SHORT_EPISODES}learning_rate = 1e-3\n"

FAST = {
    "cartpole": World(client="cartpole", steps=20_000),
    "minigrid_empty": World(
        client="minigrid_empty", steps=10_000, config=SHORT_EPISODES, play=("--rate", "1000")
    ),
}
SLOW = {
    "acrobot": World(client="acrobot", steps=50_000, within_s=600),
    "pendulum": World(client="pendulum", steps=100_000, config=PENDULUM, within_s=600),
    "minigrid_doorkey": World(client="minigrid_doorkey", steps=90_000, config=SHORT_EPISODES, within_s=1200),
    "minatar_breakout": World(
        client="minatar_breakout", steps=100_000, config=BREAKOUT, play=("--rate", "400"), within_s=2400
    ),
}
CASES = [
    *(pytest.param(world, 0, id=f"{name}-0") for name, world in FAST.items()),
    *(
        pytest.param(world, seed, id=f"{name}-{seed}", marks=pytest.mark.slow)
        for name, world in (FAST | SLOW).items()
        for seed in (0, 1, 2)
        if name in SLOW or seed > 0
    ),
]

pytestmark = pytest.mark.timeout(3600)


@pytest.mark.parametrize(("world", "seed"), CASES)
def test_what_is_learned_beats_random_play(tmp_path, capsys, world, seed):
    outcome = learn(world, tmp_path / "site", seed)

    show(capsys, f"{world.client}, seed {seed}", outcome)
    check_better_than_random(outcome)
