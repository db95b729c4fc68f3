"""The contract of both paths: numpy ends where torch ends, whatever the algorithm, actions and settings.

The tolerances are float32's: a weight of size 1 is rounded by 6e-8 a step, and after two updates of 16 steps
both paths were apart by 3e-7 at most. Adam divides by the gradient's own size, but not by less than its ε, so
that the rounding of small gradients does not grow.
"""

import contextlib
import copy
import dataclasses

import numpy as np
import pytest

from policies.algorithms import ALGORITHMS, create_algorithm
from policies.arrays import arena
from policies.arrays import epochs as array_epochs
from policies.arrays.epochs import ArrayEpochs
from policies.epochs import Epochs
from policies.errors import UpdateDiverged
from policies.initial import initial_checkpoint
from policies.learner import Learner
from policies.learner_state import LearnerState
from policies.networks import network_layout
from policies.passes import ARRAY_WIDTH_MAX, chosen_path, create_passes
from policies.remedies import Remedies
from policies.settings import LearnerSettings
from policies.spec import ContinuousSpace, DiscreteSpace, PolicySpec

WEIGHTS, AVERAGES, REPORT = 1e-6, 2e-6, 2e-5
LENGTHS = (50, 30, 70, 45)

ACTIONS = {
    "discrete": {"actions": 3},
    "one action": {"actions": 1},
    "masked": {"actions": 3},
    "continuous": {"size": 2},
    "one number": {"size": 1},
}

SETTINGS = {
    "defaults": {},
    "plain": {"decoupled": False, "ess_scaling": False},
    "no average": {"prox_decay": 0.0},
    "low cap": {"ratio_cap": 1.0},
    "sum": {"lr_scaling": "sum"},
    "sgd": {"optimizer": "sgd", "learning_rate": 1e-2},
    "joint clip": {"joint_clip": True, "max_grad_norm": 0.1},
    "tight clips": {"max_grad_norm": 0.05, "value_max_grad_norm": 0.05},
    "minibatch moments": {"advantage_normalization": "minibatch", "minibatches": 9},
    "single rows": {"advantage_normalization": "minibatch", "minibatches": 300, "epochs": 1},
    "raw advantages": {"advantage_normalization": "none", "popart_rate": 0.0},
    "no bonus": {"entropy_bonus": 0.0},
    "noise": {"noise_scale": True},
    "pulled": {"l2_init": 1e-2, "shrink_perturb": 1e-3},
    "stopped": {"learning_rate": 3e-3, "target_kl": 1e-4},
    "free": {"target_kl": 0.0, "epochs": 2},
    "ema": {"baseline": "ema"},
    "textbook": {"baseline": "ema", "epochs": 1, "minibatches": 1},
    "one step": {"epochs": 1, "minibatches": 1, "ess_scaling": False, "decoupled": False},
    "whole batches": {"minibatches": 1, "advantage_normalization": "minibatch"},
}

ONLY_FOR = {"sum": "reinforce", "ema": "reinforce", "textbook": "reinforce"}

CASES = [
    (algorithm, name)
    for algorithm in ALGORITHMS
    for name in SETTINGS
    if ONLY_FOR.get(name, algorithm) == algorithm
]


def batch_for(make_batch, checkpoint, actions, **changes):
    """Return a batch from policies that were a little different, as stale files are."""
    batch = make_batch(LENGTHS, seed=3, **ACTIONS[actions])
    if actions == "masked":
        mask = np.random.default_rng(4).random((batch.n_steps, 3)) < 0.7
        mask[np.arange(batch.n_steps), batch.action] = True
        batch = dataclasses.replace(batch, mask=mask)
    own = Learner(checkpoint, LearnerSettings()).log_probs(batch)
    logp = own + 0.3 * np.random.default_rng(5).normal(size=batch.n_steps)
    return dataclasses.replace(batch, **{"logp": logp, **changes})


