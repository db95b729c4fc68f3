import dataclasses
import math

import numpy as np
import pytest
import torch

from policies import epochs
from policies.arrays import epochs as array_epochs
from policies.errors import UpdateDiverged
from policies.learner import Learner
from policies.normalizer import RunningStatistics
from policies.settings import LearnerSettings

PPO = LearnerSettings()


def trained(checkpoint, *batches, settings=PPO, first_seed=0, **options):
    learner = Learner(checkpoint, settings, **options)
    reports = [learner.update(batch, seed=first_seed + i) for i, batch in enumerate(batches)]
    return learner, reports


def same(left, right):
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)


def with_own_logp(checkpoint, batch, settings=PPO):
    return dataclasses.replace(batch, logp=Learner(checkpoint, settings).log_probs(batch).astype(np.float64))


@pytest.mark.parametrize("size", [None, 2])
def test_an_update_reports_what_it_did(make_checkpoint, make_batch, size):
    ticks = iter([10.0, 10.25])
    learner, (report,) = trained(make_checkpoint(size=size), make_batch(size=size), clock=lambda: next(ticks))
    assert (report.n_steps, report.n_episodes, report.unlogged_steps) == (15, 3, 0)
    assert (report.policy_steps, report.value_steps) == (16, 16)
    assert report.learning_rate == pytest.approx(5e-4 * math.sqrt(3 / 8))
    assert report.loss == pytest.approx(report.policy_loss + report.value_loss)
    assert report.kl > 0
    assert report.seconds == 0.25
    numbers = [number for number in dataclasses.asdict(report).values() if number is not None]
    assert all(math.isfinite(number) for number in numbers)
    assert report.policy_episodes == 3
    assert learner.delta().counters == {
        "updates": 1,
        "steps": 15,
        "popart": 1,
        "adam_policy": 16,
        "adam_value": 16,
    }


def test_the_same_inputs_give_the_same_bits(make_checkpoint, make_batch):
    checkpoint, batches = make_checkpoint(), [make_batch(seed=1), make_batch((9, 2), seed=2)]
    first, _ = trained(checkpoint, *batches)
    np.random.seed(5)  # noqa: NPY002 - the global generator must not matter
    torch.manual_seed(5)
    second, _ = trained(checkpoint, *batches)
    assert same(first.weights(), second.weights())
    third, _ = trained(checkpoint, *batches, first_seed=1)
    assert not same(first.weights(), third.weights())


def test_training_leaves_global_generators_alone(make_checkpoint, make_batch):
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    trained(make_checkpoint(), make_batch())
    np.testing.assert_array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[1])


@pytest.mark.parametrize(
    "settings",
    [
        PPO,
        LearnerSettings(prox_decay=0.0),
        LearnerSettings(algorithm="reinforce", baseline="leave_one_out"),
        LearnerSettings(algorithm="reinforce", baseline="value", optimizer="sgd"),
        LearnerSettings(l2_init=1e-2, shrink_perturb=1e-2),
    ],
)
def test_publishing_in_between_changes_no_bit(make_checkpoint, make_batch, published, settings):
    base, batches = make_checkpoint(), [make_batch(seed=1), make_batch((9, 2), seed=2)]
    together, _ = trained(base, *batches, settings=settings)
    first, _ = trained(base, batches[0], settings=settings)
    second, _ = trained(published(base, first.delta()), batches[1], settings=settings, first_seed=1)
    assert same(together.weights(), second.weights())
    both = published(published(base, first.delta()), second.delta())
    once = published(base, together.delta())
    assert same(both.averages, once.averages)
    assert both.counters == once.counters
    assert both.normalizer.count == once.normalizer.count
    np.testing.assert_allclose(both.normalizer.m2, once.normalizer.m2)


