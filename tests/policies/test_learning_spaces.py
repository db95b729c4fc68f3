"""An image, a dict and several choices at once are each learned within seconds, from files to versions."""

import dataclasses

import numpy as np
import pytest

from experience import EpisodeWriter, codec
from experience.admission import Rules, Sight, admit
from experience.collate import collate
from experience.space_parsing import space_from_json
from policies.draws import create_draw
from policies.forward import EncodedForward, SingleForward
from policies.initial import initial_checkpoint
from policies.learner import Learner
from policies.settings import LearnerSettings
from policies.spec import DiscreteSpace, MultiDiscreteSpace, PolicySpec

SIDE, MOST_STEPS = 5, 12
MOVES = [(-1, 0), (1, 0), (0, -1), (0, 1)]
PIXELS = {"kind": "image", "shape": [SIDE, SIDE, 2]}
SETTINGS = LearnerSettings(learning_rate=3e-3)


class Grid:
    """Walk to the goal: reward 1 there, else a little less than 0; two channels of bytes."""

    space = space_from_json(PIXELS)
    action = DiscreteSpace(n=4)
    steps = MOST_STEPS

    def __init__(self, rng):
        self.place, self.goal = rng.integers(0, SIDE, (2, 2))

    def look(self):
        image = np.zeros((SIDE, SIDE, 2), np.uint8)
        image[*self.place, 0] = image[*self.goal, 1] = 255
        return image

    def step(self, action):
        self.place = np.clip(self.place + MOVES[action], 0, SIDE - 1)
        there = bool((self.place == self.goal).all())
        return (1.0 if there else -0.05), there


class Dials:
    """Set two dials as the observation says, both at once: half a point for each."""

    space = space_from_json({"kind": "multi_discrete", "nvec": [4, 3]})
    action = MultiDiscreteSpace(nvec=(4, 3))
    steps = 1

    def __init__(self, rng):
        self.wanted = rng.integers(0, self.action.nvec)

    def look(self):
        return self.wanted

    def step(self, action):
        return float((action == self.wanted).mean()), True


class Told:
    """Which of 40 words it is tells what the sign of a number means; a picture is noise."""

    space = space_from_json(
        {
            "kind": "dict",
            "spaces": {
                "word": {"kind": "discrete", "n": 40, "start": 100},
                "sign": {"kind": "box", "shape": [2]},
                "view": {"kind": "image", "shape": [5, 5, 1]},
            },
        }
    )
    action = DiscreteSpace(n=2)
    steps = 1

    def __init__(self, rng):
        self.word, self.sign = int(rng.integers(40)), rng.normal(size=2).astype(np.float32)
        self.view = rng.integers(0, 256, (5, 5, 1), dtype=np.uint8)

    def look(self):
        return {"word": self.word + 100, "sign": self.sign * 20 + 500, "view": self.view}

    def step(self, action):
        return float(action == ((self.sign[0] > 0) ^ (self.word % 2 == 0))), True


def play(task, checkpoint, writer, rng):
    """One episode into the spool, by the policy; its file."""
    spec = checkpoint.spec
    single = SingleForward if spec.observation is None else EncodedForward
    forward = single(checkpoint.weights, spec, checkpoint.normalizer)
    draw = create_draw(spec.action, forward, None, rng)
    world = task(rng)
    for _ in range(task.steps):
        obs = world.look()
        action, logp = draw(obs, None)
        reward, over = world.step(action)
        writer.step(obs, action, reward, logp=logp, policy_version=1)
        if over:
            break
    return writer.end(world.look(), terminated=over, truncated=not over)


def rules_for(spec):
    several = isinstance(spec.action, MultiDiscreteSpace)
    return Rules(
        max_age_s=1e9,
        max_staleness=9,
        observation_shape=spec.observation_shape,
        n_actions=None if several else spec.action.n,
        observation=spec.space.canonical(),
        action=spec.action,
    )


def learn(task, spec, published, spool, *, updates, episodes, shuffle=False):
    """Publish after every update; the mean return of each batch of files."""
    rng = np.random.default_rng(0)
    checkpoint = initial_checkpoint(spec, seed=0)
    writer = EpisodeWriter(spool, client_id="c", observation_space=task.space, action_space=task.action)
    sight, curve = Sight(age_s=0.0, staleness=lambda _: 0), []
    for update in range(updates):
        taken = []
        for _ in range(episodes):
            path = play(task, checkpoint, writer, rng)
            decoded = codec.decode(path.read_bytes(), name=path.name, source_sha256="", ingested_at=0.0)
            assert admit(decoded.episodes[0], rules_for(spec), sight) is None
            taken += decoded.episodes
        batch = collate(taken, observation_shape=spec.observation_shape)
        curve.append(batch.total_reward.mean())
        if shuffle:
            batch = dataclasses.replace(batch, reward=rng.permutation(batch.reward))
        learner = Learner(checkpoint, SETTINGS)
        learner.update(batch, seed=update)
        checkpoint = published(checkpoint, learner.delta())
    return np.array(curve)


CASES = [
    pytest.param(Grid, 30, 48, -0.1, 0.5, id="image"),
    pytest.param(Dials, 8, 64, 0.45, 0.9, id="several-choices"),
    pytest.param(Told, 14, 128, 0.6, 0.8, id="dict"),
]


@pytest.mark.parametrize(("task", "updates", "episodes", "before", "after"), CASES)
def test_it_is_learned(published, tmp_path, task, updates, episodes, before, after):  # noqa: PLR0917
    spec = PolicySpec.of(task.space, task.action, hidden=(64,), normalize=True)
    curve = learn(task, spec, published, tmp_path, updates=updates, episodes=episodes)
    print(np.round(curve, 2))
    assert curve[0] < before
    assert curve[-4:].mean() > after
