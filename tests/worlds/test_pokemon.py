"""poke-env's bots on a local Pokémon Showdown server: what is learned beats poke-env's random player.

The server is no Python package, and poke-env wants one release of Gymnasium, so who wants this installs both:
``learnerd/docs/worlds.md``.
"""

import pytest
from harness import World, check_better_than_random, learn, show
from showdown import showdown

CONFIG = """
[policy]
observation_shape = [53]
action = { kind = "discrete", n = 26 }
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_bot_learns_to_beat_the_random_player(tmp_path, capsys, seed):
    with showdown(tmp_path / "showdown") as address:
        server = ("--server", address)
        world = World(
            client="pokemon",
            steps=20_000,
            config=CONFIG,
            play=server,
            evaluate=server,
            clients=2,
            within_s=3600.0,
        )
        outcome = learn(world, tmp_path / "bots", seed)

    show(capsys, f"gen9randombattle, results against a random player, seed {seed}", outcome)
    check_better_than_random(outcome)
    check_battles(outcome.site.episodes())


def check_battles(episodes):
    """A battle ends by itself, every action was legal, and its last step has won or lost it."""
    for episode in episodes:
        assert episode.terminated
        assert episode.mask[range(episode.n_steps), episode.action].all()
        assert not episode.mask.all(axis=1).any()  # no Pokémon has every gimmick
    decided = sum(abs(episode.reward[-1]) > 1 for episode in episodes)
    assert decided > 0.95 * len(episodes)  # ties are rare