def test_what_is_retained_of_the_base(make_checkpoint, make_batch, published):
    base, batch = make_checkpoint(), make_batch()
    first = trained(base, batch)[0].delta().averages
    assert first["adam_m.policy.0.weight"].retained == pytest.approx(0.9**16)
    assert first["popart_std"].retained == 0.0  # this branch set it: nothing older is in it
    second = trained(published(base, trained(base, batch)[0].delta()), batch, batch)[0].delta().averages
    assert second["adam_m.value.2.bias"].retained == pytest.approx(0.9**32)
    assert second["adam_v.value.2.bias"].retained == pytest.approx(0.999**32)
    assert second["popart_mean"].retained == pytest.approx(0.9**2)
    assert second["prox_weight"].retained == pytest.approx(0.889**32)
    start, end = first["prox_weight"].value, second["prox_weight"].value
    assert second["prox.policy.1.weight"].retained == pytest.approx(0.889**32 * start / end)


@pytest.mark.parametrize("size", [None, 1])
def test_a_memory_that_follows_the_steps_of_an_update_bounds_one_of_many(make_checkpoint, make_batch, size):
    checkpoint = make_checkpoint(size=size, hidden=(64, 64))
    batch = with_own_logp(checkpoint, make_batch((50,) * 8, size=size))

    def moved(**changes):
        """KL from the policy at the start, in nats, with the epochs' end on KL switched off."""
        settings = LearnerSettings(learning_rate=1e-3, target_kl=0.0, **changes)
        learner, _ = trained(checkpoint, batch, settings=settings)
        log_ratio = learner.log_probs(batch) - batch.logp
        return float((np.expm1(log_ratio) - log_ratio).mean())

    many = {"epochs": 10, "minibatches": 25}
    assert moved(**many, prox_decay="auto") < 0.1
    assert moved(**many) > 5 * moved(**many, prox_decay="auto")  # a memory for 16 steps follows at the heels


def test_retained_predicts_the_effect_of_another_start(make_checkpoint, make_batch, published):
    """An average's end moves by retained · the change of its start, when the gradients stay the same."""
    base, batch = make_checkpoint(), make_batch()
    settings = LearnerSettings(algorithm="reinforce", baseline="ema")
    first = published(base, trained(base, batch, settings=settings)[0].delta())
    moved = dataclasses.replace(first, averages={**first.averages, "baseline": np.array(3.0)})
    ends = [trained(c, batch, settings=settings)[0].delta().averages["baseline"] for c in (first, moved)]
    effect = ends[0].retained * (3.0 - first.averages["baseline"])
    assert ends[1].value - ends[0].value == pytest.approx(effect)


def test_delta_is_the_exact_change(make_checkpoint, make_batch):
    base = make_checkpoint()
    learner, _ = trained(base, make_batch())
    delta, weights = learner.delta(), learner.weights()
    assert list(weights) == list(base.spec.shapes())
    for name, array in weights.items():
        assert delta.weights[name].dtype == np.float64
        rebuilt = (base.weights[name].astype(np.float64) + delta.weights[name]).astype(np.float32)
        np.testing.assert_array_equal(rebuilt, array)


def test_nothing_learned_is_an_empty_delta(make_checkpoint):
    delta = Learner(make_checkpoint(), PPO).delta()
    assert (dict(delta.weights), dict(delta.averages), dict(delta.counters)) == ({}, {}, {})
    assert delta.observed.count == 0


def test_decoupled_without_its_parts_is_plain_ppo(make_checkpoint, make_batch):
    base = make_checkpoint(hidden=(16, 16), seed=3)
    batch = with_own_logp(base, make_batch((400, 300, 150), seed=9))
    settings = LearnerSettings(prox_decay=0.0, ess_scaling=False)
    decoupled, (report,) = trained(base, batch, settings=settings)
    plain, _ = trained(base, batch, settings=dataclasses.replace(settings, decoupled=False))
    assert report.ratio_max == 1.0
    assert same(decoupled.weights(), plain.weights())
    stale = dataclasses.replace(batch, logp=batch.logp - 0.1)
    assert not same(trained(base, stale, settings=settings)[0].weights(), plain.weights())


