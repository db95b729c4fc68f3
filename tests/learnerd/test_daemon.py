"""The daemon as a real process, over real files."""

import json
import time

import numpy as np
import pytest

from policies.checkpoint import Delta
from policies.store import CheckpointStore

SPACES = """
[policy]
observation_shape = [3]
action = { kind = "discrete", n = 2 }
"""


def test_files_go_in_and_a_policy_comes_out(site, drop):
    for _ in range(20):
        drop()
    result = site.learnerd("run", "--until-idle")
    assert result.returncode == 0, result.stderr
    assert site.files("in") == []
    assert site.files("claimed") == []
    assert site.files("work") == []
    expected = sorted(f"episode-{i}" for i in range(1, 21))
    assert sorted(site.ledger_ids()) == expected
    assert sorted(site.archived_ids()) == expected
    manifest = site.manifest(site.current())
    assert manifest["episodes_total"] == 20
    assert manifest["updates_total"] == 2
    assert manifest["spec"]["observation_shape"] == [3]
    assert manifest["spec"]["action"] == {"kind": "discrete", "n": 2}
    status = site.status()
    assert status["episodes"]["learned"] == 20
    assert status["episodes"]["pending"] == 0
    assert status["policy"]["version"] == site.current()
    assert [alarm["id"] for alarm in status["alarms"]] == ["policy_inferred"]
    assert site.learnerd("run", "--until-idle").returncode == 9


def test_once_leaves_later_files_for_later(site, drop):
    drop()
    assert site.learnerd("run", "--once").returncode == 0
    assert site.manifest(1)["episodes_total"] == 1
    drop()
    assert site.learnerd("run", "--once").returncode == 0
    assert site.manifest(2)["episodes_total"] == 2
    assert site.manifest(2)["parents"] == [1]


def test_named_spaces_publish_initial_weights_before_ready(site):
    site.configure(SPACES)
    process = site.start()
    assert site.current() == 1
    assert site.manifest(1)["updates_total"] == 0
    assert site.stop(process) == 0


def test_sigterm_learns_what_is_waiting_and_publishes(site, drop):
    site.configure("[batch]\nmax_wait_s = 3600.0")
    process = site.start()
    for _ in range(3):
        drop()
    site.wait(lambda: len(site.files("claimed")) == 3, what="three claims")
    assert site.current() is None
    assert site.stop(process) == 0
    assert len(site.ledger_ids()) == 3
    assert site.files("claimed") == []
    assert site.learnerd("status").returncode == 3


def test_a_second_daemon_is_turned_away(site):
    process = site.start()
    assert site.learnerd("run").returncode == 5
    assert process.poll() is None
    assert site.stop(process) == 0


def test_a_config_for_another_policy_is_refused(site, drop):
    drop()
    assert site.learnerd("run", "--once").returncode == 0
    site.configure("[policy]\nhidden = [8]")
    result = site.learnerd("run", "--once")
    assert result.returncode == 6
    assert "[policy] hidden is [8]; accepted: [64, 64]" in result.stderr


