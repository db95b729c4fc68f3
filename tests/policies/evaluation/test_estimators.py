"""Every estimator against literals and against a slow second version."""

import dataclasses
import importlib

import numpy as np
import pytest
from known_mdp import ACTIONS, BEHAVIOR, EYE, GAMMA, STATES, TARGET, TableTarget, draw

from experience.batch import Batch
from policies.errors import NotEvaluable
from policies.evaluation import ESTIMATORS, compare, evaluate, linearize
from policies.evaluation.bootstrap import Bootstrap, difference, interval, weighted_means
from policies.evaluation.corrections import corrections
from policies.evaluation.cwpdis import statistic as cwpdis
from policies.evaluation.fitted import FittedQ
from policies.evaluation.logged import Logged, PolicyTarget
from policies.evaluation.pdis import statistic as pdis
from policies.evaluation.wis import statistic as wis
from policies.initial import initial_checkpoint
from policies.spec import ContinuousSpace, DiscreteSpace, MultiDiscreteSpace, PolicySpec


def value(statistic, n):
    return float(statistic(np.ones((1, n)))[0][0])


def logs(ratios):
    with np.errstate(divide="ignore"):
        return np.log(ratios)


def by_ratios(ratios, rewards, *, gamma=1.0):
    """A log whose steps have these importance ratios: the behavior is certain of what it does."""
    lengths = [len(one) for one in ratios]
    flat = np.concatenate([np.asarray(one, float) for one in ratios])
    n = len(flat)
    batch = Batch(
        obs=np.zeros((n, 1), np.float32),
        final_obs=np.zeros((len(ratios), 1), np.float32),
        action=np.zeros(n, np.int64),
        reward=np.concatenate([np.asarray(one, float) for one in rewards]),
        logp=np.zeros(n),
        mask=None,
        policy_version=np.ones(n, np.int64),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        terminated=np.ones(len(ratios), bool),
        total_reward=np.zeros(len(ratios)),
    )
    return Logged(batch=batch, target=TableTarget(TARGET), log_ratio=logs(flat), gamma=gamma)


def test_weights_are_normalized_over_all_episodes_not_over_those_alive():
    logged = by_ratios([[0.5], [1.5, 2.0]], [[1.0], [1.0, 1.0]])
    assert value(cwpdis(logged), 2) == pytest.approx(1.857142857142857, abs=1e-12)
    assert value(pdis(logged), 2) == pytest.approx((0.5 + 1.5 + 3.0) / 2)
    assert value(wis(logged), 2) == pytest.approx((0.5 * 1 + 3.0 * 2) / 3.5)


def test_effective_shares():
    logged = by_ratios([[0.5], [1.5, 2.0]], [[1.0], [1.0, 1.0]])
    assert logged.ess_per_step == pytest.approx((4 / (2 * 2.5), 3.5**2 / (2 * 9.25)))
    assert logged.ess_trajectory == pytest.approx(3.5**2 / (2 * 9.25))
    assert logged.ess_steps == pytest.approx(16 / (3 * 6.5))
    assert logged.ess_mean == pytest.approx((2 * 0.8 + 3.5**2 / 18.5) / 3)
    assert by_ratios([[0.0], [0.0]], [[1.0], [1.0]]).ess_trajectory == 0.0


def slow_cwpdis(logged):
    total = 0.0
    for t in range(logged.horizon):
        above = below = 0.0
        for e in range(logged.n_episodes):
            begin, end = logged.batch.offsets[e : e + 2]
            upto = min(begin + t + 1, end)
            weight = np.exp(logged.log_ratio[begin:upto].sum())
            below += weight
            if begin + t < end:
                above += weight * logged.batch.reward[begin + t]
        total += logged.gamma**t * above / below
    return total