def stale(checkpoint, batch, spread):
    """Move the behavior log-probabilities away from the policy's."""
    noise = spread * np.random.default_rng(8).normal(size=batch.n_steps)
    return dataclasses.replace(batch, logp=with_own_logp(checkpoint, batch).logp - np.abs(noise))


def test_effective_sample_size_scales_the_policy_step_only(make_checkpoint, make_batch):
    base = make_checkpoint()
    batch = stale(base, make_batch(), 1.0)
    once = {"epochs": 1, "minibatches": 1}
    scaled, (report,) = trained(base, batch, settings=LearnerSettings(**once))
    full, _ = trained(base, batch, settings=LearnerSettings(**once, ess_scaling=False))
    assert 0.3 < report.ess_fraction < 0.9
    left, right = scaled.delta(), full.delta()
    for name, change in right.weights.items():
        factor = 1.0 if name.startswith("value.") else report.ess_fraction
        np.testing.assert_allclose(left.weights[name], factor * change, rtol=1e-2, atol=2e-7)
    for name in ("adam_m.policy.0.weight", "adam_v.policy.2.bias"):
        np.testing.assert_array_equal(left.averages[name].value, right.averages[name].value)


def test_too_little_effective_sample_size_trains_the_value_only(make_checkpoint, make_batch):
    base = make_checkpoint()
    learner, (report,) = trained(base, stale(base, make_batch(), 6.0))
    delta = learner.delta()
    assert report.ess_fraction < 0.3
    assert (report.policy_steps, report.value_steps, report.kl) == (0, 16, 0.0)
    assert {name.split(".")[0] for name in delta.weights} == {"value"}
    assert not [name for name in delta.averages if "policy" in name or name.startswith("prox")]
    assert "adam_policy" not in delta.counters


def test_a_batch_too_stale_as_a_whole_is_split_by_version(make_checkpoint, make_batch):
    base, settings = make_checkpoint(), LearnerSettings(epochs=1, minibatches=1, lr_scaling="none")
    batch = with_own_logp(base, make_batch((5, 3, 7)))
    logp, version = batch.logp.copy(), np.repeat([9, 9, 2], (5, 3, 7))
    logp[10] -= 6.0  # one step of the old version outweighs all others
    mixed = dataclasses.replace(batch, logp=logp, policy_version=version)
    learner, (report,) = trained(base, mixed, settings=settings)
    assert report.ess_fraction < 0.3
    assert (report.policy_episodes, report.n_episodes, report.policy_steps) == (2, 3, 1)
    other = dataclasses.replace(mixed, action=np.where(np.arange(15) == 12, 1 - batch.action, batch.action))
    again, _ = trained(base, other, settings=settings)
    policy = {name: weight for name, weight in learner.weights().items() if name.startswith("policy")}
    assert same(policy, {name: again.weights()[name] for name in policy})  # what was split off has no say
    assert not same(policy, {name: base.weights[name] for name in policy})


def test_unlogged_steps_fall_back_to_awr(make_checkpoint, make_batch):
    base = make_checkpoint()
    batch = stale(base, make_batch(), 1.0)
    logp = batch.logp.copy()
    logp[:4] = np.nan
    mixed = dataclasses.replace(batch, logp=logp)
    _, (report,) = trained(base, mixed)
    assert report.unlogged_steps == 4
    rho = np.exp((with_own_logp(base, batch).logp - batch.logp)[4:])
    assert report.ess_fraction == pytest.approx(rho.sum() ** 2 / (len(rho) * (rho**2).sum()), rel=1e-6)
    _, (alone,) = trained(base, dataclasses.replace(batch, logp=np.full_like(logp, np.nan)))
    assert (alone.ess_fraction, alone.ratio_max, alone.policy_steps) == (1.0, 1.0, 16)


def test_awr_raises_the_probability_of_good_actions(make_checkpoint, make_batch):
    base = make_checkpoint()
    batch = make_batch((1,) * 64, terminated=np.ones(64, bool), logp=np.full(64, np.nan))
    batch = dataclasses.replace(batch, reward=batch.action.astype(np.float64))
    learner, _ = trained(base, *[batch] * 5)
    ones = dataclasses.replace(batch, action=np.ones_like(batch.action))
    before, after = Learner(base, PPO).log_probs(ones), learner.log_probs(ones)
    assert after.mean() > before.mean() + 0.05