def both(checkpoint, batch, settings, *, updates=2, **options):
    """Train in both ways; (learners, reports of the last update)."""
    learners = [Learner(checkpoint, settings, path=path) for path in ("numpy", "torch")]
    for seed in range(updates):
        reports = [learner.update(batch, seed=seed, **options) for learner in learners]
    return learners, reports


def assert_equal(learners, reports, base):
    ours, theirs = (learner.delta() for learner in learners)
    weights, expected = (learner.weights() for learner in learners)
    moved = [np.abs(expected[name] - base.weights[name]).max() for name in expected]
    if max(report.grad_norm for report in reports) > 0 or reports[0].value_steps:
        assert max(moved) > 1e-4  # or it would be no test
    for name, array in expected.items():
        np.testing.assert_allclose(weights[name], array, rtol=0, atol=WEIGHTS, err_msg=name)
    assert ours.averages.keys() == theirs.averages.keys()
    for name, average in theirs.averages.items():
        np.testing.assert_allclose(ours.averages[name].value, average.value, atol=AVERAGES, err_msg=name)
        assert ours.averages[name].retained == average.retained
    assert ours.counters == theirs.counters
    numbers, others = (dataclasses.asdict(report) for report in reports)
    noise, other_noise = numbers.pop("noise"), others.pop("noise")
    for name in others.keys() - {"seconds"}:
        assert numbers[name] == pytest.approx(others[name], rel=REPORT, abs=REPORT), name
    assert noise == (None if other_noise is None else pytest.approx(other_noise, rel=1e-3))


@pytest.mark.parametrize("actions", ACTIONS)
@pytest.mark.parametrize(("algorithm", "name"), CASES)
def test_numpy_ends_where_torch_ends(make_checkpoint, make_batch, algorithm, name, actions):
    settings = LearnerSettings(algorithm=algorithm, **SETTINGS[name])
    base = make_checkpoint(**ACTIONS[actions])
    batch = batch_for(make_batch, base, actions)
    learners, reports = both(base, batch, settings)
    assert_equal(learners, reports, base)
    if name == "stopped" and actions in {"discrete", "continuous"}:
        assert reports[0].value_steps < 16


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("hidden", [(), (5,), (16, 9, 4)])
def test_whatever_the_layers(make_batch, activation, hidden):
    spec = PolicySpec(
        observation_shape=(3,),
        action=DiscreteSpace(n=3),
        hidden=hidden,
        activation=activation,
        normalize=True,
    )
    base = initial_checkpoint(spec, seed=1)
    batch = batch_for(make_batch, base, "discrete")
    assert_equal(*both(base, batch, LearnerSettings()), base)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("actions", ["discrete", "continuous"])
def test_steps_without_a_behavior_policy(make_checkpoint, make_batch, algorithm, actions):
    base = make_checkpoint(**ACTIONS[actions])
    batch = batch_for(make_batch, base, actions)
    logp = np.where(np.arange(batch.n_steps) % 3 == 0, np.nan, batch.logp)
    learners, reports = both(
        base, dataclasses.replace(batch, logp=logp), LearnerSettings(algorithm=algorithm)
    )
    assert reports[0].unlogged_steps == 65
    assert_equal(learners, reports, base)


@pytest.mark.parametrize("actions", ["discrete", "continuous"])
@pytest.mark.parametrize("far", [3.0, 9.0])
def test_batches_that_are_too_stale(make_checkpoint, make_batch, actions, far):
    """Split by version, so that steps have weights; or not even that, and only the value learns."""
    base = make_checkpoint(**ACTIONS[actions])
    batch = batch_for(make_batch, base, actions)
    version = np.repeat([9, 9, 2, 9], LENGTHS)
    spread = np.where(version == 2, 9.0, 0.0 if far == 3.0 else far)
    logp = batch.logp + spread * np.random.default_rng(1).normal(size=batch.n_steps)
    batch = dataclasses.replace(batch, logp=logp, policy_version=version)
    learners, reports = both(base, batch, LearnerSettings(), updates=1)
    assert reports[0].policy_episodes == (3 if far == 3.0 else 0)
    assert_equal(learners, reports, base)