def slow_sums(logged):
    """Per episode: ratio of the whole, discounted return, per-decision return."""
    rows = []
    for e in range(logged.n_episodes):
        steps = slice(*logged.batch.offsets[e : e + 2])
        ratios, rewards = np.exp(logged.log_ratio[steps]), logged.batch.reward[steps]
        discounted = [logged.gamma**t * r for t, r in enumerate(rewards)]
        weighted = [ratios[: t + 1].prod() * r for t, r in enumerate(discounted)]
        rows.append((ratios.prod(), sum(discounted), sum(weighted)))
    return np.array(rows)


def test_ratio_estimators_equal_their_slow_versions():
    logged = Logged.of(draw(40, np.random.default_rng(1)), TableTarget(TARGET), gamma=GAMMA)
    rows = slow_sums(logged)
    assert value(cwpdis(logged), 40) == pytest.approx(slow_cwpdis(logged), rel=1e-12)
    assert value(pdis(logged), 40) == pytest.approx(rows[:, 2].mean(), rel=1e-12)
    assert value(wis(logged), 40) == pytest.approx((rows[:, 0] * rows[:, 1]).sum() / rows[:, 0].sum())


@pytest.mark.parametrize("method", ["cwpdis", "wis", "pdis", "fqe"])
def test_counts_stand_for_repeated_episodes(method):
    """What the bootstrap relies on: a count of 2 is the same as the episode twice.

    Not for the doubly robust ones: their Q is cross-fitted over folds of the episodes as they are.
    """
    batch = draw(12, np.random.default_rng(2))
    counts = np.array([2, 0, 1, 1, 3, 0, 1, 1, 1, 0, 1, 1])
    logged = Logged.of(batch, TableTarget(TARGET), gamma=GAMMA)
    again = Logged.of(repeated(batch, counts), TableTarget(TARGET), gamma=GAMMA)
    weighted, plain = (_statistic(method)(one) for one in (logged, again))
    off = 1e-2 if method == "fqe" else 1e-12  # its features are standardized by the log, which is another one
    assert weighted(counts[None].astype(float))[0][0] == pytest.approx(value(plain, 12), rel=off)


def _statistic(method):
    return importlib.import_module(ESTIMATORS[method]).statistic


def repeated(batch, counts):
    which = np.repeat(np.arange(len(counts)), counts)
    rows = np.concatenate([np.arange(*batch.offsets[e : e + 2]) for e in which])
    lengths = np.diff(batch.offsets)[which]
    names = ("obs", "action", "reward", "logp", "policy_version")
    return dataclasses.replace(
        batch,
        **{name: getattr(batch, name)[rows] for name in names},
        final_obs=batch.final_obs[which],
        terminated=batch.terminated[which],
        total_reward=batch.total_reward[which],
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
    )


def test_influence_is_what_leaving_one_out_changes():
    rng = np.random.default_rng(3)
    weights, values = rng.exponential(size=(9, 4)), rng.normal(size=(9, 4))
    statistic = weighted_means(weights, values)
    whole, influence = statistic(np.ones((1, 9)))
    for e in range(9):
        without = np.ones((1, 9))
        without[0, e] = 0.0
        assert whole[0] - statistic(without)[0][0] == pytest.approx(influence[0, e], rel=1e-9)
    counts = np.array([[2.0, 0, 1, 1, 1, 1, 1, 1, 1]])
    _, linear = statistic(counts)
    step = 1e-6
    for e in range(9):
        moved = counts.copy()
        moved[0, e] += step
        slope = (statistic(moved)[0][0] - statistic(counts)[0][0]) / step
        assert slope == pytest.approx(linear[0, e], abs=1e-5)


