"""`versions` on a store of the store's own making: list, show, diff, pin, rollback."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experience.episode import EpisodeKey
from learnerd import live_returns
from policies.checkpoint import Delta, LedgerEntry
from policies.initial import initial_checkpoint
from policies.manifest import version_folder
from policies.scratch import hold
from policies.spec import DiscreteSpace, PolicySpec
from policies.store import CheckpointStore

SPEC = PolicySpec(observation_shape=(2,), action=DiscreteSpace(n=2), hidden=(3,))
FOREVER = {"keep_every": 0, "keep_minutes": 0.0, "keep_bytes": 10**12}


def entry(name, total_reward):
    return LedgerEntry(key=EpisodeKey("bot", name, 0, ""), row_sha256="0" * 64, total_reward=total_reward)


@pytest.fixture
def state(tmp_path):
    """Versions 1 to 5; each learns two episodes, that returned its number and 0."""
    (tmp_path / "config.toml").write_text("")
    store = CheckpointStore(tmp_path / "state")
    head = initial_checkpoint(SPEC, seed=0)
    for number in range(1, 6):
        entries = [entry(f"{number}a", float(number)), entry(f"{number}b", 0.0)]
        change = Delta(weights={"policy.0.bias": np.ones(3)}, counters={"updates": 1})
        head = store.publish(change, base=head, writer="daemon", episodes=entries)
    return tmp_path / "state"


def versions(state, *arguments, code=0, columns="200"):
    result = subprocess.run(
        [sys.executable, "-m", "learnerd", "versions", *arguments],
        cwd=state.parent,
        env={**os.environ, "COLUMNS": columns, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == code, result.stderr
    return result


def listed(state):
    return {row["version"]: row for row in json.loads(versions(state, "list", "--json").stdout)}


def test_rollback_and_its_traces(state):
    document = json.loads(versions(state, "rollback", "2", "--reason", "fell", "--json").stdout)
    assert document == {"version": 6, "to": 2, "rejected": [[3, 5]], "reason": "fell"}
    rows = listed(state)
    assert rows[6]["rollback_to"] == 2
    assert [version for version, row in rows.items() if row["rejected_by"] == 6] == [3, 4, 5]
    assert [version for version, row in rows.items() if row["current"]] == [6]
    assert CheckpointStore(state).head().writer == "operator"
    text = versions(state, "list").stdout
    assert "current; rollback to 2" in text
    assert "rejected by 6" in text
    assert "rejected by 6" in versions(state, "show", "4").stdout
    shown = versions(state, "show", "6").stdout
    assert "rollback: reason fell, rejected [[3, 5]], to 2" in shown
    again = versions(state, "rollback", "2", code=9)
    assert "has the weights of version 2 already" in again.stderr
    assert "version 7 has the weights of version 4; rejected: 5-6" in versions(state, "rollback", "4").stdout


def test_what_cannot_be_gone_back_to_is_refused_with_what_can(state):
    store = CheckpointStore(state)
    store.pin(2)
    assert store.prune(keep_last=2, now_s=time.time() + 9, **FOREVER) == [1, 3]
    path = version_folder(state, 4) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    pruned = versions(state, "rollback", "3", code=1).stderr
    assert "version 3 has been pruned; accepted: 2, 5 (`learnerd versions list`)" in pruned
    assert "version 4 is damaged: model.safetensors" in versions(state, "rollback", "4", code=1).stderr
    assert "there is no version 9; accepted: 2, 5" in versions(state, "rollback", "9", code=1).stderr
    assert "Usage" in versions(state, "rollback", "0", code=2).stderr
    assert store.highest_used() == 5


@pytest.mark.slow
def test_a_busy_store_can_be_tried_again(state):
    with hold(state / "lock" / "publish", 1.0):
        assert "StoreBusy" in versions(state, "rollback", "2", code=5).stderr
    assert CheckpointStore(state).head().version == 5


def test_a_pin_outlives_retention_and_is_taken_back(state):
    assert "version 1 is pinned" in versions(state, "pin", "1").stdout
    versions(state, "pin", "1")
    assert listed(state)[1]["pinned"]
    store = CheckpointStore(state)
    assert store.prune(keep_last=1, now_s=time.time() + 9, **FOREVER) == [2, 3]
    assert "no version 2" in versions(state, "pin", "2", code=1).stderr
    versions(state, "unpin", "1")
    versions(state, "unpin", "1", code=9)
    assert store.prune(keep_last=1, now_s=time.time() + 9, **FOREVER) == [1]


def test_returns_of_what_was_learned_and_of_what_was_earned(state):
    live = live_returns.LiveReturns()
    for value in (1.0, 2.0, 6.0):
        live.add(4, value)
    live_returns.write(state, {"versions": live.state()})
    rows = listed(state)
    assert [rows[version]["return_mean"] for version in (1, 2, 5)] == [0.5, 1.0, 2.5]
    assert (rows[4]["live"]["n"], rows[4]["live"]["mean"], rows[5]["live"]) == (3, 3.0, None)
    assert "3 (3)" in versions(state, "list").stdout
    document = json.loads(versions(state, "show", "4", "--json").stdout)
    assert document["ledger"] == {"episodes": 2, "clients": {"bot": 2}, "return_mean": 2.0}
    assert document["live"]["n"] == 3
    assert "ledger: 2 episodes (2 of bot)" in versions(state, "show", "4").stdout


def test_a_version_is_one_line_where_nobody_looks_at_a_terminal(state):
    _, header, *lines = versions(state, "list", columns="60").stdout.splitlines()
    assert header.split()[:2] == ["version", "saved"]
    assert [line.split()[0] for line in lines] == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize("columns", [80, 100])
def test_nothing_is_cut_off_on_a_usual_terminal(state, columns, monkeypatch, in_process):
    monkeypatch.setattr("learnerd.cli.options.width_of", lambda _: columns)
    lines = in_process(state.parent, "versions", "list").out.splitlines()
    assert max(map(len, lines)) <= columns
    assert not any("…" in line for line in lines)
    whole = [line for line in lines if re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", line)]
    assert len(whole) == (5 if columns == 100 else 0)


def test_diff(state):
    found = json.loads(versions(state, "diff", "2", "5", "--json").stdout)
    assert found["versions"] == [2, 5]
    bias = found["weights"]["policy.0.bias"]
    assert bias["old"] == pytest.approx(2 * 3**0.5)
    assert bias["difference"] == pytest.approx(3 * 3**0.5)
    assert bias["relative"] == pytest.approx(1.5)
    assert found["weights"]["policy.1.weight"]["difference"] == 0.0
    assert found["weights"]["all"]["difference"] == pytest.approx(3 * 3**0.5)
    assert (found["counters"]["episodes"], found["counters"]["updates"]) == ([4, 10], [2, 5])
    assert found["episodes"] == 6
    assert list(found["weights"])[:-1] == sorted(SPEC.shapes())
    assert "updates: 2 -> 5 (+3)" in versions(state, "diff", "2", "5").stdout
    assert "no version 9" in versions(state, "diff", "2", "9", code=1).stderr
    (version_folder(state, 3) / "model.safetensors").write_bytes(b"")
    assert "version 3 is damaged" in versions(state, "diff", "3", "5", code=1).stderr