def test_a_probability_of_zero_counts_as_unlogged(make_checkpoint, make_batch):
    logp = np.full(15, -0.7)
    logp[3] = -np.inf
    _, (report,) = trained(make_checkpoint(), make_batch(logp=logp))
    assert report.unlogged_steps == 1


def test_masks(make_checkpoint, make_batch):
    base = make_checkpoint(actions=3)
    batch = make_batch(actions=3)
    mask = np.ones((15, 3), bool)
    mask[:, 2] = batch.action == 2
    mask[0, batch.action[0]] = False  # taken, so it was allowed
    learner, (report,) = trained(base, dataclasses.replace(batch, mask=mask))
    assert math.isfinite(report.loss)
    free = batch.action != 2
    assert (np.exp(learner.log_probs(batch)[free]) < 0.9).all()


def test_read_only_arrays_are_accepted_and_left_alone(make_checkpoint, make_batch):
    batch, untouched = make_batch(), make_batch()
    for name in ("obs", "final_obs", "action", "reward", "logp", "offsets"):
        getattr(batch, name).setflags(write=False)
    learner, _ = trained(make_checkpoint(), batch)
    assert same(learner.weights(), trained(make_checkpoint(), untouched)[0].weights())


def test_statistics_of_the_base_count_for_every_update(make_checkpoint, make_batch, published):
    base = make_checkpoint(normalize=True)
    rows = 5.0 + 3.0 * np.random.default_rng(0).normal(size=(50, 3))
    base = dataclasses.replace(base, normalizer=RunningStatistics.of(rows))
    batches = [make_batch(seed=1), make_batch(seed=2)]
    learner, _ = trained(base, *batches)
    fixed = dataclasses.replace(base, spec=dataclasses.replace(base.spec, normalize=False))
    by_hand = [
        dataclasses.replace(
            batch,
            obs=base.normalizer.normalize(batch.obs),
            final_obs=base.normalizer.normalize(batch.final_obs),
        )
        for batch in batches
    ]
    assert same(learner.weights(), trained(fixed, *by_hand)[0].weights())
    seen = RunningStatistics.of(np.concatenate([batch.obs for batch in batches]))
    observed = learner.delta().observed
    assert observed.count == 30
    np.testing.assert_allclose(observed.mean, seen.mean)
    np.testing.assert_allclose(observed.m2, seen.m2)


def test_statistics_are_kept_for_later_even_when_off(make_checkpoint, make_batch):
    learner, _ = trained(make_checkpoint(), make_batch())
    assert learner.delta().observed.count == 15
    frozen, _ = trained(make_checkpoint(), make_batch(), update_observation_statistics=False)
    assert frozen.delta().observed is None


def test_the_first_batch_sets_the_value_scale_later_ones_move_it(make_checkpoint, make_batch, published):
    base = make_checkpoint()
    batch = make_batch((3, 4), terminated=np.array([True, True]))
    returns = []
    for episode in np.split(batch.reward, [3]):
        returns += [sum(0.99**i * r for i, r in enumerate(episode[t:])) for t in range(len(episode))]
    first = trained(base, batch)[0].delta().averages
    assert first["popart_mean"].value == pytest.approx(np.mean(returns))
    assert first["popart_std"].value == pytest.approx(np.std(returns))
    big = dataclasses.replace(batch, reward=batch.reward + 10.0)
    learner, _ = trained(base, batch, big)
    tens = [10 * sum(0.99**i for i in range(n - t)) for n in (3, 4) for t in range(n)]
    moved = 0.9 * np.mean(returns) + 0.1 * np.mean(np.add(returns, tens))
    assert learner.delta().averages["popart_mean"].value == pytest.approx(moved)