def chain():
    """The chain of the design's exact checks: V^π = 1.136, V^μ = 0.545."""
    rewards = np.array([[0.0, 1.0], [2.0, 0.0], [0.0, -1.0]])
    target, behavior = np.array([0.8, 0.7, 0.6]), np.array([0.5, 0.4, 0.3])
    paths = [(a, b) for a in (0, 1) for b in (0, 1)]
    states = np.array([(0, 1 if a == 0 else 2) for a, _ in paths])
    actions = np.array(paths)
    pick = lambda first: np.where(actions == 0, first[states], 1 - first[states])  # noqa: E731
    batch = Batch(
        obs=np.eye(3, dtype=np.float32)[states.ravel()],
        final_obs=np.zeros((4, 3), np.float32),
        action=actions.ravel(),
        reward=rewards[states, actions].ravel(),
        logp=np.log(pick(behavior)).ravel(),
        mask=None,
        policy_version=np.ones(8, np.int64),
        offsets=np.arange(0, 9, 2),
        terminated=np.ones(4, bool),
        total_reward=rewards[states, actions].sum(axis=1),
    )
    return batch, TableTarget(np.stack([target, 1 - target], axis=1)), pick(behavior).prod(axis=1)


def test_chain_over_all_trajectories():
    batch, target, chance = chain()
    logged = Logged.of(batch, target, gamma=0.9)
    counts = 4 * chance[None]
    per_decision = pdis(logged)(counts)[0][0]
    per_episode = [pdis(logged)(row[None])[0][0] for row in np.eye(4)]
    variance = chance @ (np.array(per_episode) - per_decision) ** 2
    assert (per_decision, variance) == (pytest.approx(1.136), pytest.approx(3.8270, abs=1e-4))
    assert wis(logged)(counts)[0][0] == pytest.approx(1.136)
    assert cwpdis(logged)(counts)[0][0] == pytest.approx(1.136)
    assert _statistic("fqe")(logged)(counts)[0][0] == pytest.approx(1.136, abs=2e-3)


@pytest.mark.parametrize("method", ["dr", "wdr"])
def test_with_an_exact_q_the_doubly_robust_ones_know_the_value_without_any_doubt(method):
    batch, target, chance = chain()
    many = repeated(batch, np.random.default_rng(0).multinomial(60, chance))
    found = evaluate(Logged.of(many, target, gamma=0.9), method=method)
    assert found.value == pytest.approx(1.136, abs=3e-3)
    assert found.high - found.low < 0.01


def test_fitted_q_equals_a_table_of_means():
    logged = Logged.of(draw(60, np.random.default_rng(4)), TableTarget(TARGET), gamma=GAMMA)
    batch = logged.batch
    following = np.roll(batch.obs.argmax(axis=1), -1)
    following[batch.offsets[1:] - 1] = batch.final_obs.argmax(axis=1)
    goes_on = np.ones(batch.n_steps)
    goes_on[batch.offsets[1:] - 1] = ~batch.terminated
    q = np.zeros((STATES, ACTIONS))
    for _ in range(logged.horizon):
        aims = batch.reward + GAMMA * goes_on * (TARGET * q).sum(axis=1)[following]
        where = [
            (batch.obs.argmax(axis=1) == s) & (batch.action == a)
            for s in range(STATES)
            for a in range(ACTIONS)
        ]
        q = np.array([aims[rows].mean() for rows in where]).reshape(STATES, ACTIONS)
    states = batch.obs[batch.offsets[:-1]].argmax(axis=1)
    expected = (TARGET * q).sum(axis=1)[states].mean()
    assert value(_statistic("fqe")(logged), 60) == pytest.approx(expected, abs=5e-3)


