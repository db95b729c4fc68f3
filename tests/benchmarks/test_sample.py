"""A small part of each benchmark: that it runs, that a seed gives the same again, what its figures mean."""

import math
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import drift
import evaluation
import staleness
import staleness_cells
import update
import update_contenders
from staleness_cells import Cell, Curve, Result
from staleness_play import AcrobotLanes, Player

from policies.behavior import log_probs
from policies.initial import initial_checkpoint
from policies.spec import DiscreteSpace, PolicySpec


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(staleness_cells, "BATCHES", {"CartPole-v1": 3, "Acrobot-v1": 1})
    monkeypatch.setattr(staleness_cells, "FINAL_EPISODES", 4)


@pytest.mark.parametrize(
    "cell",
    [
        Cell(task="CartPole-v1", learner="learnerd", lag=2, mixed=True, batches="1..100", online=True),
        Cell(task="CartPole-v1", learner="sb3", lag=1),
    ],
)
def test_the_same_seed_gives_the_same_run(short, cell):
    one, two = (staleness_cells.run(cell, 3) for _ in range(2))
    assert (one.final, one.returns) == (two.final, two.returns)
    assert len(one.episodes) == 3
    assert one.returns != staleness_cells.run(cell, 4).returns


def test_estimates_are_ranked_against_the_environment(monkeypatch):
    assert evaluation.spearman([1.0, 2.0, 3.0], [10.0, 20.0, 15.0]) == pytest.approx(0.5)
    assert evaluation.ranks([5.0, 1.0, 5.0]).tolist() == [1.5, 0.0, 1.5]
    monkeypatch.setattr(evaluation, "POLICIES", 3)
    monkeypatch.setattr(evaluation, "TRUE_EPISODES", 4)
    truth, rows, counts = evaluation.run(0, updates=4, episodes=9, gamma=1.0, methods=["cwpdis", "fqe"])
    assert list(truth) == [0, 2, 4]
    assert [row[:2] for row in rows] == [
        (log, m) for log in ("one", "three", "all") for m in ("cwpdis", "fqe")
    ]
    assert all(-1.0 <= row[2] <= 1.0 and 0.0 < row[4] <= 1.0 for row in rows)
    assert counts["cwpdis"][1] <= 1


def test_every_contender_and_factor_is_in_the_tables():
    default, full = staleness_cells.default_cells(), staleness_cells.full_cells()
    assert {cell.learner for cell in default} == {"learnerd", "ppo", "sb3", "reinforce"}
    assert len(set(default)) == len(default)
    assert set(default) <= set(full)


def result(cell, final, *, collapsed=False):
    return Result(
        cell=cell,
        seed=0,
        final=final,
        collapsed=collapsed,
        episodes=[8],
        returns=[final],
        steps_to_475=math.nan,
        seconds=1.0,
        learning_s=0.5,
    )


