"""The backtest: literals, a slow second version, and the command."""

import json
import math
from functools import partial

import numpy as np
import pandas as pd
import pytest

from experience.archive import write_shard
from learnerd.backtest import cvar, ledger, max_drawdown, rows, sharpe
from learnerd.errors import LearnerdError

DAY = 86_400.0
MONDAY = 1_700_438_400.0  # 2023-11-20 00:00 UTC


def segment(make_episode, name, number, actions, rewards, *, version=1, day=0, client="trader", **fields):
    return make_episode(
        name,
        steps=len(actions),
        segment=number,
        client_id=client,
        action=np.asarray(actions, np.float32 if np.ndim(actions) == 2 else np.int64),
        reward=np.asarray(rewards, np.float64),
        logp=None,
        terminated=False,
        truncated=True,
        policy_version=version,
        ended_at=MONDAY + day * DAY + number,
        **fields,
    )


def test_figures_of_a_handful_of_profits():
    net = np.array([1.0, -2.0, 3.0, -1.0, -1.5, 2.0])
    assert max_drawdown(net) == 2.5
    assert max_drawdown(np.array([-1.0, -1.0, 3.0])) == 2.0
    assert max_drawdown(np.array([1.0, 2.0])) == 0.0
    assert cvar(net, 0.05) == -2.0
    assert cvar(net, 0.5) == -1.5
    assert sharpe(np.array([1.0, 3.0]), None) == pytest.approx(math.sqrt(2.0))
    assert sharpe(np.array([1.0, 3.0]), 9.0) == pytest.approx(3 * math.sqrt(2.0))
    assert sharpe(np.array([1.0, 1.0]), None) is None


def test_positions_are_carried_from_segment_to_segment_and_begin_flat(make_episode):
    sessions = [
        segment(make_episode, "a", 1, [1, 0], [0.5, -1.0]),
        segment(make_episode, "a", 0, [0, 1, 1], [1.0, 2.0, -3.0]),
        segment(make_episode, "b", 3, [1], [4.0]),
    ]
    found = ledger(sessions, {0: -1.0, 1: 1.0}, cost=0.1)
    assert found.gross.tolist() == [1.0, 2.0, -3.0, 0.5, -1.0, 4.0]
    assert found.traded.tolist() == [1.0, 2.0, 0.0, 0.0, 2.0, 1.0]
    assert found.net == pytest.approx([0.9, 1.8, -3.0, 0.5, -1.2, 3.9])
    (all_,) = (row for row in rows(found, per="version") if row.group == "all")
    assert (all_.profit, all_.costs, all_.turnover) == pytest.approx((2.9, 0.6, 6.0))
    assert (all_.win_rate, all_.max_drawdown) == pytest.approx((4 / 6, 3.7))


def test_the_action_is_the_position_if_nothing_else_is_said(make_episode):
    continuous = segment(make_episode, "c", 0, [[0.5, 9.0], [-0.5, 9.0]], [1.0, 1.0])
    found = ledger([continuous], None, cost=1.0)
    assert found.traded.tolist() == [0.5, 1.0]
    discrete = segment(make_episode, "d", 0, [0, 1, 1, 0], [0.0] * 4)
    assert ledger([discrete], None, cost=1.0).traded.tolist() == [0.0, 1.0, 0.0, 1.0]


def test_groups_by_version_day_and_week(make_episode):
    steps = np.array([3, 3, 4])
    sessions = [
        segment(make_episode, "a", 0, [1, 1, 1], [1.0, 1.0, 1.0], version=10),
        segment(make_episode, "b", 0, [1, 1, 1], [2.0] * 3, version=2, day=1),
        segment(make_episode, "c", 0, [1, 1, 1], [4.0] * 3, day=7, policy_version_step=steps),
    ]
    found = ledger(sessions, None, cost=0.0)
    by = {per: {row.group: row.profit for row in rows(found, per=per)} for per in ("version", "day", "week")}
    assert by["version"] == {"2": 6.0, "3": 8.0, "4": 4.0, "10": 3.0, "all": 21.0}
    assert by["day"] == {"2023-11-20": 3.0, "2023-11-21": 6.0, "2023-11-27": 12.0, "all": 21.0}
    assert by["week"] == {"2023-W47": 9.0, "2023-W48": 12.0, "all": 21.0}
    assert list(by["version"]) == ["2", "3", "4", "10", "all"]