@pytest.mark.parametrize("most_steps", [None, 3])
def test_doubly_robust_ones_equal_their_slow_versions(most_steps):
    batch = draw(25, np.random.default_rng(5), most_steps=most_steps)
    logged = Logged.of(batch, TableTarget(TARGET), gamma=GAMMA)
    fitted, folds = FittedQ(logged), np.arange(25) % 5
    left_out = (folds != np.arange(5)[:, None]).astype(float)
    weights = list(fitted.weights(left_out))
    found = corrections(logged)
    values, ratios = [], logged.padded(np.exp(logged.log_ratio))
    for e in range(25):
        rows = range(*batch.offsets[e : e + 2])
        ahead = 0.0
        left = logged.horizon - len(rows)
        if not batch.terminated[e]:
            now = fitted.features.expected(batch.final_obs[[e]], logged.target, None)
            ahead = float(now[0] @ weights[left][folds[e]])
        for n in reversed(rows):
            left += 1
            w = weights[left][folds[e]]
            phi = fitted.features.of(batch.obs[[n]], batch.action[[n]])[0]
            now = fitted.features.expected(batch.obs[[n]], logged.target, None)[0]
            rho = np.exp(logged.log_ratio[n])
            ahead = now @ w + rho * (batch.reward[n] + GAMMA * ahead - phi @ w)
        values.append(ahead)
    assert value(_statistic("dr")(logged), 25) == pytest.approx(np.mean(values), rel=1e-9)
    total, before = 0.0, np.full(25, 1 / 25)
    for t in range(logged.horizon + 1):
        total += GAMMA**t * before @ found.v[:, t]
        if t < logged.horizon:
            alive = t < logged.lengths
            now = np.where(alive, ratios[:, t], 1.0) * before
            now /= now.sum()
            before = now
            reward = logged.padded(batch.reward)[:, t]
            total += GAMMA**t * now @ (reward - found.q[:, t])
    assert value(_statistic("wdr")(logged), 25) == pytest.approx(total, rel=1e-9)


def test_truncated_episodes_end_for_the_ratios_and_go_on_for_q():
    """Reward 1 for ever, cut after 2 and after 4 steps: the log holds 3 on average, the horizon 4."""
    lengths, n = np.array([2, 4] * 10), 60
    batch = Batch(
        obs=np.tile(EYE[:1], (n, 1)),
        final_obs=np.tile(EYE[:1], (20, 1)),
        action=np.arange(n) % 2,
        reward=np.ones(n),
        logp=np.full(n, np.log(0.5)),
        mask=None,
        policy_version=np.ones(n, np.int64),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        terminated=np.zeros(20, bool),
        total_reward=lengths.astype(float),
    )
    logged = Logged.of(batch, TableTarget(np.full((STATES, ACTIONS), 0.5)), gamma=1.0)
    found = {method: evaluate(logged, method=method).value for method in ESTIMATORS}
    assert [found[name] for name in ("wis", "pdis", "cwpdis")] == pytest.approx([3.0] * 3)
    assert [found[name] for name in ("fqe", "dr", "wdr")] == pytest.approx([4.0] * 3, abs=5e-3)


@pytest.mark.parametrize("method", ESTIMATORS)
def test_a_policy_is_no_better_than_itself(method):
    logged = Logged.of(draw(30, np.random.default_rng(6)), TableTarget(TARGET), gamma=GAMMA)
    found = compare(logged, logged, method=method)
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_a_comparison_is_sharper_than_two_estimates():
    batch = draw(100, np.random.default_rng(8))
    near = 0.9 * BEHAVIOR + 0.1 * TARGET
    one, other = (Logged.of(batch, TableTarget(p), gamma=GAMMA) for p in (near, BEHAVIOR))
    alone, both = evaluate(one), compare(one, other)
    assert both.value == pytest.approx(alone.value - evaluate(other).value)
    assert both.high - both.low < 0.3 * (alone.high - alone.low)


@pytest.mark.parametrize("method", ESTIMATORS)
def test_deviations_add_up_to_the_error_also_of_a_difference(method):
    batch = draw(40, np.random.default_rng(8))
    near = 0.9 * BEHAVIOR + 0.1 * TARGET
    one, other = (Logged.of(batch, TableTarget(p), gamma=GAMMA) for p in (near, BEHAVIOR))
    first, second, both = (linearize(logged, method=method) for logged in (one, other, one))
    assert first.value == evaluate(one, method=method).value
    np.testing.assert_array_equal(first.deviations, both.deviations)
    found = compare(one, other, method=method)
    assert first.value - second.value == pytest.approx(found.value)
    error = np.sqrt(np.square(first.deviations - second.deviations).sum())
    assert error == pytest.approx((found.high - found.low) / (2 * 1.96), rel=0.35)
    assert error < 0.6 * np.sqrt(np.square(first.deviations).sum())