def test_replayed_episodes(make_checkpoint, make_batch):
    base = make_checkpoint(normalize=True, **ACTIONS["discrete"])
    batch = batch_for(make_batch, base, "discrete")
    assert_equal(*both(base, batch, LearnerSettings(), replayed=2), base)


def test_chunks_add_up(make_checkpoint, make_batch, monkeypatch):
    monkeypatch.setattr(array_epochs, "CHUNK_ROWS", 32)
    for actions in ("discrete", "continuous"):
        base = make_checkpoint(**ACTIONS[actions])
        batch = batch_for(make_batch, base, actions)
        assert_equal(*both(base, batch, LearnerSettings()), base)


def test_what_one_path_published_the_other_continues(make_checkpoint, make_batch, published):
    base = make_checkpoint(**ACTIONS["continuous"])
    batch = batch_for(make_batch, base, "continuous")
    ends = []
    for first, second in (("numpy", "torch"), ("torch", "numpy")):
        learner = Learner(base, LearnerSettings(), path=first)
        learner.update(batch, seed=0)
        then = Learner(published(base, learner.delta()), LearnerSettings(), path=second)
        then.update(batch, seed=1)
        ends.append(then.weights())
    for name, array in ends[0].items():
        np.testing.assert_allclose(array, ends[1][name], rtol=0, atol=WEIGHTS, err_msg=name)