def test_the_value_network_learns_the_returns(make_checkpoint, make_batch):
    batch = make_batch((1,) * 32, terminated=np.ones(32, bool))
    batch = dataclasses.replace(batch, reward=1000.0 + 50.0 * batch.obs[:, 0].astype(np.float64))
    settings = LearnerSettings(learning_rate=5e-3, epochs=10)
    _, reports = trained(make_checkpoint(), *[batch] * 8, settings=settings)
    assert reports[-1].value_loss < 0.1 * reports[0].value_loss


def test_target_kl_ends_the_epochs(make_checkpoint, make_batch):
    _, (free,) = trained(make_checkpoint(), make_batch(), settings=LearnerSettings(learning_rate=1e-2))
    settings = LearnerSettings(learning_rate=1e-2, target_kl=free.kl / 100)
    _, (guarded,) = trained(make_checkpoint(), make_batch(), settings=settings)
    assert free.policy_steps == 16
    assert guarded.policy_steps < 16


def test_more_minibatches_than_steps(make_checkpoint, make_batch):
    settings = LearnerSettings(minibatches=8)
    _, (report,) = trained(make_checkpoint(), make_batch((1, 2)), settings=settings)
    assert report.policy_steps == 12  # empty minibatches are skipped


@pytest.mark.parametrize("baseline", ["ema", "batch_mean", "leave_one_out", "value"])
def test_reinforce_with_each_baseline(make_checkpoint, make_batch, baseline):
    settings = LearnerSettings(algorithm="reinforce", baseline=baseline)
    learner, (report,) = trained(make_checkpoint(), make_batch(), settings=settings)
    trains_value = baseline == "value"
    assert report.value_steps == (16 if trains_value else 0)
    delta = learner.delta()
    assert ("value.0.weight" in delta.weights) is trains_value
    assert ("baseline" in delta.averages) is not trains_value
    assert not any(name.startswith("prox") for name in delta.averages)


def gradient_step(checkpoint, batch, *, path="auto", **changes):
    settings = LearnerSettings(
        algorithm="reinforce",
        baseline="ema",
        optimizer="sgd",
        learning_rate=0.1,
        epochs=1,
        minibatches=1,
        entropy_bonus=0.0,
        advantage_normalization="none",
        max_grad_norm=1e9,
        **changes,
    )
    return trained(checkpoint, batch, settings=settings, path=path)[0].delta().weights


def repeated(batch, times):
    """Return the same episodes several times over."""
    ends = [batch.offsets[1:] + i * batch.n_steps for i in range(times)]
    steps = ("obs", "action", "reward", "logp", "policy_version")
    episodes = ("final_obs", "terminated", "total_reward")
    return dataclasses.replace(
        batch,
        offsets=np.concatenate([[0], *ends]),
        **{name: np.concatenate([getattr(batch, name)] * times) for name in steps + episodes},
    )


def test_the_mean_gradient_does_not_depend_on_the_number_of_identical_episodes(make_checkpoint, make_batch):
    base, batch = make_checkpoint(), make_batch((6,), terminated=np.array([True]))
    one = gradient_step(base, batch, lr_scaling="none")
    five = gradient_step(base, repeated(batch, 5), lr_scaling="none")
    for name, change in one.items():
        np.testing.assert_allclose(five[name], change, atol=1e-7)


def test_summed_over_steps_by_games_is_the_mean_over_games(make_checkpoint, make_batch):
    base, batch = make_checkpoint(), make_batch((6,), terminated=np.array([True]))
    mean = gradient_step(base, batch, lr_scaling="none")
    summed = gradient_step(base, repeated(batch, 5), lr_scaling="sum")
    for name, change in mean.items():
        np.testing.assert_allclose(summed[name], 6 * change, atol=1e-6)  # 6 steps a game


