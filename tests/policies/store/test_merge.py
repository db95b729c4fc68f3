import dataclasses
import math

import numpy as np
import pytest
from store_tools import SPEC, delta, initial, scalar

from policies.checkpoint import Average, Delta
from policies.errors import BadDelta
from policies.merge import MergeSettings, age_weight, apply, drift, episodes_weight, merge, rescale_head
from policies.normalizer import RunningStatistics

NAME = "policy.0.weight"
SHAPE = SPEC.shapes()[NAME]


def checkpoint(version, *, weights=None, **averages):
    base = initial()
    arrays = {name: np.asarray(value, np.float64) for name, value in averages.items()}
    return dataclasses.replace(
        base, version=version, weights={**base.weights, **(weights or {})}, averages=arrays
    )


def full(value, name=NAME):
    return np.full(SPEC.shapes()[name], value, np.float64)


def averaged(**averages):
    return Delta(weights={}, averages=averages)


def ema(start, gradients, decay, *, squared=False):
    for gradient in gradients:
        start = decay * start + (1 - decay) * (gradient**2 if squared else gradient)
    return start


@pytest.mark.parametrize(
    ("kind", "decay", "start", "expected"),
    [("adam_m", 0.9, 0.3, 0.307457), ("adam_v", 0.999, 0.2, 0.214226516)],
)
def test_adam_moments_equal_the_serial_order(kind, decay, start, expected):
    name, squared = f"{kind}.{NAME}", kind == "adam_v"
    one, two = (1.0, -2.0), (0.5, 3.0, -1.0)
    base = checkpoint(1, **{name: full(start)})
    head = checkpoint(2, **{name: full(ema(start, one, decay, squared=squared))})
    ours = Average(value=full(ema(start, two, decay, squared=squared)), retained=decay ** len(two))
    merged = merge(base, head, averaged(**{name: ours})).averages[name]
    assert merged == pytest.approx(full(expected), abs=1e-9)
    assert merged == pytest.approx(full(ema(start, (*one, *two), decay, squared=squared)), abs=1e-12)


def test_moments_that_the_base_lacks_began_at_zero():
    name, decay = f"adam_m.{NAME}", 0.9
    head = checkpoint(2, **{name: full(ema(0.0, (1.0, -2.0), decay))})
    ours = Average(value=full(ema(0.0, (0.5, 3.0), decay)), retained=decay**2)
    merged = merge(checkpoint(1), head, averaged(**{name: ours})).averages[name]
    assert merged == pytest.approx(full(ema(0.0, (1.0, -2.0, 0.5, 3.0), decay)), abs=1e-12)


def test_a_scalar_average_is_no_sum_of_deltas():
    decay, target = 0.95, 100.0
    end = ema(0.0, [target] * 200, decay)
    ours = scalar(end, decay**200)
    merged = merge(checkpoint(1, baseline=0.0), checkpoint(2, baseline=end), averaged(baseline=ours))
    assert merged.averages["baseline"] == pytest.approx(ema(0.0, [target] * 400, decay), abs=1e-9)
    assert merged.averages["baseline"] == pytest.approx(99.99999988, abs=1e-6)


def proximal(average, weight, thetas, decay=0.889):
    """A slow second version of the EWMA proximal weights; also gives what it retains of the start."""
    retained = 1.0
    for theta in thetas:
        grown = decay * weight + 1
        average = average * decay * weight / grown + theta / grown
        retained *= decay * weight / grown
        weight = grown
    return average, weight, retained


def test_proximal_weights_follow_the_head_that_they_were_moved_onto():
    name, theta0, weight0 = f"prox.{NAME}", 2.0, 3.0
    theirs, ours = [2.5, 2.25], [1.5, 1.0, 0.5]  # weights after each step of either branch
    shift = theirs[-1] - theta0
    e_head, w_head, _ = proximal(1.0, weight0, theirs)
    e_ours, w_ours, retained = proximal(1.0, weight0, ours)
    base = checkpoint(1, weights={NAME: full(theta0)}, **{name: full(1.0)}, prox_weight=weight0)
    head = checkpoint(2, weights={NAME: full(theirs[-1])}, **{name: full(e_head)}, prox_weight=w_head)
    change = Delta(
        weights={NAME: full(ours[-1] - theta0)},
        averages={
            name: Average(value=full(e_ours), retained=retained),
            "prox_weight": scalar(w_ours, 0.889 ** len(ours)),
        },
    )
    merged = merge(base, head, change)
    # Seen from the head, our steps ended at the same weights plus the head's shift.
    e_shifted, _, _ = proximal(e_head, weight0, [theta + shift for theta in ours])
    _, w_serial, _ = proximal(e_head, w_head, ours)
    assert merged.weights[NAME] == pytest.approx(full(1.0 - 0.5 - 0.5 + 0.75), abs=1e-6)
    assert merged.averages[name] == pytest.approx(full(e_shifted), abs=1e-12)
    assert float(merged.averages["prox_weight"]) == pytest.approx(w_serial, abs=1e-12)


