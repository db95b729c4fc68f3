"""A live daemon and a client whose observation has parts and whose action is several choices: it learns."""

import json

import numpy as np
from gymnasium import spaces

from experience import EpisodeWriter
from policies import Actor, NoPolicyYet

CONFIG = """
[policy]
hidden = [32]
[learner]
learning_rate = 1e-2
reference_batch_episodes = 64
[batch]
min_episodes = 64
chunk_episodes = 64
max_wait_s = 60.0
"""
ROUNDS = 8
OBSERVED = spaces.Dict({"view": spaces.Box(0, 255, (5, 5, 1), np.uint8), "dial": spaces.Discrete(3, start=1)})
CHOSEN = spaces.MultiDiscrete([3, 2])


def look(rng):
    """The dial says the first choice; whether the picture is bright, the second."""
    bright = int(rng.integers(2))
    view = rng.integers(0, 100, (5, 5, 1), dtype=np.uint8) + np.uint8(150 * bright)
    dial = int(rng.integers(1, 4))
    return {"view": view, "dial": dial}, np.array([dial - 1, bright])


def play_round(actor, writer, rng):
    for _ in range(64):
        obs, wanted = look(rng)
        try:
            action, logp = actor.act(obs)
        except NoPolicyYet:
            action, logp = CHOSEN.sample(), -np.log(6.0)
        reward = float((action == wanted).mean())
        writer.step(obs, action, reward, logp=float(logp), policy_version=actor.version or 0)
        writer.end(None, terminated=True)


def accuracy(actor):
    rng = np.random.default_rng(9)
    seen = [look(rng) for _ in range(300)]
    return np.mean([actor.act(obs, deterministic=True)[0] == wanted for obs, wanted in seen])


def test_it_learns_from_parts_and_refuses_another_space_with_both(site):
    site.configure(CONFIG)
    process = site.start()
    rng = np.random.default_rng(0)
    CHOSEN.seed(0)
    actor = Actor(site.state, seed=0)
    spool = site.folder / "spool"
    writer = EpisodeWriter(spool, client_id="bot", observation_space=OBSERVED, action_space=CHOSEN)
    for _ in range(ROUNDS):
        before = site.current()
        play_round(actor, writer, rng)
        site.wait(lambda before=before: site.current() != before, what="the next version")
        actor.refresh()
    assert actor.spec.encoders == ("onehot", "conv")
    other = EpisodeWriter(spool, client_id="stranger", action_space=CHOSEN)
    other.step({"view": np.zeros((5, 5, 1), np.uint8), "dial": 1}, [0, 0], 0.0)
    other.end(None, terminated=True)
    outcomes = site.state / "outcomes.jsonl"
    site.wait(lambda: outcomes.exists() and outcomes.read_text(), what="the refusal")
    assert site.stop(process) == 0
    assert accuracy(actor) > 0.8  # 5 of 12 by chance
    assert site.status()["episodes"]["learned"] == ROUNDS * 64
    (record,) = [json.loads(line) for line in outcomes.read_text().splitlines()]
    assert (record["reason"], record["field"]) == ("observation_space", "observation_space.dial")
    assert '"kind": "box"' in record["value"]
    assert '"kind": "discrete", "n": 3' in record["accepted"]
