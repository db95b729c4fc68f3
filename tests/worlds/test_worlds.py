"""Worlds that nobody here wrote, learned from files: what is learned beats random play."""

import pytest
from harness import World, check_better_than_random, learn, show

WORLDS = {
    "cartpole": World(client="cartpole", steps=30_000),
    "acrobot": World(client="acrobot", steps=100_000),
}
IN_CI = {"cartpole"}

pytestmark = pytest.mark.timeout(1800)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in IN_CI else pytest.mark.slow) for name in WORLDS]
)
def test_what_is_learned_beats_random_play(tmp_path, capsys, name):
    outcome = learn(WORLDS[name], tmp_path / name, seed=0)

    show(capsys, name, outcome)
    check_better_than_random(outcome)
