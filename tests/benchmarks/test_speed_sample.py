"""A small part of each benchmark of speed: that it runs, and that a missed target is shown as one."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import speed
from speed_figures import Figure, percentile, side_by_side


@pytest.mark.parametrize("name", speed.MODULES)
def test_each_benchmark_runs(name, tmp_path, capsys):
    assert speed.main(["--small", "--only", name, "--out", str(tmp_path)]) == 0
    figures, shown = json.loads((tmp_path / "speed.json").read_bytes())["figures"], capsys.readouterr().out
    assert figures
    for figure in figures:
        assert figure["value"] >= 0
        assert f"| {figure['work']} |" in shown
        assert (figure["most"] is None) != (figure["least"] is None)


def test_a_missing_peer_is_named_with_its_extra(tmp_path, monkeypatch):
    for name in ("stable_baselines3", "speed_update", "update", "update_contenders"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    with pytest.raises(SystemExit, match=r"stable_baselines3 is not installed.*learnerd\[bench\]"):
        speed.main(["--small", "--only", "update", "--out", str(tmp_path)])


def test_a_missed_target_is_shown():
    least = Figure(work="a", value=3.0, unit="x", least=8.0)
    most = Figure(work="b", value=8.0, unit="µs", most=8.0)
    assert "| a | 3 x | ≥ 8 x | missed |" in speed.table([least, most])
    assert "| b | 8 µs | ≤ 8 µs | reached |" in speed.table([least, most])


def test_works_take_turns():
    order, ticks = [], iter(range(100))
    found = side_by_side(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2, clock=lambda: next(ticks)
    )
    assert order == ["a", "b"] * 3  # once to warm up
    assert found == {"a": 1, "b": 1}


def test_percentiles_are_values_that_occurred():
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile([3.0, 1.0, 2.0], 99) == 3.0
