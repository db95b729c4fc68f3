import dataclasses

import numpy as np
import pytest

from policies import merge
from policies.checkpoint import Delta
from policies.forward import policy_outputs, values
from policies.input_scale import carry_over
from policies.learner import Learner
from policies.normalizer import RunningStatistics
from policies.settings import LearnerSettings


def statistics(seed, *, shift=0.0, scale=1.0, n=50):
    rows = np.random.default_rng(seed).normal(size=(n, 3)) * scale + shift
    return RunningStatistics.of(rows)


def outputs(policy, weights, normalizer, obs):
    logits = policy_outputs(weights, policy.spec, normalizer, obs)
    return np.concatenate([logits, values(weights, policy.spec, normalizer, obs)[:, None]], axis=1)


OBS = np.random.default_rng(9).normal(size=(20, 3)).astype(np.float32)


def narrow(weights):
    return {name: np.asarray(array, np.float32) for name, array in weights.items()}


def test_no_output_changes(make_checkpoint):
    policy = make_checkpoint(normalize=True)
    old, new = statistics(1), statistics(2, shift=0.7, scale=1.9)
    carried = narrow(carry_over(policy.weights, old=old, new=new))
    before, after = (outputs(policy, w, n, OBS) for w, n in ((policy.weights, old), (carried, new)))
    np.testing.assert_allclose(before, after, atol=2e-6)
    assert np.abs(outputs(policy, policy.weights, new, OBS) - before).max() > 1e-3
    back = narrow(carry_over(carried, old=new, new=old))
    for name, array in policy.weights.items():
        np.testing.assert_allclose(back[name], array, atol=1e-6)


def test_a_publish_disturbs_neither_policy_nor_value_nor_proximal(make_checkpoint, make_batch):
    base = dataclasses.replace(make_checkpoint(normalize=True), normalizer=statistics(1))
    batch = make_batch((30, 20), seed=5)
    batch = dataclasses.replace(batch, obs=batch.obs * 3 + 1)
    learner = Learner(base, LearnerSettings())
    learner.update(batch, seed=1)
    merged = merge.apply(base, learner.delta())
    assert merged.normalizer.count == 100
    trained = outputs(base, learner.weights(), base.normalizer, OBS)
    np.testing.assert_allclose(trained, outputs(base, merged.weights, merged.normalizer, OBS), atol=5e-6)
    raw = {name.removeprefix("prox."): average.value for name, average in learner.delta().averages.items()}
    carried = {name.removeprefix("prox."): array for name, array in merged.averages.items()}
    before = policy_outputs(raw, base.spec, base.normalizer, OBS)
    np.testing.assert_allclose(before, policy_outputs(carried, base.spec, merged.normalizer, OBS), atol=5e-6)


@pytest.mark.parametrize("batches", [1, 2])
def test_the_first_version_acts_as_it_was_trained(make_checkpoint, make_batch, batches):
    base = make_checkpoint(normalize=True)
    learner = Learner(base, LearnerSettings())
    first = make_batch(seed=0)
    for seed in range(batches):
        learner.update(make_batch(seed=seed), seed=seed)
    merged = merge.apply(base, learner.delta())
    seen = RunningStatistics.of(first.obs)
    np.testing.assert_allclose(
        outputs(base, learner.weights(), seen, OBS),
        outputs(base, merged.weights, merged.normalizer, OBS),
        atol=5e-6,
    )


def test_changes_of_two_writers_add_in_common_statistics(make_checkpoint):
    base = dataclasses.replace(make_checkpoint(normalize=True), normalizer=statistics(1))
    rng = np.random.default_rng(3)
    deltas = [
        Delta(
            weights={name: 0.01 * rng.normal(size=array.shape) for name, array in base.weights.items()},
            observed=statistics(seed, shift=seed / 5),
        )
        for seed in (2, 3)
    ]
    first, second = deltas
    merged = merge.apply(base, first)
    head = dataclasses.replace(base, weights=merged.weights, normalizer=merged.normalizer)
    both = merge.merge(base, head, second)
    sums = {n: a + first.weights[n] + second.weights[n] for n, a in base.weights.items()}
    expected = outputs(base, narrow(sums), base.normalizer, OBS)
    np.testing.assert_allclose(outputs(base, both.weights, both.normalizer, OBS), expected, atol=5e-6)


def test_without_normalization_nothing_is_touched(make_checkpoint):
    base = dataclasses.replace(make_checkpoint(), normalizer=statistics(1))
    delta = Delta(weights={"policy.0.weight": np.ones((8, 3))}, observed=statistics(2, shift=3.0))
    merged = merge.apply(base, delta)
    np.testing.assert_array_equal(merged.weights["policy.0.bias"], base.weights["policy.0.bias"])
    np.testing.assert_array_equal(merged.weights["policy.0.weight"], base.weights["policy.0.weight"] + 1)
