"""The actor with every action space, one observation and many, and observations with parts."""

import dataclasses

import numpy as np
import pytest
from gymnasium import spaces as gym_spaces

from experience.flattening import flatten
from experience.spaces import BoxSpace, DictSpace, ImageSpace, TupleSpace
from policies import Actor, NoPolicyYet
from policies.behavior import log_probs
from policies.errors import WrongSpaces
from policies.initial import initial_checkpoint
from policies.inputs import real_numbers
from policies.manifest import describe, encode_manifest, encode_model, version_folder
from policies.normalizer import RunningStatistics
from policies.spec import ContinuousSpace, DiscreteSpace, MultiBinarySpace, MultiDiscreteSpace, PolicySpec

BOX = BoxSpace(shape=(4,))
PARTS = DictSpace(
    {
        "view": ImageSpace(shape=(5, 5, 1)),
        "rest": TupleSpace(spaces=(DiscreteSpace(n=3, start=1), BoxSpace(shape=(2,)))),
    }
)
ACTIONS = {
    "discrete": DiscreteSpace(n=3),
    "discrete from 5": DiscreteSpace(n=3, start=5),
    "many": DiscreteSpace(n=40),
    "several": MultiDiscreteSpace(nvec=(3, 2)),
    "several of many": MultiDiscreteSpace(nvec=(2, 40)),
    "binary": MultiBinarySpace(n=4),
    "continuous": ContinuousSpace(size=2),
}


def policy_for(action, observation=BOX, seed=0):
    spec = PolicySpec.of(observation, action, hidden=(8,), normalize=True)
    first = initial_checkpoint(spec, seed=seed, log_std=-0.3)
    weights = {**first.weights, "policy.1.weight": first.weights["policy.1.weight"] * np.float32(100)}
    rows = np.stack([flatten(observation, obs) for obs in observations(observation, 30)])
    return dataclasses.replace(
        first, weights=weights, normalizer=RunningStatistics.of(real_numbers(spec, rows))
    )


def publish(state, policy, version=1):
    folder = version_folder(state, version)
    folder.mkdir(parents=True)
    data = encode_model(policy.weights, policy.normalizer)
    manifest = {
        "schema": 1,
        "version": version,
        "spec": policy.spec.to_json(),
        "files": describe({"model.safetensors": data}),
    }
    (folder / "model.safetensors").write_bytes(data)
    (folder / "manifest.json").write_bytes(encode_manifest(manifest))
    (state / "CURRENT").write_text(f"{version:08d}\n")


def observations(space, n, seed=0):
    rng = np.random.default_rng(seed)
    if space == BOX:
        return list(rng.normal(3, 2, (n, 4)).astype(np.float32))
    return [
        {
            "view": rng.integers(0, 256, (5, 5, 1), dtype=np.uint8),
            "rest": (int(rng.integers(1, 4)), rng.normal(50, 9, 2).astype(np.float32)),
        }
        for _ in range(n)
    ]


def batched(each):
    if not isinstance(each[0], dict):
        return np.stack(each)
    return {
        "view": np.stack([obs["view"] for obs in each]),
        "rest": tuple(np.stack([obs["rest"][i] for obs in each]) for i in range(2)),
    }


def from_zero(space, action):
    return np.asarray(action) - getattr(space, "start", 0)


def masks(space, n):
    if isinstance(space, ContinuousSpace):
        return None
    mask = np.random.default_rng(5).random((n, space.outputs)) < 0.6
    mask[:, 0] = True
    if isinstance(space, MultiDiscreteSpace):
        mask[:, space.nvec[0]] = True
    return mask


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("observation", [BOX, PARTS], ids=["box", "parts"])
@pytest.mark.parametrize("name", ACTIONS)
def test_one_and_many_give_the_probability_that_is_computed_again(tmp_path, name, observation, deterministic):
    space, n = ACTIONS[name], 40
    policy = policy_for(space, observation)
    publish(tmp_path, policy)
    actor = Actor(tmp_path, seed=1)
    each, mask = observations(observation, n, seed=2), masks(space, n)
    rows = np.stack([flatten(observation, obs) for obs in each])
    single = [
        actor.act(obs, mask=None if mask is None else mask[i], deterministic=deterministic)
        for i, obs in enumerate(each)
    ]
    many, logps = actor.act_batch(batched(each), mask=mask, deterministic=deterministic)
    for actions, logged in ((np.array([a for a, _ in single]), [logp for _, logp in single]), (many, logps)):
        again = log_probs(policy, rows, from_zero(space, actions), mask)
        np.testing.assert_allclose(logged, again, atol=1e-5)
        assert actions.shape == (n, *space.natural_shape)
        assert actions.dtype == (np.float32 if name == "continuous" else np.int64)
    if deterministic:
        np.testing.assert_allclose(np.array([a for a, _ in single]), many, rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in ACTIONS if name != "continuous"])
def test_the_likeliest_action_is_more_likely_than_any_drawn(tmp_path, name):
    publish(tmp_path, policy_for(ACTIONS[name]))
    actor = Actor(tmp_path, seed=1)
    obs = observations(BOX, 1)[0]
    best, logp = actor.act(obs, deterministic=True)
    drawn = [actor.act(obs) for _ in range(300)]
    assert max(p for _, p in drawn) <= logp + 1e-9
    assert any(np.array_equal(action, best) for action, _ in drawn)
    assert {type(action) for action, _ in drawn} == {type(best)}


