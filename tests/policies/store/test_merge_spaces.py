"""Merging, carrying over statistics, and saving work for policies behind encoders."""

import dataclasses

import numpy as np
import pytest

from experience.batch import Batch
from experience.episode import EpisodeKey
from experience.flattening import flatten
from experience.spaces import BoxSpace, DictSpace, DiscreteSpace, ImageSpace
from policies.checkpoint import LedgerEntry
from policies.forward import policy_outputs, values
from policies.initial import initial_checkpoint
from policies.input_scale import carry_over
from policies.inputs import real_numbers
from policies.learner import Learner
from policies.manifest import read_actor, read_checkpoint
from policies.normalizer import RunningStatistics
from policies.plasticity import plasticity
from policies.settings import LearnerSettings
from policies.spec import MultiDiscreteSpace, PolicySpec
from policies.store import CheckpointStore

SPACE = DictSpace(
    {
        "camera": ImageSpace(shape=(5, 5, 2)),
        "word": DiscreteSpace(n=40),
        "where": BoxSpace(shape=(3,)),
    }
)
DIALS = MultiDiscreteSpace(nvec=(3, 2))
SPEC = PolicySpec.of(SPACE, DIALS, hidden=(8,), normalize=True)


def rows(n, seed=0, mean=50.0):
    rng = np.random.default_rng(seed)
    obs = {
        "camera": rng.integers(0, 256, (n, 5, 5, 2), dtype=np.uint8),
        "word": rng.integers(0, 40, n),
        "where": rng.normal(mean, 9.0, (n, 3)),
    }
    return flatten(SPACE, obs, lead=(n,))


def batch(seed, lengths=(5, 3, 7)):
    rng, n = np.random.default_rng(seed), sum(lengths)
    reward, offsets = rng.normal(size=n), np.concatenate([[0], np.cumsum(lengths)])
    return Batch(
        obs=rows(n, seed),
        final_obs=rows(len(lengths), seed + 100),
        action=rng.integers(0, DIALS.nvec, (n, 2)),
        reward=reward,
        logp=np.full(n, -np.log(6.0)),
        mask=np.ones((n, 5), bool),
        policy_version=np.zeros(n, np.int64),
        offsets=offsets,
        terminated=np.array([True, False, True]),
        total_reward=np.add.reduceat(reward, offsets[:-1]),
    )


def learned(base, seed, **settings):
    learner = Learner(base, LearnerSettings(**settings))
    report = learner.update(batch(seed), seed=seed)
    assert report.policy_steps
    return learner.delta()


def entry(name):
    return [LedgerEntry(key=EpisodeKey("c", name, 0, ""), row_sha256="00" * 32)]


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path)


def test_statistics_move_and_no_output_does(store):
    base = initial_checkpoint(SPEC, seed=0)
    old, new = (
        RunningStatistics.of(real_numbers(SPEC, rows(50, seed, mean))) for seed, mean in ((1, 50), (2, 70))
    )
    moved = carry_over(base.weights, old=old, new=new)
    moved = {name: np.asarray(array, np.float32) for name, array in moved.items()}
    seen = rows(20, 3, 60.0)
    for outputs in (policy_outputs, values):
        np.testing.assert_allclose(
            outputs(base.weights, SPEC, old, seen), outputs(moved, SPEC, new, seen), atol=1e-4
        )


def test_two_branches_merge_by_name(store, tmp_path):
    first = store.publish(
        learned(initial_checkpoint(SPEC, seed=0), 1),
        base=initial_checkpoint(SPEC, seed=0),
        writer="daemon",
        episodes=entry("1"),
    )
    ours, theirs = learned(first, 2), learned(first, 3)
    second = store.publish(theirs, base=first, writer="online", episodes=entry("2"))
    third = store.publish(ours, base=first, writer="daemon", episodes=entry("3"))
    assert third.parents == (2, 1)
    for name in SPEC.shapes():
        if not name.startswith(("policy.0", "value.")):  # those are carried over, or rescaled
            expected = second.weights[name] + ours.weights.get(name, 0.0)
            np.testing.assert_allclose(third.weights[name], expected, atol=1e-6, err_msg=name)
    assert "policy.encoders.0.0.weight" in ours.weights
    assert "value.encoders.2.0.table" in ours.weights
    assert third.normalizer.count == 45
    assert third.normalizer.mean.shape == (3,)
    again = read_checkpoint(tmp_path, 3)
    assert again.spec == SPEC
    for name, array in third.weights.items():
        np.testing.assert_array_equal(again.weights[name], array)


def test_an_image_alone_has_no_statistics(store, tmp_path):
    spec = PolicySpec.of(ImageSpace(shape=(5, 5, 2)), DIALS, hidden=(8,), normalize=True)
    base = initial_checkpoint(spec, seed=0)
    made = batch(1)
    made = dataclasses.replace(
        made, obs=made.obs[:, :50].reshape(-1, 5, 5, 2), final_obs=made.final_obs[:, :50].reshape(-1, 5, 5, 2)
    )
    learner = Learner(base, LearnerSettings())
    learner.update(made, seed=0)
    store.publish(learner.delta(), base=base, writer="daemon", episodes=entry("1"))
    acting = read_actor(tmp_path, 1)
    assert acting.normalizer.mean.shape == (0,)
    assert np.isfinite(policy_outputs(acting.weights, spec, acting.normalizer, made.obs)).all()


@pytest.mark.parametrize(
    "settings", [{"l2_init": 1e-3}, {"shrink_perturb": 0.01}, {"algorithm": "reinforce"}]
)
def test_settings_of_learning(settings):
    base = initial_checkpoint(SPEC, seed=0)
    delta = learned(base, 1, **settings)
    assert all(np.isfinite(change).all() for change in delta.weights.values())
    assert delta.weights["policy.encoders.0.0.weight"].any()


def test_plasticity_is_measured_behind_encoders():
    found = plasticity(initial_checkpoint(SPEC, seed=0), rows(64))
    assert 1 <= found.effective_rank <= 8
    assert found.weight_norm > 0


def test_the_same_batch_gives_the_same_bits():
    base = initial_checkpoint(SPEC, seed=0)
    first, second = learned(base, 1), learned(base, 1)
    for name, change in first.weights.items():
        np.testing.assert_array_equal(change, second.weights[name])
