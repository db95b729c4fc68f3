"""Behavior log-probabilities on their way into an update."""

import numpy as np
import pytest

from experience.collate import collate
from experience.spaces import BoxSpace, ImageSpace
from learnerd.config_tables import Policy
from learnerd.learn import infer_spec, learn
from learnerd.recovered import logp_sources, recover_logp
from policies.behavior import log_probs
from policies.initial import initial_checkpoint
from policies.settings import LearnerSettings
from policies.spec import DiscreteSpace, MultiDiscreteSpace, PolicySpec

SPEC = PolicySpec(observation_shape=(4,), action=DiscreteSpace(n=2), hidden=(8,))
VERSIONS = {version: initial_checkpoint(SPEC, seed=version) for version in (1, 2)}


@pytest.fixture
def episodes(make_episode):
    return [
        make_episode("logged", seed=1, policy_version=1),
        make_episode("recovered", seed=2, policy_version=2, logp=None),
        make_episode("gone", seed=3, policy_version=3, logp=None),
        make_episode("unknown", seed=4, policy_version=None, logp=None),
        make_episode("partly", seed=5, policy_version_step=np.array([1, 3, 2]), logp=None),
        make_episode("mixed", seed=6, policy_version_step=np.array([1, 2, 2]), logp=None),
    ]


def test_each_step_is_recovered_from_the_version_that_acted(episodes):
    logged = collate(episodes, observation_shape=(4,))
    batch = recover_logp(logged, VERSIONS.get)
    for i, obs in enumerate(batch.obs):
        version = int(batch.policy_version[i])
        if np.isfinite(logged.logp[i]):
            assert batch.logp[i] == logged.logp[i]
        elif version in VERSIONS:
            alone = log_probs(VERSIONS[version], obs[None], batch.action[i : i + 1])
            assert batch.logp[i] == pytest.approx(alone[0], abs=1e-6)
        else:
            assert np.isnan(batch.logp[i])
    assert np.isnan(batch.logp).sum() == 3 + 3 + 1


def test_episodes_are_counted_by_their_worst_step(episodes):
    logged = collate(episodes, observation_shape=(4,))
    recovered, gone = recover_logp(logged, VERSIONS.get), recover_logp(logged, lambda _: None)
    sources = logp_sources(logged, recovered, n_new=6)
    assert sources == {"logp_logged": 1, "logp_recovered": 2, "logp_missing": 3}
    assert logp_sources(logged, recovered, n_new=2) == {"logp_logged": 1, "logp_recovered": 1}
    assert logp_sources(logged, gone, n_new=6) == {"logp_logged": 1, "logp_missing": 5}


def test_the_counts_go_into_the_version(episodes):
    learned = learn(
        VERSIONS[1],
        [episodes[:2], episodes[2:4]],
        settings=LearnerSettings(epochs=1, minibatches=1),
        seed=0,
        device="cpu",
        behavior=VERSIONS.get,
    )
    counted = {name: count for name, count in learned.delta.counters.items() if name.startswith("logp")}
    assert counted == {"logp_logged": 1, "logp_recovered": 1, "logp_missing": 2}
    assert learned.delta.counters["updates"] == 2


def test_the_space_is_what_the_first_files_say_of_it(make_episode):
    pixels = np.zeros((4, 5, 6, 2), np.uint8)
    word = {"kind": "discrete", "n": 50, "start": 1, "from_zero": True}
    for fields, space, encoders in (
        ({}, BoxSpace(shape=(4,)), ()),
        ({"obs": pixels}, ImageSpace(shape=(5, 6, 2)), ("conv",)),
        ({"obs": pixels.astype(np.float32)}, BoxSpace(shape=(5, 6, 2)), ()),
        (
            {"obs": np.zeros((4, 1), np.uint8), "observation_space": word},
            DiscreteSpace(n=50, start=1),
            ("embedding",),
        ),
    ):
        spec = infer_spec(Policy(), [make_episode(**fields)])
        assert (spec.space, spec.encoders, spec.action) == (space, encoders, DiscreteSpace(n=2))
    dials = {"kind": "multi_discrete", "nvec": [3, 2]}
    spec = infer_spec(Policy(), [make_episode(action=np.zeros((3, 2), int), action_space=dials)])
    assert spec.action == MultiDiscreteSpace(nvec=(3, 2))
    shifted = {"kind": "discrete", "n": 2, "start": 5, "from_zero": True}
    assert infer_spec(Policy(), [make_episode(action_space=shifted)]).action == DiscreteSpace(n=2, start=5)