@pytest.mark.parametrize("per", ["version", "day", "week"])
def test_figures_equal_those_of_pandas(make_episode, per):
    rng = np.random.default_rng(0)
    sessions = [
        segment(
            make_episode,
            f"s{session}",
            number,
            rng.integers(3, size=20),
            rng.normal(size=20).round(1),
            version=int(rng.integers(1, 5)),
            day=session,
        )
        for session in range(10)
        for number in range(3)
    ]
    mapping = {0: -1.0, 1: 0.0, 2: 1.0}
    figures = rows(ledger(sessions, mapping, cost=0.05), per=per, steps_per_year=252.0)
    found = {row.group: row for row in figures}
    table = pd.concat([frame(episode, mapping) for episode in sessions])
    table = table.sort_values(["session", "segment"], kind="stable")
    before = table.groupby("session").position.shift(fill_value=0.0)
    table["traded"] = (table.position - before).abs()
    table["net"] = table.gross - 0.05 * table.traded
    table = table.sort_values("ended_at", kind="stable")
    when = pd.to_datetime(table.ended_at, unit="s", utc=True)
    keys = {
        "version": table.version.astype(str),
        "day": when.dt.strftime("%Y-%m-%d"),
        "week": when.dt.strftime("%G-W%V"),
    }
    for name, group in [*table.groupby(keys[per]), ("all", table)]:
        net, row = group.net, found[name]
        summed = net.cumsum()
        assert row.steps == len(net)
        assert (row.profit, row.turnover) == pytest.approx((net.sum(), group.traded.sum()))
        assert row.costs == pytest.approx(0.05 * group.traded.sum())
        assert row.sharpe == pytest.approx(net.mean() / net.std() * math.sqrt(252.0))
        assert row.max_drawdown == pytest.approx((summed.cummax().clip(lower=0.0) - summed).max())
        assert row.cvar == pytest.approx(net.nsmallest(math.ceil(0.05 * len(net))).mean())
        assert row.win_rate == pytest.approx((net > 0).sum() / (net != 0).sum())
    assert len(found) == keys[per].nunique() + 1


def frame(episode, mapping):
    return pd.DataFrame(
        {
            "session": episode.episode_id,
            "segment": episode.segment,
            "ended_at": episode.ended_at,
            "version": episode.policy_version,
            "gross": episode.reward,
            "position": [mapping[int(action)] for action in episode.action],
        }
    )


def test_an_action_without_a_position_is_named(make_episode):
    with pytest.raises(LearnerdError, match="episode a has action 2; named: 0=-1, 1=1"):
        ledger([segment(make_episode, "a", 0, [0, 2], [0.0, 0.0])], {0: -1.0, 1: 1.0}, cost=0.0)


@pytest.fixture
def archive(tmp_path, make_episode):
    (tmp_path / "config.toml").write_text("")
    folder = tmp_path / "spool" / "archive" / "2023-11-20"
    folder.mkdir(parents=True)
    sessions = [segment(make_episode, "a", i, [0, 1, 1], [1.0, -2.0, 4.0], version=i + 1) for i in range(3)]
    for i, episode in enumerate(sessions):
        write_shard(folder / f"{i + 1:08d}.parquet", [episode])
    return tmp_path


@pytest.fixture
def backtest(archive, in_process):
    return partial(in_process, archive, "backtest")


def test_the_command(archive, backtest):
    document = json.loads(
        backtest("--position", "0=-1,1=1", "--cost", "0.5", "--png", "out.png", "--json").out
    )
    assert [row["group"] for row in document["rows"]] == ["1", "2", "3", "all"]
    first, *_, last = document["rows"]
    assert (first["profit"], first["turnover"], first["costs"]) == (1.5, 3.0, 1.5)
    assert (last["profit"], last["turnover"]) == (9.0 - 0.5 * 11.0, 11.0)
    assert (archive / "out.png").read_bytes().startswith(b"\x89PNG")
    text = backtest("--per", "week", "--unit", "pips", "--steps-per-year", "252").out
    assert "2023-W47" in text
    assert "money in pips; profit after costs; Sharpe ratio a year of 252 steps" in text
    assert "money in the rewards' unit; profit after costs" in backtest().out


def test_bad_options_are_named(archive, backtest):
    bad = backtest("--position", "x", code=2).err
    assert 'accepted: action, or pairs such as "0=-1,1=1"' in bad
    assert "accepted: a number > 0" in backtest("--steps-per-year", "0", code=2).err
    assert "accepted: action, or pairs" in backtest("--position", "0=nan,1=1", code=2).err
    assert "accepted: a number > 0" in backtest("--steps-per-year", "inf", code=2).err
    assert "--cost inf; accepted: a number >= 0" in backtest("--cost", "inf", code=2).err
    assert "there is no folder nowhere" in backtest("--png", "nowhere/out.png", code=2).err
    assert "no archived episode" in backtest("--client", "nobody", code=9).err
    (archive / "spool/archive/2023-11-20/00000002.parquet").write_bytes(b"torn")
    assert "00000002.parquet" in backtest(code=1).err