def test_rescaling_a_value_head():
    weight, bias = rescale_head(np.array(2.0), np.array(1.0), old=(0.0, 1.0), new=(3.0, 4.0))
    assert (float(weight), float(bias)) == (0.5, -0.5)


def test_value_heads_are_added_in_common_statistics():
    names = ("value.1.weight", "value.1.bias")

    def branch(version, mean, std, weight, bias):
        arrays = {names[0]: full(weight, names[0]), names[1]: full(bias, names[1])}
        return checkpoint(version, weights=arrays, popart_mean=mean, popart_std=std)

    base, head = branch(1, 10.0, 2.0, 1.0, 0.5), branch(2, 14.0, 4.0, 0.75, -0.25)
    retained, mean, std, weight, bias = 0.9, 11.0, 3.0, 1.5, 0.25
    change = Delta(
        weights={names[0]: full(weight - 1.0, names[0]), names[1]: full(bias - 0.5, names[1])},
        averages={"popart_mean": scalar(mean, retained), "popart_std": scalar(std, retained)},
    )
    merged = merge(base, head, change)
    new_mean, new_std = mean + retained * 4.0, std + retained * 2.0
    assert float(merged.averages["popart_mean"]) == pytest.approx(new_mean)
    assert float(merged.averages["popart_std"]) == pytest.approx(new_std)
    # Unnormalized, a head's output on features x is linear: (std w) x + (std b + mean). These must add.
    slope = 3.0 * weight + (4.0 * 0.75 - 2.0 * 1.0)
    offset = (3.0 * bias + mean) + ((4.0 * -0.25 + 14.0) - (2.0 * 0.5 + 10.0))
    assert merged.weights[names[0]] * new_std == pytest.approx(full(slope, names[0]), rel=1e-6)
    assert merged.weights[names[1]] * new_std + new_mean == pytest.approx(full(offset, names[1]), rel=1e-6)


def test_first_statistics_of_both_writers_stay_positive_and_finite():
    head = checkpoint(2, popart_mean=5.0, popart_std=0.01)
    ours = averaged(popart_mean=scalar(-3.0, 0.0), popart_std=scalar(2.0, 0.0))
    merged = merge(checkpoint(1), head, ours)
    assert float(merged.averages["popart_std"]) == 2.0
    assert all(np.isfinite(array).all() for array in merged.weights.values())


def test_observations_of_both_branches_are_combined():
    base = RunningStatistics(count=10.0, mean=np.zeros(2), m2=np.full(2, 10.0))
    one = RunningStatistics.of(np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]))
    two = RunningStatistics.of(np.array([[10.0, 10.0], [20.0, 20.0]]))
    start = dataclasses.replace(initial(), version=1, normalizer=base)
    head = dataclasses.replace(initial(), version=2, normalizer=base + one)
    merged = merge(start, head, Delta(weights={}, observed=two)).normalizer
    assert merged.count == 15.0
    assert merged.mean == pytest.approx([2.4, 2.4])
    assert merged.m2 == pytest.approx([437.6, 437.6])


def test_two_branches_equal_one_that_did_both_when_the_gradient_does_not_depend_on_the_weights():
    rng = np.random.default_rng(3)
    base = initial()
    one, two = (
        Delta(weights={name: rng.normal(size=shape) for name, shape in SPEC.shapes().items()})
        for _ in range(2)
    )
    head = dataclasses.replace(base, version=1, weights=apply(base, one).weights)
    merged = merge(base, head, two).weights
    for name, start in base.weights.items():
        assert merged[name] == pytest.approx(start + one.weights[name] + two.weights[name], abs=1e-5)


