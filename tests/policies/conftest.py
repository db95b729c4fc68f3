"""Small policies and batches for the learner's tests."""

import dataclasses

import numpy as np
import pytest

from experience.batch import Batch
from policies.initial import initial_checkpoint
from policies.spec import ContinuousSpace, DiscreteSpace, PolicySpec


def _make_checkpoint(*, observation=3, actions=2, size=None, hidden=(8, 8), normalize=False, seed=0):
    space = DiscreteSpace(n=actions) if size is None else ContinuousSpace(size=size)
    spec = PolicySpec(observation_shape=(observation,), action=space, hidden=hidden, normalize=normalize)
    return initial_checkpoint(spec, seed=seed)


def _make_batch(lengths=(5, 3, 7), *, observation=3, actions=2, size=None, seed=0, logp=None, **changes):
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    n, episodes = int(offsets[-1]), len(lengths)
    reward = rng.normal(size=n)
    terminated = np.arange(episodes) % 3 != 2
    final_obs = rng.normal(size=(episodes, observation)).astype(np.float32) * ~terminated[:, None]
    if size is None:
        action = rng.integers(0, actions, n)
        fallback = np.full(n, -np.log(actions))
    else:
        action = rng.normal(size=(n, size)).astype(np.float32)
        fallback = -0.5 * (action.astype(np.float64) ** 2).sum(1) - 0.5 * size * np.log(2 * np.pi)
    batch = Batch(
        obs=rng.normal(size=(n, observation)).astype(np.float32),
        final_obs=final_obs,
        action=action,
        reward=reward,
        logp=fallback if logp is None else np.asarray(logp, np.float64),
        mask=None,
        policy_version=np.zeros(n, np.int64),
        offsets=offsets,
        terminated=terminated,
        total_reward=np.add.reduceat(reward, offsets[:-1]),
    )
    return dataclasses.replace(batch, **changes)


def _published(base, delta):
    """Return the successor when nobody published in between."""
    weights = {
        name: (array.astype(np.float64) + delta.weights.get(name, 0.0)).astype(np.float32)
        for name, array in base.weights.items()
    }
    averages = {**base.averages, **{name: average.value for name, average in delta.averages.items()}}
    names = {*base.counters, *delta.counters}
    counters = {name: base.counters.get(name, 0) + delta.counters.get(name, 0) for name in names}
    return dataclasses.replace(
        base,
        version=base.version + 1,
        weights=weights,
        averages=averages,
        counters=counters,
        normalizer=base.normalizer if delta.observed is None else base.normalizer + delta.observed,
    )


@pytest.fixture
def make_checkpoint():
    return _make_checkpoint


@pytest.fixture
def make_batch():
    return _make_batch


@pytest.fixture
def published():
    return _published