def bad_files(site, drop):
    """One of each kind of bad input; name -> (verdict, reason, field)."""
    good = drop("good.npz").read_bytes()
    (site.inbox / "cut.npz").write_bytes(good[: len(good) // 2])
    (site.inbox / "huge.npz").write_bytes(good + bytes(200_000))
    drop("pickled.npz", obs=np.array([{"a": 1}] * 6, dtype=object))
    drop("nan.npz", reward=np.array([1.0, np.nan, 0.0, 0.0, 0.0]))
    drop("wide.npz", width=9)
    drop("future_version.npz", meta={"policy_version": 999})
    drop("old.npz", meta={"ended_at": time.time() - 7200})
    (site.inbox / "notes.txt").write_text("hello")
    return {
        "cut.npz": ("quarantined", "truncated", "zip directory"),
        "huge.npz": ("quarantined", "too_large", "file size"),
        "pickled.npz": ("quarantined", "pickled", "obs"),
        "nan.npz": ("quarantined", "not_finite", "reward[1]"),
        "wide.npz": ("refused", "observation_width", "obs"),
        "future_version.npz": ("refused", "unknown_version", "policy_version"),
        "old.npz": ("refused", "too_old", "ended_at"),
        "notes.txt": ("quarantined", "unknown_format", None),
    }


def test_each_bad_file_gets_one_record_and_the_rest_goes_on(site, drop):
    site.configure(SPACES + "[admission]\nsettle_s = 0.1\nmax_file_bytes = 100000")
    expected = bad_files(site, drop)
    for _ in range(3):
        drop()
    result = site.learnerd("run", "--until-idle")
    assert result.returncode == 0, result.stderr
    records = [json.loads(line) for line in (site.state / "outcomes.jsonl").read_text().splitlines()]
    found = {record["name"]: record for record in records}
    assert len(found) == len(records) == len(expected)
    for name, (verdict, reason, field) in expected.items():
        record = found[name]
        assert (record["verdict"], record["reason"]) == (verdict, reason), record
        assert field is None or record["field"] == field, record
        assert record["value"], record
        assert record["accepted"], record
        folder = "refused" if verdict == "refused" else "quarantine"
        assert site.files(folder, reason), name
    assert len(site.ledger_ids()) == 4
    status = site.status()
    assert sum(status["episodes"]["refused"].values()) == 3
    assert sum(status["episodes"]["quarantined"].values()) == 5


def test_the_same_episode_again_is_dropped_and_counted(site, drop):
    first = drop("a.npz").read_bytes()
    assert site.learnerd("run", "--once").returncode == 0
    (site.inbox / "b.npz").write_bytes(first)
    drop("c.npz", meta={"episode_id": "episode-1"})
    assert site.learnerd("run", "--until-idle").returncode == 0
    assert site.status()["episodes"]["refused"] == {"duplicate": 1, "conflicting_duplicate": 1}
    assert site.ledger_ids() == ["episode-1"]


@pytest.mark.parametrize(
    "patch",
    [
        "Spool.archive = lambda *a, **k: os._exit(77)",
        "Spool.finish = lambda *a, **k: os._exit(77)",
    ],
    ids=["between publish and archive", "between archive and unlink"],
)
def test_a_crash_after_publish_then_an_online_save_learns_nothing_twice(site, drop, patch):
    for _ in range(10):
        drop()
    site.run_and_crash(patch)
    assert len(site.ledger_ids()) == 10
    assert len(site.files("claimed")) == 10

    store = CheckpointStore(site.state)
    base = store.head()
    change = np.ones_like(base.weights["policy.0.bias"], np.float64)
    saved = store.publish(Delta(weights={"policy.0.bias": change}), base=base, writer="online", episodes=[])
    assert saved.version == base.version + 1

    drop()
    assert site.learnerd("run", "--until-idle").returncode == 0
    expected = sorted(f"episode-{i}" for i in range(1, 12))
    assert sorted(site.ledger_ids()) == expected
    assert sorted(site.archived_ids()) == expected
    assert site.files("claimed") == []
    assert site.manifest(site.current())["episodes_total"] == 11
    assert site.status()["episodes"]["refused"] == {}


def test_a_file_whose_daemon_dies_while_reading_it_is_read_again(site, drop):
    for _ in range(4):
        drop()
    site.run_and_crash(
        "import learnerd.admission; learnerd.admission.Admission._sort = lambda *a: os._exit(77)"
    )
    for _ in range(4):  # more often than a file that kills its decoder would survive
        site.run_and_crash("import learnerd.cycle; learnerd.cycle.Cycle.run = lambda *a: os._exit(77)")
    assert site.learnerd("run", "--until-idle").returncode == 0
    assert sorted(site.ledger_ids()) == [f"episode-{i}" for i in range(1, 5)]


def test_replay_rebuilds_the_same_weights(site, drop):
    for _ in range(12):
        drop()
    assert site.learnerd("run", "--until-idle").returncode == 0
    for _ in range(9):
        drop(meta={"policy_version": 1}, logp=None)
    assert site.learnerd("run", "--until-idle").returncode == 0
    result = site.learnerd("replay", "--json")
    assert result.returncode == 0, result.stderr
    rows = json.loads(result.stdout)["batches"]
    assert sum(row["episodes"] for row in rows) == 21
    assert [row["same_weights"] for row in rows] == [True] * len(rows)
    shown = site.learnerd("replay")
    assert "21 episodes" in shown.stdout
    assert "same" in shown.stdout