def test_with_a_squared_loss_branches_differ_from_serial_by_the_square_of_the_rate():
    def gaps(rate):
        def step(theta, target):
            return theta - rate * (theta - target)

        ours = step(1.0, 5.0) - 1.0
        head = checkpoint(1, weights={NAME: full(step(1.0, -3.0))})
        merged = merge(
            checkpoint(0, weights={NAME: full(1.0)}), head, Delta(weights={NAME: full(ours)})
        ).weights[NAME][0, 0]
        return abs(float(merged) - step(step(1.0, -3.0), 5.0))

    assert gaps(0.1) / gaps(0.01) == pytest.approx(100.0, rel=1e-2)


def test_without_another_writer_the_result_is_exactly_ours():
    rng = np.random.default_rng(0)
    scales = 10.0 ** rng.integers(-6, 3, 2)
    base = initial()
    base = dataclasses.replace(
        base,
        weights={n: (rng.normal(size=a.shape) * scales[0]).astype("f4") for n, a in base.weights.items()},
        averages={"popart_mean": np.array(3.0), "popart_std": np.array(7.0)},
    )
    ours = {n: (a + rng.normal(size=a.shape) * scales[1]).astype("f4") for n, a in base.weights.items()}
    moments = rng.normal(size=SHAPE).astype("f4")
    change = Delta(
        weights={n: ours[n].astype("f8") - base.weights[n].astype("f8") for n in ours},
        averages={f"adam_m.{NAME}": Average(value=moments, retained=0.5), "popart_std": scalar(9.0, 0.4)},
    )
    merged = merge(base, base, change, weight=0.7)
    assert all(merged.weights[name].tobytes() == ours[name].tobytes() for name in ours)
    assert merged.averages[f"adam_m.{NAME}"].tobytes() == moments.tobytes()
    assert merged.averages[f"adam_m.{NAME}"] is not moments
    assert float(merged.averages["popart_std"]) == 9.0
    assert float(merged.averages["popart_mean"]) == 3.0


def test_the_weight_scales_the_change_of_the_weights_alone():
    base = initial()
    head = dataclasses.replace(
        base, version=1, weights=apply(base, delta(4.0)).weights, counters={"updates": 1}
    )
    merged = merge(base, head, delta(10.0), weight=0.7)
    for name, start in base.weights.items():
        assert merged.weights[name] == pytest.approx(start + 4.0 + 7.0)
    assert merged.counters["updates"] == 2


def test_a_sum_past_float32_is_refused():
    with pytest.raises(BadDelta, match="finite sum"):
        apply(initial(), Delta(weights={NAME: full(1e39)}))


@pytest.mark.parametrize(
    ("ours", "theirs", "weight"),
    [(8, 8, 1.0), (2, 8, 0.25), (8, 2, 1.0), (0, 8, 1.0), (3, 0, 1.0), (0, 0, 1.0)],
)
def test_weight_by_episodes(ours, theirs, weight):
    assert episodes_weight(ours, theirs) == weight


@pytest.mark.parametrize(
    ("age_s", "weight"), [(0.0, 1.0), (600.0, 0.5), (1200.0, 0.25), (-50.0, 1.0), (1e9, 0.0)]
)
def test_weight_by_age(age_s, weight):
    assert age_weight(age_s, 600.0) == pytest.approx(weight, abs=1e-12)


def test_drift_is_relative_to_the_policy_alone():
    base = initial()
    moved = {
        name: array * (1.5 if name.startswith("policy") else 99.0) for name, array in base.weights.items()
    }
    assert drift(base, dataclasses.replace(base, weights=moved)) == pytest.approx(0.5)
    assert drift(base, base) == 0.0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"weighting": "time"}, "weighting is 'time'; accepted: 'none', 'episodes', 'age'"),
        ({"half_life_s": 0}, "half_life_s is 0"),
        ({"online_weight": 1.5}, "online_weight is 1.5"),
        ({"online_weight": True}, "online_weight is True"),
        ({"drift_limit": -1}, "drift_limit is -1"),
        ({"drift_limit": math.inf}, "drift_limit is inf"),
        ({"daemon": ""}, "daemon is ''"),
        ({"wieghting": "none"}, "wieghting is no setting; accepted: weighting"),
        ([], "accepted: an object"),
    ],
)
def test_settings_name_what_is_wrong(data, message):
    with pytest.raises(ValueError, match="accepted") as caught:
        MergeSettings.from_json(data)
    assert message in str(caught.value)


def test_settings_round_trip():
    settings = MergeSettings(
        weighting="age", online_weight=0.7, half_life_s=9.0, drift_limit=0.5, daemon="bot"
    )
    assert MergeSettings.from_json(settings.to_json()) == settings
    assert MergeSettings.from_json({}) == MergeSettings()