def test_the_likeliest_of_a_gaussian_is_its_mean(tmp_path):
    publish(tmp_path, policy_for(ACTIONS["continuous"]))
    actor = Actor(tmp_path, seed=1)
    obs = observations(BOX, 1)[0]
    mean, logp = actor.act(obs, deterministic=True)
    drawn = np.array([actor.act(obs)[0] for _ in range(2000)])
    np.testing.assert_allclose(drawn.mean(axis=0), mean, atol=0.1)
    assert logp == pytest.approx(-2 * (-0.3) - np.log(2 * np.pi), abs=1e-5)


@pytest.mark.parametrize("name", ACTIONS)
def test_masks_and_observations_of_another_shape_are_refused(tmp_path, name):
    publish(tmp_path, policy_for(ACTIONS[name]))
    actor = Actor(tmp_path)
    obs = np.zeros(4)
    wrong = np.ones(ACTIONS[name].outputs + 1, bool)
    for call in (
        lambda: actor.act(obs, mask=wrong),
        lambda: actor.act(obs, mask=wrong, deterministic=True),
        lambda: actor.act_batch(obs[None], mask=wrong[None]),
        lambda: actor.act(np.zeros(3)),
        lambda: actor.act_batch(np.zeros((2, 3))),
    ):
        with pytest.raises(ValueError, match=r"policy's|accepted"):
            call()


def test_an_observation_of_other_parts_names_the_part(tmp_path):
    publish(tmp_path, policy_for(ACTIONS["discrete"], PARTS))
    actor = Actor(tmp_path)
    obs = observations(PARTS, 1)[0]
    for change, part in (
        ({"rest": (4, np.zeros(2))}, r"obs\.rest\.0 is 4"),
        ({"view": np.zeros((5, 5))}, r"obs\.view is of shape"),
        ({"extra": 1}, "parts"),
    ):
        with pytest.raises(ValueError, match=part):
            actor.act({**obs, **change})


def test_before_the_first_version(tmp_path):
    actor = Actor(tmp_path)
    assert actor.spec is None
    with pytest.raises(NoPolicyYet):
        actor.act_batch(np.zeros((2, 4)))
    with pytest.raises(NoPolicyYet):
        actor.act(np.zeros(4), deterministic=True)


@pytest.mark.parametrize("name", ["several", "several of many", "binary"])
def test_choices_are_drawn_as_often_as_they_are_likely(tmp_path, name):
    space = ACTIONS[name]
    publish(tmp_path, policy_for(space))
    actor = Actor(tmp_path, seed=3)
    obs, n = observations(BOX, 1)[0], 3000
    one_by_one = np.array([actor.act(obs)[0] for _ in range(n)])
    at_once, _ = actor.act_batch(np.repeat(obs[None], n, axis=0))
    for choice, count in enumerate(space.factors):
        first, second = (np.bincount(a[:, choice], minlength=count) / n for a in (one_by_one, at_once))
        np.testing.assert_allclose(first, second, atol=0.05)


def test_a_client_of_other_spaces_is_told_both(tmp_path):
    theirs = gym_spaces.Dict(
        {
            "view": gym_spaces.Box(0, 255, (5, 5, 1), np.uint8),
            "rest": gym_spaces.Tuple((gym_spaces.Discrete(3, start=1), gym_spaces.Box(-1, 1, (2,)))),
        }
    )
    actor = Actor(tmp_path, observation_space=theirs, action_space=gym_spaces.Discrete(4))
    publish(tmp_path, policy_for(DiscreteSpace(n=3), PARTS))
    for _ in range(2):
        with pytest.raises(WrongSpaces, match="action_space") as caught:
            actor.refresh()
        assert (caught.value.theirs, caught.value.ours) == (str(DiscreteSpace(n=4)), str(DiscreteSpace(n=3)))
    assert actor.version is None
    with pytest.raises(WrongSpaces, match="observation_space"):
        Actor(tmp_path, observation_space=BOX.to_json())
    with pytest.raises(ValueError, match="accepted"):
        Actor(tmp_path, observation_space={"kind": "sphere"})
    fits = Actor(tmp_path, observation_space=theirs, action_space=gym_spaces.Discrete(3))
    assert fits.version == 1


def test_the_clients_own_beginning_counts(tmp_path):
    """The policy may have been defined by rows that count from 0."""
    policy = policy_for(DiscreteSpace(n=3), PARTS)
    spec = dataclasses.replace(policy.spec, observation=PARTS.canonical())
    publish(tmp_path, dataclasses.replace(policy, spec=spec))
    obs = observations(PARTS, 1)[0] | {"rest": (3, np.zeros(2))}
    with pytest.raises(ValueError, match=r"obs\.rest\.0 is 3"):
        Actor(tmp_path).act(obs)
    actor = Actor(tmp_path, observation_space=PARTS, action_space=DiscreteSpace(n=3, start=7))
    assert {actor.act(obs)[0] for _ in range(50)} <= {7, 8, 9}
    assert actor.act_batch(batched([obs] * 4))[0].min() >= 7
    plain = Actor(tmp_path / "plain", observation_space=BOX)
    (tmp_path / "plain").mkdir()
    publish(tmp_path / "plain", policy_for(DiscreteSpace(n=3)))
    assert plain.refresh()
    assert plain.spec.observation is None