def test_intervals_are_the_same_for_the_same_seed_and_narrow_with_the_level():
    logged = Logged.of(draw(50, np.random.default_rng(9)), TableTarget(TARGET), gamma=GAMMA)
    wide, again, narrow = (evaluate(logged, bootstrap=Bootstrap(level=level)) for level in (0.95, 0.95, 0.5))
    assert wide == again
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high
    assert evaluate(logged, bootstrap=Bootstrap(seed=1)).low != wide.low


def test_episodes_without_spread_have_no_interval():
    statistic = weighted_means(np.ones((5, 1)), np.full((5, 1), 2.0))
    found = interval(statistic, 5, Bootstrap(replicates=50))
    assert (found.low, found.value, found.high) == (2.0, 2.0, 2.0)
    assert difference(statistic, statistic)(np.ones((1, 5)))[0][0] == 0.0


def test_what_the_target_never_does_counts_nothing():
    never = np.array([[1.0, 0.0]] * STATES)
    batch = draw(30, np.random.default_rng(10))
    only = dataclasses.replace(batch, action=np.ones_like(batch.action))
    found = evaluate(Logged.of(only, TableTarget(never), gamma=GAMMA))
    assert (found.value, found.ess_fraction) == (0.0, 0.0)


def test_unusable_logs_are_refused_and_say_why():
    batch, target = draw(4, np.random.default_rng(11)), TableTarget(TARGET)
    logp = batch.logp.copy()
    logp[batch.offsets[1]] = np.nan
    with pytest.raises(NotEvaluable, match="logp: missing in 1 of 4 episodes; accepted: a log-probability"):
        Logged.of(dataclasses.replace(batch, logp=logp), target, gamma=0.9)
    with pytest.raises(NotEvaluable, match=r"gamma: 1\.5; accepted: 0 to 1"):
        Logged.of(batch, target, gamma=1.5)
    with pytest.raises(NotEvaluable, match="episodes: 1; accepted: two or more"):
        Logged.of(draw(1, np.random.default_rng(0)), target, gamma=0.9)
    with pytest.raises(NotEvaluable, match="method: guess; accepted: cwpdis, wis"):
        evaluate(Logged.of(batch, target, gamma=0.9), method="guess")
    with pytest.raises(NotEvaluable, match="level: 2"):
        Bootstrap(level=2)


@pytest.mark.parametrize(
    "space", [DiscreteSpace(n=3), ContinuousSpace(size=2), MultiDiscreteSpace(nvec=(2, 3))]
)
def test_a_published_version_is_a_target(space):
    spec = PolicySpec(observation_shape=(3,), action=space, hidden=(8,))
    policy = initial_checkpoint(spec, seed=0)
    target, rng = PolicyTarget(policy), np.random.default_rng(0)
    obs = rng.normal(size=(400, 3)).astype(np.float32)
    actions, probabilities = target.choices(obs, None)
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(400))
    if isinstance(space, DiscreteSpace):
        each = [target.log_probs(obs, np.full(400, a), None) for a in range(3)]
        assert pytest.approx(probabilities) == np.exp(each).T
        mask = np.ones((400, 3), bool)
        mask[:, 1] = False
        assert (target.choices(obs, mask)[1][:, 1] == 0).all()
        return
    assert actions.shape == (400, 8, 2)
    if isinstance(space, MultiDiscreteSpace):
        assert actions.min() == 0
        assert actions.max(axis=(0, 1)).tolist() == [1, 2]
        return
    noise = actions - actions.mean(axis=1, keepdims=True)
    assert noise.std() == pytest.approx(np.exp(policy.weights["log_std"]).mean() * np.sqrt(7 / 8), rel=0.1)