@pytest.mark.parametrize("path", ["numpy", "torch"])
def test_large_batches_in_chunks_give_the_same_gradient(make_checkpoint, make_batch, monkeypatch, path):
    base, batch = make_checkpoint(), make_batch((900, 700, 300))
    whole = gradient_step(base, batch, path=path, lr_scaling="none")
    monkeypatch.setitem(epochs.CHUNK_ROWS, "cpu", 64)
    monkeypatch.setattr(array_epochs, "CHUNK_ROWS", 64)
    chunked = gradient_step(base, batch, path=path, lr_scaling="none")
    for name, change in whole.items():
        np.testing.assert_allclose(chunked[name], change, atol=2e-6)


@pytest.mark.parametrize(
    ("what", "changes"),
    [
        ("advantage", {"reward": np.full(15, 1e308)}),
        ("log-probability|entropy", {"obs": np.full((15, 3), np.nan, np.float32)}),
    ],
)
def test_what_is_not_finite_is_named(make_checkpoint, make_batch, what, changes):
    learner = Learner(make_checkpoint(), PPO)
    with pytest.raises(UpdateDiverged, match=what), np.errstate(all="ignore"):
        learner.update(make_batch(**changes), seed=0)


def test_a_loss_that_overflows_float32_is_named(make_checkpoint, make_batch):
    settings = LearnerSettings(algorithm="reinforce", baseline="ema", advantage_normalization="none")
    learner = Learner(make_checkpoint(), settings)
    with pytest.raises(UpdateDiverged) as caught:
        learner.update(make_batch(reward=np.full(15, 1e37)), seed=0)
    assert caught.value.what in {"policy loss", "grad norm"}


@pytest.mark.parametrize(
    "changes",
    [
        {"obs": np.zeros((15, 4), np.float32)},
        {"action": np.full(15, 2)},
        {"action": np.zeros((15, 1), np.float32)},
        {"mask": np.ones((15, 3), bool)},
    ],
)
def test_a_batch_that_does_not_fit_is_refused(make_checkpoint, make_batch, changes):
    base = make_checkpoint()
    learner = Learner(base, PPO)
    with pytest.raises(ValueError, match="accepted"):
        learner.update(make_batch(**changes), seed=0)
    assert same(learner.weights(), dict(base.weights))


def test_averages_that_a_checkpoint_lacks_start_fresh(make_checkpoint, make_batch):
    base, batch = make_checkpoint(), make_batch()
    seen = dataclasses.replace(base, counters={**base.counters, "adam_policy": 5000, "adam_value": 5000})
    fresh, _ = trained(base, batch)
    counted, _ = trained(seen, batch)
    assert same(fresh.weights(), counted.weights())
    assert seen.counters["adam_policy"] + counted.delta().counters["adam_policy"] == 16


def test_an_unknown_device_is_refused(make_checkpoint):
    with pytest.raises(ValueError, match="accepted"):
        Learner(make_checkpoint(), PPO, device="tpu")


def test_replayed_episodes_train_but_are_not_counted(make_checkpoint, make_batch):
    checkpoint = make_checkpoint(normalize=True)
    batch = make_batch((5, 3, 7, 4))
    learner, every = Learner(checkpoint, PPO), Learner(checkpoint, PPO)
    report = learner.update(batch, seed=0, replayed=2)
    counted = every.update(batch, seed=0)
    assert same(learner.weights(), every.weights())
    assert learner.delta().averages.keys() == every.delta().averages.keys()
    assert learner.delta().counters == {**every.delta().counters, "steps": 8}
    assert (report.n_episodes, report.n_steps) == (4, 19)
    assert report.learning_rate == counted.learning_rate
    assert report.return_mean == pytest.approx(batch.total_reward[:2].mean())
    expected = RunningStatistics.of(batch.obs[:8])
    assert learner.delta().observed.count == 8
    assert np.array_equal(learner.delta().observed.m2, expected.m2)


def test_reinforce_takes_no_replayed_episodes(make_checkpoint, make_batch):
    learner = Learner(make_checkpoint(), LearnerSettings(algorithm="reinforce"))
    before = learner.weights()
    with pytest.raises(ValueError, match="1 replayed episodes; accepted: none"):
        learner.update(make_batch(), seed=0, replayed=1)
    assert same(learner.weights(), before)
