"""PettingZoo's Connect Four: a policy that only ever played itself beats a random player."""

from collections import defaultdict

import pytest
from harness import World, check_better_than_random, learn, show

SEEDS = [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]
SEATS = ["player_0", "player_1"]
CONFIG = """
[batch]
min_episodes = 32       # a seat has about ten moves in a game
chunk_episodes = 32
[learner]
reference_batch_episodes = 32
learning_rate = 1e-3
entropy_bonus = 0.03    # to keep the opponent varied; no clear difference was measured
"""
CONNECT_FOUR = World(client="connect_four", steps=20_000, config=CONFIG)

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("seed", SEEDS)
def test_self_play_learns_to_beat_a_random_player(tmp_path, capsys, seed):
    outcome = learn(CONNECT_FOUR, tmp_path / str(seed), seed)

    show(capsys, f"Connect Four, results against a random player, seed {seed}", outcome)
    check_better_than_random(outcome)
    episodes = outcome.site.episodes()
    check_masks(episodes)
    check_games(episodes)


def check_masks(episodes):
    """A column is masked when its top is taken, and nobody chose one that was."""
    for episode in episodes:
        steps = range(episode.n_steps)
        assert (episode.mask == ~episode.obs[: episode.n_steps, 0].any(axis=-1)).all()
        assert episode.mask[steps, episode.action].all()


def check_games(episodes):
    """Each game is two rows, one a seat, of the moves that took turns and of results that cancel out."""
    games = defaultdict(dict)
    for episode in episodes:
        games[episode.episode_id][episode.agent_id] = episode
    for game in games.values():
        assert sorted(game) == SEATS
        first, second = (game[seat] for seat in SEATS)
        assert first.n_steps - second.n_steps in (0, 1)
        assert first.terminated
        assert second.terminated
        assert first.policy_version == second.policy_version
        assert first.reward.sum() + second.reward.sum() == 0
