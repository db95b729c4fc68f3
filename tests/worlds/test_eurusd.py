"""The main job on real data: a trading client feeds the daemon, and its policy beats random trading."""

import statistics

import pytest
from harness import World, check_better_than_random, learn, show

SEEDS = [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]
SEGMENTS_PER_SESSION = 8
EURUSD = World(client="eurusd", steps=16_000)

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("seed", SEEDS)
def test_learned_trading_beats_random_trading(tmp_path, capsys, seed):
    outcome = learn(EURUSD, tmp_path / str(seed), seed)

    show(capsys, f"profit of a segment of 50 hourly EURUSD bars, in pips, seed {seed}", outcome)
    check_better_than_random(outcome)
    assert statistics.fmean(outcome.learned) > 0
    check_segments(outcome.site.episodes())


def check_segments(episodes):
    """Every segment is a truncated piece of one growing session."""
    assert {episode.segment for episode in episodes} == set(range(SEGMENTS_PER_SESSION))
    assert all(episode.truncated and not episode.terminated for episode in episodes)
    assert all(len(episode.obs) == episode.n_steps + 1 for episode in episodes)
    pieces = {(episode.episode_id, episode.segment): episode for episode in episodes}
    followed = [
        (piece, pieces[name, segment + 1])
        for (name, segment), piece in pieces.items()
        if (name, segment + 1) in pieces
    ]
    assert len(followed) > len(episodes) / 2
    assert all((piece.obs[-1] == successor.obs[0]).all() for piece, successor in followed)
