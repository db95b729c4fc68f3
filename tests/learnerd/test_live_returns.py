"""What versions earned: bounded, and the same after a restart."""

import json

import numpy as np
import pytest

from learnerd import live_returns
from learnerd.live_returns import MOST_VERSIONS, LiveReturns


def test_tallies_are_mean_and_standard_deviation():
    live, values = LiveReturns(), np.random.default_rng(0).normal(1e6, 1.0, 100)
    for value in values:
        live.add(7, float(value))
    live.add(8, 3.0)
    assert live.of(7)["n"] == 100
    assert live.of(7)["mean"] == pytest.approx(values.mean())
    assert live.of(7)["std"] == pytest.approx(values.std(ddof=1))
    assert live.of(8) == {"n": 1, "mean": 3.0, "std": None}
    assert live.of(9) is None


def test_the_newest_versions_are_remembered():
    live = LiveReturns()
    for version in range(1, MOST_VERSIONS + 4):
        live.add(version, 1.0)
    live.add(1, 1.0)
    assert len(live.state()) == MOST_VERSIONS
    assert live.of(1) is live.of(3) is None
    assert live.of(4) is not None


def test_the_file_is_read_back_and_any_other_is_none(tmp_path):
    live = LiveReturns()
    live.add(3, 1.5)
    live.add(3, 2.5)
    assert live_returns.read(tmp_path) == {}
    live_returns.write(tmp_path, {"versions": live.state()})
    assert live_returns.read_live(tmp_path).of(3) == live.of(3)
    path = tmp_path / "returns.json"
    for bad in ("", "[]", "{}", '{"schema": 2}', "[" * 100_000, '{"schema": 1, "versions": 3}'):
        path.write_text(bad)
        assert live_returns.read_live(tmp_path).state() == {}
    some = {"1": [1, 2], "x": [1, 2, 3], "2": [0, 1, 1], "3": [1, float("nan"), 0], "4": [1, 2.0, 0.0]}
    path.write_text(json.dumps({"schema": 1, "versions": some}))
    assert live_returns.read_live(tmp_path).state() == {"4": [1, 2.0, 0.0]}