def test_continuous_actions_have_a_value_too():
    """Reward -a² for one step: the value of a Gaussian policy is -(mean² + std²)."""
    spec = PolicySpec(observation_shape=(1,), action=ContinuousSpace(size=1), hidden=(4,))
    policy = initial_checkpoint(spec, seed=1)
    rng, n = np.random.default_rng(2), 1500
    obs = rng.normal(size=(n, 1)).astype(np.float32)
    action = (1.3 * rng.standard_normal((n, 1))).astype(np.float32)
    batch = Batch(
        obs=obs,
        final_obs=np.zeros_like(obs),
        action=action,
        reward=-(action[:, 0].astype(float) ** 2),
        logp=-0.5 * (action[:, 0].astype(float) / 1.3) ** 2 - np.log(1.3) - 0.5 * np.log(2 * np.pi),
        mask=None,
        policy_version=np.ones(n, np.int64),
        offsets=np.arange(n + 1),
        terminated=np.ones(n, bool),
        total_reward=np.zeros(n),
    )
    drawn, _ = PolicyTarget(policy, seed=5).choices(np.repeat(obs, 20, axis=0), None)
    truth = -(drawn.astype(float) ** 2).mean()
    logged = Logged.of(batch, PolicyTarget(policy), gamma=0.9)
    for method in ESTIMATORS:
        assert evaluate(logged, method=method).value == pytest.approx(truth, abs=0.2), method


def test_several_choices_at_once_have_a_value_too():
    """Reward 1 where both choices are 1, for one step."""
    spec = PolicySpec(observation_shape=(1,), action=MultiDiscreteSpace(nvec=(2, 2)), hidden=(4,))
    policy = initial_checkpoint(spec, seed=3)
    rng, n = np.random.default_rng(4), 1500
    obs = rng.normal(size=(n, 1)).astype(np.float32)
    action = rng.integers(2, size=(n, 2))
    batch = dataclasses.replace(
        draw(n, rng, most_steps=1),
        obs=obs,
        final_obs=np.zeros_like(obs),
        action=action,
        reward=action.all(axis=1).astype(float),
        logp=np.full(n, np.log(0.25)),
        terminated=np.ones(n, bool),
    )
    truth = np.exp(PolicyTarget(policy).log_probs(obs, np.ones_like(action), None)).mean()
    logged = Logged.of(batch, PolicyTarget(policy), gamma=0.9)
    for method in ESTIMATORS:
        assert evaluate(logged, method=method).value == pytest.approx(truth, abs=0.05), method


def test_a_fitted_q_of_too_many_actions_is_refused():
    spec = PolicySpec(observation_shape=(STATES,), action=DiscreteSpace(n=400), hidden=(4,))
    target = PolicyTarget(initial_checkpoint(spec, seed=0))
    many = Logged.of(draw(20, np.random.default_rng(5)), target, gamma=GAMMA)
    with pytest.raises(NotEvaluable, match="a fitted Q of 400 actions; accepted: cwpdis, wis or pdis"):
        evaluate(many, method="fqe")


def test_a_fitted_q_never_leaves_what_can_be_earned():
    """A target that the log hardly tells of, over a long horizon, reward 1 a step: free features ran away."""
    rng, lengths = np.random.default_rng(0), np.full(10, 300)
    n = int(lengths.sum())
    obs = rng.normal(size=(n, 3)).astype(np.float32)
    batch = Batch(
        obs=obs,
        final_obs=obs[:10],
        action=(rng.random(n) < 0.02).astype(np.int64),
        reward=np.ones(n),
        logp=np.full(n, np.log(0.5)),
        mask=None,
        policy_version=np.ones(n, np.int64),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        terminated=np.zeros(10, bool),
        total_reward=lengths.astype(float),
    )
    spec = PolicySpec(observation_shape=(3,), action=DiscreteSpace(n=2), hidden=(8,))
    fitted = FittedQ(Logged.of(batch, PolicyTarget(initial_checkpoint(spec, seed=0)), gamma=1.0))
    weights = np.stack(list(fitted.weights(np.ones((1, 10)))))[:, 0]
    assert weights == pytest.approx(np.tile(np.arange(301.0)[:, None], fitted.features.size), rel=1e-9)
