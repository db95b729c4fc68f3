"""The whole way learns: a live daemon and a client that acts with what it publishes; never from noise."""

import numpy as np
import pytest

from experience import EpisodeWriter
from policies import Actor, NoPolicyYet

CONFIG = """
[learner]
algorithm = "{algorithm}"
baseline = "{baseline}"
learning_rate = 3e-3
reference_batch_episodes = 64
[batch]
min_episodes = 64
chunk_episodes = 64
max_wait_s = 60.0
"""
ROUNDS = 25


def play_rounds(site, *, shuffled):
    """A contextual bandit: the right action is the sign of the context's first number."""
    rng = np.random.default_rng(1)
    actor = Actor(site.state, seed=2)
    writer = EpisodeWriter(site.folder / "spool", client_id="bandit")
    for _ in range(ROUNDS):
        before = site.current()
        for _ in range(64):
            context = rng.normal(size=3).astype(np.float32)
            try:
                action, logp = actor.act(context)
            except NoPolicyYet:
                action, logp = int(rng.integers(2)), float(np.log(0.5))
            right = rng.random() < 0.5 if shuffled else action == int(context[0] > 0)
            writer.step(context, action, float(right), logp=logp, policy_version=actor.version or 0)
            writer.end(context, terminated=True)
        site.wait(lambda before=before: site.current() != before, what="the next version")
        actor.refresh()
    return actor


def accuracy(actor):
    rng = np.random.default_rng(3)
    contexts = rng.normal(size=(400, 3)).astype(np.float32)
    return np.mean([actor.act(context)[0] == int(context[0] > 0) for context in contexts])


@pytest.mark.parametrize(("algorithm", "baseline"), [("ppo", "value"), ("reinforce", "leave_one_out")])
def test_it_learns_a_bandit(site, algorithm, baseline):
    site.configure(CONFIG.format(algorithm=algorithm, baseline=baseline))
    process = site.start()
    reached = accuracy(play_rounds(site, shuffled=False))
    assert site.stop(process) == 0
    assert reached > 0.85
    assert site.status()["episodes"]["learned"] == ROUNDS * 64


def test_it_does_not_learn_from_shuffled_rewards(site):
    site.configure(CONFIG.format(algorithm="ppo", baseline="value"))
    process = site.start()
    reached = accuracy(play_rounds(site, shuffled=True))
    assert site.stop(process) == 0
    assert 0.3 < reached < 0.7