def test_the_same_inputs_give_the_same_bits(make_checkpoint, make_batch):
    base = make_checkpoint(**ACTIONS["discrete"])
    batch = batch_for(make_batch, base, "discrete")
    ends = []
    for _ in range(2):
        learner = Learner(base, LearnerSettings(), path="numpy")
        learner.update(batch, seed=0)
        ends.append(learner.weights())
        kept = np.empty(1 + len(ends))  # noqa: F841 - the next buffers lie elsewhere
    assert all(np.array_equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.mark.parametrize("actions", ["discrete", "continuous"])
def test_what_the_memory_was_used_for_before_does_not_show(make_checkpoint, make_batch, actions):
    base, ends = make_checkpoint(**ACTIONS[actions]), []
    batch = batch_for(make_batch, base, actions)
    longer = make_batch((900, 333), **ACTIONS[actions])
    for others in ((), (longer, dataclasses.replace(longer, reward=np.full(1233, np.nan)))):
        arena._empty.clear()
        for other in others:
            with contextlib.suppress(UpdateDiverged):
                Learner(base, LearnerSettings(), path="numpy").update(other, seed=1)
        learner = Learner(base, LearnerSettings(), path="numpy")
        for seed in range(2):
            learner.update(batch, seed=seed)
        ends.append(learner.weights())
    assert all(np.array_equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.mark.parametrize("actions", ["discrete", "continuous"])
def test_nothing_that_outlives_an_update_lies_in_its_memory(make_checkpoint, make_batch, actions):
    base = make_checkpoint(**ACTIONS[actions])
    batch = batch_for(make_batch, base, actions)
    learner = Learner(base, LearnerSettings(noise_scale=True), path="numpy")
    report = learner.update(batch, seed=0)
    results = [learner.weights(), learner.delta().weights]
    results.append({name: average.value for name, average in learner.delta().averages.items()})
    before = copy.deepcopy((results, report))
    for seed in range(2):
        Learner(base, LearnerSettings(learning_rate=0.1), path="numpy").update(batch, seed=seed)
    assert report == before[1]
    results += [learner.weights(), learner.delta().weights]
    for now, then in zip(results, [*before[0], *before[0][:2]], strict=True):
        assert all(np.array_equal(now[name], then[name]) for name in then)


def test_a_room_is_nobody_elses(make_checkpoint):
    layouts = [network_layout(make_checkpoint().spec, name) for name in ("policy", "value")]
    first = arena.enter(layouts, "tanh")
    assert arena.enter(layouts, "tanh") is not first
    arena.leave(first)
    assert arena.enter(layouts, "relu") is not first
    assert arena.enter(layouts, "tanh") is first
    assert arena.enter(layouts, "tanh") is not first
    rooms = [arena.Room(layouts[:1], activation) for activation in ("tanh", "relu")]
    for i in range(2 * arena.ROOMS):
        rooms[i % 2].key = (i,)
        arena.leave(rooms[i % 2])
    assert len(arena._empty) == arena.ROOMS


def test_what_is_not_finite_is_found_in_both(make_checkpoint, make_batch):
    settings = LearnerSettings(algorithm="reinforce", baseline="ema", advantage_normalization="none")
    batch = make_batch(LENGTHS, reward=np.full(sum(LENGTHS), 1e37))
    for path in ("numpy", "torch"):
        with pytest.raises(UpdateDiverged, match=r"policy loss|grad norm"):
            Learner(make_checkpoint(), settings, path=path).update(batch, seed=0)


class Unsloped:
    """An algorithm without the derivative."""

    def __init__(self, algorithm):
        self._algorithm = algorithm

    def __getattr__(self, name):
        if name == "policy_slope":
            raise AttributeError(name)
        return getattr(self._algorithm, name)


def spec_with(**changes):
    return dataclasses.replace(PolicySpec(observation_shape=(4,), action=DiscreteSpace(n=2)), **changes)


@pytest.mark.parametrize(
    ("spec", "device", "expected"),
    [
        (spec_with(), "cpu", "numpy"),
        (spec_with(action=ContinuousSpace(size=3), activation="relu"), "cpu", "numpy"),
        (spec_with(), "cuda", "torch"),
        (spec_with(layer_norm=True), "cpu", "torch"),
        (spec_with(hidden=(64, ARRAY_WIDTH_MAX)), "cpu", "numpy"),
        (spec_with(hidden=(64, ARRAY_WIDTH_MAX + 1)), "cpu", "torch"),
        (spec_with(observation_shape=(2, ARRAY_WIDTH_MAX)), "cpu", "torch"),
    ],
)
def test_the_path_follows_networks_and_device(spec, device, expected):
    algorithm = create_algorithm(LearnerSettings())
    assert chosen_path(spec, algorithm, device=device, path="auto") == expected
    assert chosen_path(spec, Unsloped(algorithm), device=device, path="auto") == "torch"
    assert chosen_path(spec, algorithm, device=device, path="torch") == "torch"


@pytest.mark.parametrize(
    ("spec", "device", "path"),
    [
        (spec_with(), "cuda", "numpy"),
        (spec_with(layer_norm=True), "cpu", "numpy"),
        (spec_with(), "cpu", "fortran"),
    ],
)
def test_a_path_that_cannot_serve_is_refused(spec, device, path):
    with pytest.raises(ValueError, match="accepted"):
        chosen_path(spec, create_algorithm(LearnerSettings()), device=device, path=path)


@pytest.mark.parametrize(("path", "kind"), [("numpy", ArrayEpochs), ("torch", Epochs)])
def test_the_path_is_taken(make_checkpoint, path, kind):
    base, settings = make_checkpoint(), LearnerSettings()
    state = LearnerState(base, settings, device="cpu")
    passes = create_passes(
        state,
        settings,
        create_algorithm(settings),
        Remedies(base.spec, settings, state, seed=0),
        spec=base.spec,
        path=path,
        policy_rate=1e-3,
        value_rate=None,
    )
    assert isinstance(passes, kind)
    assert [passes.trained, passes.policy_steps, passes.value_steps] == [[state.policy], 0, 0]