def test_a_missed_goal_is_shown(tmp_path):
    cell = Cell(task="CartPole-v1", learner="learnerd", lag=16)
    reached = staleness.table([result(cell, 500.0), result(cell, 480.0)])
    assert "| 490 | 480 | 490 / 450 | 0 of 2 |" in reached
    missed = staleness.table([result(cell, 500.0), result(cell, 449.0, collapsed=True)])
    assert "| 474 | 449 | missed: 490 / 450 | 1 of 2 |" in missed
    staleness.plot([result(cell, 500.0)], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_a_collapse_is_half_of_the_own_best_above_the_floor():
    def curve(task, returns):
        made = Curve(task)
        made._returns, made._steps = [float(value) for value in returns], [10] * len(returns)
        return made

    assert not curve("CartPole-v1", [400] * 100 + [210] * 100).collapsed
    assert curve("CartPole-v1", [400] * 100 + [190] * 100).collapsed
    assert not curve("Acrobot-v1", [-100] * 100 + [-290] * 100).collapsed
    assert curve("Acrobot-v1", [-100] * 100 + [-310] * 100).collapsed
    assert not curve("Acrobot-v1", [-460] * 100 + [-500] * 100).collapsed
    assert curve("CartPole-v1", [475] * 100).steps_to_475 == 1000
    assert math.isnan(curve("CartPole-v1", [475] * 99).steps_to_475)


@pytest.mark.parametrize("task", ["CartPole-v1", "Acrobot-v1"])
def test_what_is_played_is_what_the_policy_would_have_done(task):
    player = Player(task, seed=0)
    width, actions = (4, 2) if task == "CartPole-v1" else (6, 3)
    spec = PolicySpec(observation_shape=(width,), action=DiscreteSpace(n=actions), hidden=(8,))
    old, new = (initial_checkpoint(spec, seed=seed) for seed in (1, 2))
    episodes = player.play([(1, old), (2, new), (1, old)])
    assert [episode.policy_version for episode in episodes] == [1, 2, 1]
    for episode, policy in zip(episodes, (old, new, old), strict=True):
        assert episode.terminated != episode.truncated
        np.testing.assert_allclose(episode.logp, log_probs(policy, episode.obs[:-1], episode.action))


def test_many_acrobots_move_as_gymnasiums_own():
    lanes, rng = AcrobotLanes(), np.random.default_rng(0)
    lanes.reset(3, seed=1)
    singles = [gymnasium.make("Acrobot-v1") for _ in range(3)]
    for single, state in zip(singles, lanes._state.T, strict=True):
        single.reset()
        single.unwrapped.state = state.copy()
    live = np.arange(3)
    for _ in range(500):
        action = np.where(rng.random(len(live)) < 0.9, 2 * (lanes._state[3, live] > 0), 1)
        obs, reward, terminated, truncated = lanes.step(live, action)
        for i, row in enumerate(zip(obs, reward, terminated, truncated, strict=True)):
            expected = singles[live[i]].step(int(action[i]))
            np.testing.assert_allclose(row[0], expected[0], atol=1e-4)
            assert row[1:] == expected[1:4]
        live = live[~(terminated | truncated)]
        if not len(live):
            break
    assert 20 < lanes._steps < 500


def test_a_change_of_the_world_is_one():
    lanes = drift.ChangingLanes("CartPole-v1", 1)
    before = lanes.reset(2, 5)
    lanes.change()
    after = lanes.reset(2, 5)
    assert not np.array_equal(before, after)
    np.testing.assert_array_equal(np.sort(np.abs(before)), np.sort(np.abs(after)))


def test_drift_runs():
    means, left = drift.run(("l2_init", 0), changes=2, episodes=16)
    assert means.shape == (2, 2)
    assert (means > 5).all()
    assert "| l2_init |" in drift.table({"l2_init": [(means, left)]})


@pytest.mark.parametrize("path", ["numpy", "torch"])
def test_the_updates_compared_are_the_same(path):
    assert update_contenders.furthest(update_contenders.batch_of(8, 16), 2, path=path) < 1e-6


def test_each_contender_of_the_update_benchmark_learns():
    batch = update_contenders.batch_of(2, 5)
    learner, run = update_contenders.ours(batch, update.TEXTBOOK)
    model, train = update_contenders.sb3(batch, 1)
    loops = [update_contenders.Reinforce(batch) for _ in range(2)]
    before = loops[0].net[0].weight.detach().clone()
    for call in (run, train, loops[0].batched, loops[1].step_by_step):
        call()
    ours, (batched, looped) = learner.weights()["policy.0.weight"], (loop.net[0].weight for loop in loops)
    assert not torch.equal(batched, before)
    torch.testing.assert_close(batched, looped, rtol=0, atol=1e-6)
    start = update_contenders.checkpoint().weights["policy.0.weight"]
    assert not np.array_equal(ours, start)
    assert not np.array_equal(model.policy.state_dict()["mlp_extractor.policy_net.0.weight"].numpy(), start)


def test_the_floor_is_every_product_of_a_minibatch(monkeypatch):
    products = update_contenders.products(1024, heads=(2, 1))
    made = []
    monkeypatch.setattr(np, "matmul", lambda a, b, out: made.append(a.shape[0] * a.shape[1] * b.shape[1]))
    products(3)
    forward = 15 * 64 + 64 * 64
    backward = 2 * forward - 15 * 64  # nobody asks for the gradient in the observations
    assert sum(made) == 3 * 1024 * (2 * (forward + backward) + 3 * (2 + 1) * 64)


def test_the_update_benchmark_runs():
    results = [(case, update.measure(case, 1)) for case in update.cases(steps=64, episodes=3)]
    for case, rates in results:
        assert rates.keys() == case.contenders.keys()
        assert {len(each) for each in rates.values()} == {1}
        assert case.goals.keys() <= rates.keys()
    assert update.table(results).count("\n") == 2 + sum(len(rates) for _, rates in results)


def test_a_ratio_is_within_a_round():
    case = update.Case(name="c", contenders={}, goals={"sb3": 7.0, "floor": 0.5})
    rates = {update.OURS: [70.0, 7.0, 14.0], "sb3": [10.0, 1.0, 1.0], "floor": [100.0, 100.0, 100.0]}
    assert update.line(case, "sb3", rates).endswith("| 7.00 | reached: 7 |")
    assert update.line(case, "floor", rates).endswith("| 0.14 | missed: 0.5 |")
    assert update.line(case, update.OURS, rates).endswith("|  |  |")
